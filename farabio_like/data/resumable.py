"""Going on in a loader after so many batches, and random numbers that depend on the sample alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..duck_typing import has_methods, has_state
from ..errors import CheckpointError
from ..rng import preserved_rng


@dataclass
class ResumePoint:
    """Where a resumed pass over a loader goes on.

    Parameters
    ----------
    batches : int
        So many were trained before.
    ready : callable
        Called once between the choice of the first batch that is left and its loading: it gives the random
        numbers the state that they had then.
    loader : dict or None
        The state of a loader that can go on by itself.
    say : callable
        Gets a line for the terminal where batches are read again.
    """

    batches: int
    ready: Callable[[], None]
    loader: dict[str, Any] | None
    say: Callable[[str], None]
    taken: bool = False  # `rest` saw to it


def after(start: ResumePoint | None, chosen: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of `chosen` after the start; the generators are made ready before the first of them."""
    iterator = iter(chosen)
    if start is not None:
        for _ in islice(iterator, start.batches):
            pass
        start.ready()
    yield from iterator


def rest(loader: Any, start: ResumePoint) -> Iterator[Any]:
    """Return an iterator over the batches of a loader after the start.

    Nothing that is passed over is loaded where that is exact: for lists, loaders with a ``state_dict``, and a
    ``DataLoader`` over a dataset with a length that has no workers or whose samples have seeds of their own.
    Other loaders are read from their beginning, and what was trained before is dropped.
    """
    if type(loader) in (list, tuple):
        return after(start, loader)
    if start.loader is not None and has_state(loader):
        try:
            loader.load_state_dict(start.loader)
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint has a state for the train loader that it cannot take: {type(error).__name__}: {error}"
            ) from error
        return _from_here(iter(loader), start)
    if (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
        and (loader.num_workers == 0 or isinstance(loader.dataset, _Seeded))
    ):
        part = "sampler" if loader.batch_sampler is None else "batch_sampler"
        return iter(_with(loader, {part: _Rest(getattr(loader, part), start)}))
    start.say(f"{start.batches} batches are read again and dropped, to go on where the run stopped")
    return after(start, loader)


def _from_here(iterator: Iterator[Any], start: ResumePoint) -> Iterator[Any]:
    start.ready()  # making the iterator drew a number
    yield from iterator


class _Rest:
    """A sampler without its first items."""

    def __init__(self, sampler: Iterable[Any], start: ResumePoint) -> None:
        self.sampler = sampler
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        return after(self.start, self.sampler)

    def __len__(self) -> int:
        return len(self.sampler) - self.start.batches  # type: ignore[arg-type]


def _with(loader: DataLoader[Any], changes: dict[str, Any]) -> DataLoader[Any]:
    """Return a copy of a loader with other parts, which a DataLoader does not let one set."""
    changed = copy.copy(loader)
    vars(changed).update(changes, _iterator=None)
    return changed


def seeded(loader: Any, seed: tuple[Any, ...]) -> Any:
    """Return the loader with a seed for every sample: the same for any number of workers, after any resume.

    Only a ``DataLoader`` over a dataset with a length is changed.

    Parameters
    ----------
    loader : iterable of batches
    seed : tuple
        Together with the sample's index, it seeds Python's, NumPy's and torch's generators before each sample.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or has_state(loader):
        return loader
    return _with(loader, {"dataset": _Seeded(loader.dataset, seed)})


class _Seeded(Dataset[Any]):
    """A dataset whose samples depend on their index and the seed, whoever loads them."""

    def __init__(self, dataset: Any, seed: tuple[Any, ...]) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        with preserved_rng(devices=False):
            return self._sample(index)

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        with preserved_rng(devices=False):
            if has_methods(self.dataset, "__getitems__"):
                self._start(tuple(indices))
                return self.dataset.__getitems__(indices)
            return [self._sample(index) for index in indices]

    def _sample(self, index: Any) -> Any:
        self._start(index)
        return self.dataset[index]

    def _start(self, index: Any) -> None:
        number = random.Random(repr((*self.seed, index))).getrandbits(63)
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.random.default_generator.manual_seed(number)  # of the CPU alone

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)
