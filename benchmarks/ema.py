"""What the moving average of the weights costs: ours and torch's, with its multi-tensor average.

Both average the same model of 10 million parameters after every step, in turn (A B A B ...), on one thread. The
ratio is the median over the rounds of the ratio in one round: neighbours in time share the machine's moods.
Before that both average the same steps, and must come to the same weights.

Usage::

    OMP_NUM_THREADS=1 python benchmarks/ema.py [--rounds 60]

The exit code is 1 where ours takes more than 1.1 times as long, or averages other weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from farabio_like import ConvnetTrainer
from farabio_like.callbacks.ema import EMA

BOUND = 1.1
DECAY = 0.999
STEPS = 5  # per round and contestant


class Job(ConvnetTrainer):
    def define_log_attr(self) -> None:
        self._logdir, self._verbose = None, False

    def define_compute_attr(self) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def build_model(self) -> None:
        torch.manual_seed(0)
        layers = [part for _ in range(38) for part in (nn.Linear(512, 512), nn.BatchNorm1d(512))]
        self.model = nn.Sequential(*layers)


def change(model: nn.Module) -> None:
    """Stand for a step of an optimizer."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)


def seconds(update: Callable[[], None], wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(STEPS):
        update()
    wait()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    trainer, ema = Job(), EMA(DECAY)
    trainer._run_state.progress.step = 1
    theirs = AveragedModel(trainer.model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    wait = torch.cuda.synchronize if trainer.device.type == "cuda" else lambda: None

    def our_update() -> None:
        ema.on_end_training_batch(trainer)

    def their_update() -> None:
        theirs.update_parameters(trainer.model)

    for _ in range(3):
        change(trainer.model)
        our_update()
        their_update()
    state = theirs.module.state_dict()
    difference = max(
        (value - state[key]).abs().max().item() for key, value in ema.model_state(trainer).items() if value.ndim
    )
    pairs = []
    for turn in range(rounds):
        first, second = (our_update, their_update) if turn % 2 else (their_update, our_update)
        one, other = seconds(first, wait), seconds(second, wait)
        pairs.append((one, other) if turn % 2 else (other, one))
    ratio = statistics.median(ours / torchs for ours, torchs in pairs)
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(
        f"{size:,} parameters in {len(list(trainer.model.parameters()))} tensors on {trainer.device}, {rounds} rounds"
    )
    for name, times in zip(("EMA", "AveragedModel (multi-tensor)"), zip(*pairs, strict=True), strict=True):
        print(f"{name:30} {statistics.median(times) / STEPS * 1e3:8.3f} ms per step")
    print(f"{'ratio':30} {ratio:8.3f}    (bound {BOUND})")
    print(f"{'largest difference':30} {difference:8.1e}    (bound 1e-7)")
    return int(ratio > BOUND or difference > 1e-7)


if __name__ == "__main__":
    sys.exit(main())
