"""What precision, accumulation, clipping and memory format cost and bring: ours and a loop by hand.

Both train the same small convolutional network with the same switches, in turn (A B A B ...), on one thread of the
CPU, or on the GPU where there is one. The ratio is the median over the rounds of the ratio in one round: neighbours
in time share the machine's moods. On the CPU, seconds are those of the processor. A row past its bound is measured
again, twice at most: what other work on the machine disturbs once passes then, what is slower does not. At the end
both must have the same weights, bit for bit. With fp16, which few CPUs multiply natively, there are half the rounds.

Usage::

    OMP_NUM_THREADS=1 python benchmarks/precision.py [--rounds 10]

The exit code is 1 where ours takes more than 1.02 times as long, or has other weights.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from farabio_like import ConvnetTrainer

BOUND = 1.02
STEPS = 8  # per round and side
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SWITCHES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32, channels_last": {"_channels_last": True},
    "fp32, clip_norm": {"_clip_norm": 1.0},
    "fp32, 4 accumulated": {"_accumulation_steps": 4},
    "bf16": {"_precision": "bf16"},
    "bf16, all of it": {"_precision": "bf16", "_channels_last": True, "_accumulation_steps": 4, "_clip_norm": 1.0},
    "fp16": {"_precision": "fp16"},
}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(STEPS, 16, 3, 24, 24, generator=generator)
    labels = torch.randint(0, 10, (STEPS, 16), generator=generator)
    return [(x.to(DEVICE), y.to(DEVICE)) for x, y in zip(images, labels, strict=True)]


class Job(ConvnetTrainer):
    """Times its epochs, and after each of them one of the loop by hand."""

    def define_compute_attr(self) -> None:
        self._logdir, self._verbose, self._use_tqdm, self._has_eval = None, False, False, False
        self._device, self._num_epochs = DEVICE, self.config.rounds
        for name, value in self.config.switches.items():
            setattr(self, name, value)
        self.by_hand, self.their_model = by_hand(self.config.switches)
        self.pairs: list[tuple[float, float]] = []

    def get_trainloader(self) -> None:
        self.train_loader = batches()

    def build_model(self) -> None:
        self.model, self.criterion = network(), nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def on_train_epoch_start(self) -> None:
        self.begun = now()

    def on_epoch_end(self) -> None:
        between = now()
        self.by_hand()
        self.pairs.append((between - self.begun, now() - between))


def by_hand(switches: dict[str, Any]) -> tuple[Callable[[], Any], nn.Module]:
    precision, steps = switches.get("_precision", "fp32"), switches.get("_accumulation_steps", 1)
    clip, last = switches.get("_clip_norm"), switches.get("_channels_last", False)
    model, criterion, data = network().to(DEVICE), nn.CrossEntropyLoss(), batches()
    if last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=precision == "fp16")
    parameters = list(model.parameters())

    def context() -> contextlib.AbstractContextManager[Any]:
        if precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(DEVICE.type, DTYPES[precision])

    def epoch() -> float:
        model.train()
        total = torch.zeros((), device=DEVICE)
        for index, (x, y) in enumerate(data):
            if last:
                x = x.to(memory_format=torch.channels_last)
            if index % steps == 0:
                optimizer.zero_grad()
            with context():
                loss = criterion(model(x), y)
            scaler.scale(loss).backward()
            total += loss.detach()
            if (index + 1) % steps == 0:
                scaler.unscale_(optimizer)
                if steps > 1:
                    torch._foreach_div_([p.grad for p in parameters], steps)
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                scaler.step(optimizer)
                scaler.update()
        return total.item() / len(data)

    return epoch, model


def now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def compare(switches: dict[str, Any], rounds: int) -> tuple[float, float, float, bool]:
    """Return milliseconds per step of both sides, their ratio, and whether the weights are equal."""
    job = Job({"switches": switches, "rounds": rounds + 2})
    job.train()
    pairs = job.pairs[2:]
    ratio = statistics.median(one / other for one, other in pairs)
    our_ms, their_ms = (statistics.median(times) / STEPS * 1e3 for times in zip(*pairs, strict=True))
    weights = zip(job.model.state_dict().values(), job.their_model.state_dict().values(), strict=True)
    return our_ms, their_ms, ratio, all(torch.equal(one, other) for one, other in weights)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "one thread of the CPU"
    print(f"torch {torch.__version__}, {name}, {rounds} rounds of {STEPS} batches of 16 images of 24 x 24")
    print(f"{'':22} {'ours':>9} {'by hand':>9}   ms per batch, {'ratio':>6}   weights")
    failed = False
    for label, switches in SWITCHES.items():
        for _ in range(3):
            fewer = rounds // 2 if switches.get("_precision") == "fp16" else rounds
            our_ms, their_ms, ratio, equal = compare(switches, fewer)
            bad = ratio > BOUND or not equal
            if not bad:
                break
        failed = failed or bad
        print(
            f"{label:22} {our_ms:9.3f} {their_ms:9.3f}   {'':13} {ratio:6.3f}   {'equal' if equal else 'DIFFERENT'}"
            f"{'   <- past the bound' if bad else ''}"
        )
    print(f"bound of the ratio: {BOUND}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
