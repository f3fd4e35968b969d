"""What an optimizer's step costs by its implementation: a loop over the tensors, ``foreach`` or ``fused``.

torch chooses by default (foreach on a GPU, the loop on a CPU), and the trainer leaves the choice to the user. The
three step the same gradients in turn, on one thread of the CPU, or on the GPU where there is one.

Usage::

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py [--rounds 20]

The exit code is 1 where their weights differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch import nn

STEPS = 10  # per round and implementation
KINDS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
MODELS = {"200 tensors of 64 x 64": (200, 64), "10 tensors of 1024 x 1024": (10, 1024)}
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() if DEVICE.type == "cuda" else time.process_time()


def compare(count: int, size: int, rounds: int) -> tuple[dict[str, float], float]:
    """Return milliseconds per step of each implementation, and the largest difference of their weights."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(size, size, generator=generator) for _ in range(count)]
    gradients = [torch.randn(size, size, generator=generator).to(DEVICE) for _ in range(count)]
    weights = {kind: [nn.Parameter(value.to(DEVICE, copy=True)) for value in start] for kind in KINDS}
    optimizers = {kind: torch.optim.Adam(weights[kind], **KINDS[kind]) for kind in KINDS}
    for parameters in weights.values():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds + 1):  # the first one warms up
        for kind, optimizer in optimizers.items():
            begun = now()
            for _ in range(STEPS):
                optimizer.step()
            times[kind].append((now() - begun) / STEPS * 1e3)
    pairs = [(one, other) for kind in KINDS for one, other in zip(weights["loop"], weights[kind], strict=True)]
    difference = max((one - other).abs().max().item() for one, other in pairs)
    return {kind: statistics.median(found[1:]) for kind, found in times.items()}, difference


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__} on {DEVICE}, Adam, milliseconds per step")
    print(f"{'':28}" + "".join(f"{kind:>10}" for kind in KINDS) + f"{'largest difference':>22}")
    worst = 0.0
    for name, (count, size) in MODELS.items():
        times, difference = compare(count, size, rounds)
        worst = max(worst, difference)
        print(f"{name:28}" + "".join(f"{times[kind]:10.3f}" for kind in KINDS) + f"{difference:22.1e}")
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
