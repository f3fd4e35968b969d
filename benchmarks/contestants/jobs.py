"""The three jobs that every contestant does: data, models, optimizer, and where the clock is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SEED = 0
READY_BATCH, DIGITS_BATCH, VALID_SAMPLES = 32, 64, 360


class Watch:
    """Reads a clock when the training steps number `first` and `last` begin, counted from 0.

    Parameters
    ----------
    first, last : int
    clock : callable
        Without arguments.
    """

    def __init__(self, first: int, last: int, clock: Callable[[], float]):
        self.first, self.last, self.clock = first, last, clock
        self.step = 0
        self.readings: list[float] = []

    def tick(self) -> None:
        """Notice that a training step begins."""
        if self.step in (self.first, self.last):
            self.readings.append(self.clock())
        self.step += 1

    @property
    def elapsed(self) -> float:
        start, end = self.readings
        return end - start


class Batches:
    """Ready batches in a list, and a watch that is read when its steps' batches are asked for."""

    def __init__(self, batches: list[Any], watch: Watch):
        self.batches, self.watch = batches, watch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        watch, start = self.watch, 0
        for step in (watch.first, watch.last):
            yield from self.batches[start:step]
            watch.readings.append(watch.clock())
            start = step
        yield from self.batches[start:]


class Mlp(nn.Sequential):
    """Linear, ReLU, Linear; tells its watch, where it has one, that a training step begins."""

    def __init__(self, inputs: int, hidden: int, outputs: int, watch: Watch | None = None):
        super().__init__(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
        self.watch = watch

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.watch is not None and self.training:
            self.watch.tick()
        return super().forward(inputs)


@dataclass
class Job:
    """What is to be trained, on which batches and for how long.

    Parameters
    ----------
    kind : str
        ``"empty"`` (the step does nothing), ``"ready"`` or ``"digits"``.
    model, criterion : nn.Module
    train : iterable of (inputs, targets)
    valid : iterable of (inputs, targets) or None
        Where given, each epoch ends with its mean loss and accuracy.
    epochs : int
    folder : str or None
        None for a bare run, else where a run with its library's defaults writes.
    """

    kind: str
    model: nn.Module
    criterion: nn.Module
    train: Iterable[Any]
    valid: Iterable[Any] | None
    epochs: int
    folder: str | None

    @property
    def bare(self) -> bool:
        return self.folder is None

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), **SGD)


SGD = {"lr": 0.1, "momentum": 0.9}


def make(kind: str, watch: Watch, folder: str | None = None, own_shuffle: bool = False) -> Job:
    """Return a new job; the same arguments give the same weights and the same batches.

    Parameters
    ----------
    kind : str
        ``"empty"``, ``"ready"`` or ``"digits"``.
    watch : Watch
        It also says how long the job is: a few steps, or the epoch, after its last reading.
    folder : str or None
    own_shuffle : bool
        Shuffle the digits by a generator of the loader's own instead of torch's global one.
    """
    torch.manual_seed(SEED)
    criterion = nn.CrossEntropyLoss()
    if kind != "digits":
        some = ready_batches()
        batches = [some[step % len(some)] for step in range(watch.last + 10)]
        return Job(kind, Mlp(64, 32, 10), criterion, Batches(batches, watch), None, 1, folder)
    # The loaders have to be plain ones, so the model sees to the watch.
    model = Mlp(64, 128, 10, watch)
    train_set, valid_set = digits()
    generator = torch.Generator().manual_seed(SEED) if own_shuffle else None
    train = DataLoader(train_set, batch_size=DIGITS_BATCH, shuffle=True, generator=generator)
    valid = DataLoader(valid_set, batch_size=DIGITS_BATCH)
    return Job(kind, model, criterion, train, valid, watch.last // len(train) + 1, folder)


def steps_per_epoch(kind: str) -> int:
    """Return the steps in an epoch of the digits; the other kinds have one epoch of any length, 1."""
    return -(-len(digits()[0]) // DIGITS_BATCH) if kind == "digits" else 1


@cache
def ready_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return a few random batches; an epoch goes round them."""
    generator = torch.Generator().manual_seed(SEED)
    return [
        (
            torch.randn(READY_BATCH, 64, generator=generator),
            torch.randint(10, (READY_BATCH,), generator=generator),
        )
        for _ in range(50)
    ]


@cache
def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's digits, a fixed random fifth of them for validation."""
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    targets = torch.tensor(data.target)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SEED))
    valid, train = order[:VALID_SAMPLES], order[VALID_SAMPLES:]
    return TensorDataset(images[train], targets[train]), TensorDataset(images[valid], targets[valid])
