"""What a checkpoint costs: the time of a save, how long a background save holds training up, resuming, bytes.

    python benchmarks/checkpoint.py                 (half a minute on two CPU cores)
    python benchmarks/checkpoint.py --megabytes 400 --rounds 5 --folder /mnt/data

The sides take turns in one process. Bounds are held against each side's fastest round, since other processes and
the disk's own work only add; the medians stand beside. A save is compared with
``torch.save`` of the same state into an open file, flush and fsync, as one would write it by hand; ours
includes the SHA-256, the rename and the sync of the folder. How long a background save holds the training
thread is compared with a plain copy of the state's tensors. Exits with 1 past a bound.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from farabio_like import ConvnetTrainer, checkpoint
from farabio_like.resume import capture, saving

SAVE_BOUND, HELD_BOUND, BYTES_BOUND = 1.5, 1.1, 1.01
SAVE_AIM = 1.25


class Job(ConvnetTrainer):
    """One linear layer after another; half of the state is the optimizer's momentum."""

    def define_misc_attr(self):
        self._verbose, self._num_epochs, self._save_epoch = False, 1, 10**6
        self._logdir, self._device = self.config.folder, "cpu"

    def get_trainloader(self):
        inputs = torch.randn(2, self.config.width)
        self.train_loader = [(inputs, inputs)]

    def build_model(self):
        width = self.config.width
        self.model = nn.Sequential(*(nn.Linear(width, width) for _ in range(self.config.layers)))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)


def tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def seconds(work: Callable[[], Any]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


class Times(list[float]):
    """The times of one side."""

    def __str__(self) -> str:
        return f"{min(self) * 1e3:10.2f} {statistics.median(self) * 1e3:10.2f} ms"


def by_hand(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def alternate(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[Times, Times]:
    """Return the times of both sides, which take turns and change places every round; the first one is practice."""
    times: dict[Callable[[], Any], list[float]] = {ours: [], theirs: []}
    for number in range(rounds + 1):
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            times[side].append(side())
    return Times(times[ours][1:]), Times(times[theirs][1:])


def measure(folder: Path, layers: int, width: int, rounds: int) -> dict[str, Any]:
    """Return the figures of one size, in seconds and bytes."""
    torch.manual_seed(0)
    trainer = Job({"folder": str(folder / "runs"), "layers": layers, "width": width})
    trainer.train()
    run, writer = trainer._run_state.folder, trainer._run_state.writer
    assert run is not None
    state = capture.capture_run(trainer)
    ours, theirs = folder / "ours.ckpt", folder / "by_hand.pt"
    found = dict(
        zip(
            ("save", "torch.save"),
            alternate(
                rounds,
                lambda: seconds(lambda: checkpoint.save(state, ours)),
                lambda: seconds(lambda: by_hand(state, theirs)),
            ),
            strict=True,
        )
    )
    parts = tensors(state)

    def held() -> float:
        time = seconds(lambda: saving.write(trainer, [run.last]))
        writer.finish()
        return time

    trainer._async_checkpoint = True
    # The copies die after the clock was read, as those of the writer do.
    found["held"], found["copy"] = alternate(
        rounds, held, lambda: seconds(lambda: copies.__setitem__(0, [part.clone() for part in parts]))
    )
    copies.clear()
    trainer._async_checkpoint = False
    found["whole"] = Times(seconds(lambda: saving.write(trainer, [run.last, run.best])) for _ in range(rounds))
    found["read"] = Times(seconds(lambda: checkpoint.read(run.last)) for _ in range(rounds))
    again = Job({"folder": str(folder / "runs"), "layers": layers, "width": width})
    again._num_epochs = 1
    found["resume"] = Times([seconds(lambda: again.train(resume=run.last))])
    found["bytes"] = run.last.stat().st_size
    found["tensors"] = sum(part.numel() * part.element_size() for part in parts)
    return found


copies: dict[int, Any] = {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the state (default 200)")
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement (default 9)")
    parser.add_argument("--folder", help="where to write (default: the current folder's disk)")
    given = parser.parse_args()
    width = 1024
    layers = max(1, round(given.megabytes * 1e6 / (width * width + width) / 8))
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=given.folder or ".") as folder:
        large = measure(Path(folder), layers, width, given.rounds)
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=given.folder or ".") as folder:
        small = measure(Path(folder), 2, 64, 2 * given.rounds)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.rounds} rounds\n")
    rows = [
        ("save: ours, with SHA-256", "save"),
        ("save: torch.save + fsync", "torch.save"),
        ("background: training is held", "held"),
        ("background: a plain copy", "copy"),
        ("last.ckpt and best.ckpt, all", "whole"),
        ("read and check a file", "read"),
        ("train(resume=file), all", "resume"),
    ]
    for size, found in (("large", large), ("small", small)):
        print(f"{size}, {found['bytes']:,} bytes on the disk, {found['tensors']:,} in tensors")
        print(f"{'':32}{'fastest':>10} {'median':>10}")
        for label, name in rows:
            print(f"{label:32}{found[name]}")
        print()
    checked = [
        ("save / (torch.save + fsync)", min(large["save"]) / min(large["torch.save"]), SAVE_BOUND, f", aim {SAVE_AIM}"),
        ("held / plain copy", min(large["held"]) / min(large["copy"]), HELD_BOUND, ""),
        ("bytes / tensors", large["bytes"] / large["tensors"], BYTES_BOUND, ""),
    ]
    for label, value, bound, more in checked:
        print(f"{label:32}{value:9.3f}   bound {bound}{more}   {'ok' if value <= bound else 'TOO MUCH'}")
    return int(any(value > bound for _, value, bound, _ in checked))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
