"""Networks, losses and windows of segmentation beside those of two libraries.

1. Networks: forward and backward of our four networks with a ResNet-34, beside segmentation_models_pytorch's four with
   the same encoder, at 4 x 3 x 256 x 256: time, and the peak memory of a process of its own (by Linux).
2. Losses: forward and backward beside segmentation_models_pytorch's, at 4 x 256 x 256 pixels, 5 classes.
3. `sliding_window` beside MONAI's ``sliding_window_inference``, over images of 700 x 900: time, and the values.

Both sides alternate on one thread (A B, B A, ...). The time of a round is the sum of the thread's own seconds, and the
ratio the median over the rounds of the ratio in one round: neighbours in time share the machine's moods.

Usage, in an environment of its own::

    pip install -e . -r benchmarks/requirements-segmentation.txt
    OMP_NUM_THREADS=1 python benchmarks/segmentation.py [--quick] [--only networks losses windows]

The exit code is 1 where ours takes more than 1.05 times the time or memory of a network, more than the time of a loss
or of the windows (medians repeat within 2 %, which are added), or gives other values of windows than 1e-5.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch import losses as theirs
from torch import Tensor, nn

from farabio_like import losses as ours
from farabio_like.inference import sliding_window
from farabio_like.models import segmentation

MOST = {"networks": 1.05, "memory": 1.05, "losses": 1.0, "windows": 1.0}
NOISE = 0.02  # within which medians repeat
CLOSEST = 1e-5
GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # large blocks go back at once
ENCODER = "resnet34"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "ResnetUnet": (
        lambda: segmentation.ResnetUnet(arch=ENCODER),
        lambda: smp.Unet(ENCODER, encoder_weights=None),
    ),
    "ResnetLinknet": (
        lambda: segmentation.ResnetLinknet(arch=ENCODER),
        lambda: smp.Linknet(ENCODER, encoder_weights=None),
    ),
    "ResnetFPNUnet": (
        lambda: segmentation.ResnetFPNUnet(arch=ENCODER),
        lambda: smp.FPN(ENCODER, encoder_weights=None),
    ),
    "ResnetPSPnet": (
        lambda: segmentation.ResnetPSPnet(arch=ENCODER),
        lambda: smp.PSPNet(ENCODER, encoder_weights=None),
    ),
}
Step = Callable[[], object]


def ratio_of(one: Step, other: Step, rounds: int) -> tuple[float, float, float]:
    """Return the median milliseconds of both, and the median of the rounds' ratios."""
    for step in (one, other, one, other):
        step()
    pairs = []
    for turn in range(rounds):
        first, second = (one, other) if turn % 2 else (other, one)
        times = seconds(first), seconds(second)
        pairs.append(times if turn % 2 else times[::-1])
    medians = [statistics.median(times) * 1e3 for times in zip(*pairs, strict=True)]
    return medians[0], medians[1], statistics.median(a / b for a, b in pairs)


def seconds(step: Step) -> float:
    start = time.thread_time()
    step()
    return time.thread_time() - start


def learning(model: nn.Module) -> Step:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 256, 256)

    def step() -> None:
        model.zero_grad()
        model(images).mean().backward()

    return step


def peak_of(name: str, side: int) -> float:
    """Return the peak memory in MiB of a process that learns with a network."""
    command = [sys.executable, __file__, "--side", name, str(side)]
    environment = {**os.environ, **GLIBC}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def peak(name: str, side: int) -> float:
    step = learning(NETWORKS[name][side]())
    for _ in range(2):
        step()
    # Not getrusage: its peak begins with that of the process that has started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) / 2**10


def compare_networks(rounds: int) -> int:
    failed = 0
    for name, (our, their) in NETWORKS.items():
        steps = [learning(make().train()) for make in (our, their)]
        mine, other, ratio = ratio_of(*steps, rounds)
        failed += line(name, mine, other, "ms", ratio, MOST["networks"])
        memory = peak_of(name, 0), peak_of(name, 1)
        failed += line("  peak memory", *memory, "MiB", memory[0] / memory[1], MOST["memory"])
    return failed


def backward(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Step:
    def step() -> None:
        logits.grad = None
        loss(logits, target).backward()

    return step


def compare_losses(rounds: int) -> int:
    torch.manual_seed(0)
    data = {
        "binary": (torch.randn(4, 1, 256, 256, requires_grad=True), (torch.rand(4, 1, 256, 256) < 0.3).float()),
        "multiclass": (torch.randn(4, 5, 256, 256, requires_grad=True), torch.randint(0, 5, (4, 256, 256))),
        "multilabel": (torch.randn(4, 5, 256, 256, requires_grad=True), (torch.rand(4, 5, 256, 256) < 0.3).float()),
    }
    options = {"TverskyLoss": {"alpha": 0.3, "beta": 0.7}}
    failed = 0
    for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "LovaszLoss", "FocalLoss"):
        for mode, pair in data.items():
            given = options.get(name, {})
            mine, their = getattr(ours, name)(mode, **given), getattr(theirs, name)(mode, **given)
            times = ratio_of(backward(mine, *pair), backward(their, *pair), rounds)
            failed += line(f"{name} {mode}", times[0], times[1], "ms", times[2], MOST["losses"] + NOISE)
    single = {
        "SoftBCELoss": (ours.SoftBCELoss("binary"), theirs.SoftBCEWithLogitsLoss(), "binary"),
        "SoftCELoss": (ours.SoftCELoss(smoothing=0.1), theirs.SoftCrossEntropyLoss(smooth_factor=0.1), "multiclass"),
        "MCCLoss": (ours.MCCLoss("binary"), after_sigmoid(theirs.MCCLoss()), "binary"),
    }
    for name, (mine, their, mode) in single.items():
        times = ratio_of(backward(mine, *data[mode]), backward(their, *data[mode]), rounds)
        failed += line(f"{name} {mode}", times[0], times[1], "ms", times[2], MOST["losses"] + NOISE)
    return failed


def after_sigmoid(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, target: loss(logits.sigmoid(), target)


def compare_windows(rounds: int) -> int:
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    image = torch.rand(1, 3, 700, 900)
    failed = 0
    for blend in ("gaussian", "constant"):

        def mine(blend: str = blend) -> Tensor:
            return sliding_window(model, image, 256, overlap=0.25, blend=blend, batch_size=4)  # type: ignore[arg-type]

        def their(blend: str = blend) -> Tensor:
            with torch.no_grad():
                return sliding_window_inference(image, (256, 256), 4, model, overlap=0.25, mode=blend)

        difference = (mine() - their()).abs().max().item()
        times = ratio_of(mine, their, rounds)
        failed += line(f"windows, {blend}", times[0], times[1], "ms", times[2], MOST["windows"] + NOISE)
        good = difference <= CLOSEST
        print(f"{'  largest difference':34} {difference:9.1e} (bound {CLOSEST}){'' if good else '  TOO LARGE'}")
        failed += not good
    return failed


def line(name: str, mine: float, their: float, unit: str, ratio: float, most: float) -> int:
    """Print a row of the table, and return 1 where the ratio is above its bound."""
    over = ratio > most
    print(f"{name:34} {mine:9.2f} {their:9.2f} {unit:4} {ratio:6.3f} (bound {most:g}){'  TOO SLOW' if over else ''}")
    sys.stdout.flush()
    return int(over)


PARTS = {"networks": (compare_networks, 15), "losses": (compare_losses, 60), "windows": (compare_windows, 20)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rounds: the figures are rough")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.side:
        print(peak(given.side[0], int(given.side[1])))
        return 0
    print(f"{'':34} {'ours':>9} {'theirs':>9}      ratio")
    failed = 0
    for name in given.only:
        compare, rounds = PARTS[name]
        failed += compare(max(3, rounds // 5) if given.quick else rounds)
    print(f"{failed} above their bound" if failed else "all within their bounds")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
