"""A copy of a ``DataLoader`` that reads in an order of ours: after a start, with a seed and a count for each sample.

The user's own loader stays as it is. What a batch is and how its samples are counted is in `counting`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, default_collate

from ..duck_typing import attribute, has_methods, has_state, is_a
from ..rng import get_state, preserved_rng
from .counting import CountingCollate, WatchedStart
from .resumable import ResumePoint, after


def prepared(loader: Any, seed: tuple[Any, ...] | None, start: ResumePoint | None) -> DataLoader[Any] | None:
    """Return a copy of a ``DataLoader`` that reads as asked, None where the loader itself does.

    Parameters
    ----------
    loader : iterable of batches
    seed : tuple or None
        Together with a sample's index and its position in the order of the epoch, it seeds Python's, NumPy's and
        torch's generators before the sample is made: so its random numbers are the same for any number of workers and
        of ranks, after any resume, and others for each time that a sampler draws it.
    start : ResumePoint or None
        Where the pass goes on, see `passes_over`.
    """
    if not isinstance(loader, DataLoader) or has_state(loader):
        return None
    stream, own_loop = isinstance(loader.dataset, IterableDataset), not _has_torchs_loop(loader)
    seeds = seed is not None and not stream
    skips = start is not None and (passes_over(loader, seeds) or start.samples is not None)
    batches = loader.batch_sampler is not None
    counts = batches and not own_loop and loader.collate_fn is not default_collate
    watches = stream and loader.num_workers > 1 and not own_loop
    if not (seeds or skips or counts or watches):
        return None
    known = _kept.get(loader) if loader.persistent_workers else None
    if known is not None and not known.reads and known.collate is loader.collate_fn:
        # Workers that stay are not started anew, and so draw no number for that; the order is to be that of any others.
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        found = known.loader
    else:
        changes: dict[str, Any] = {"_iterator": None}
        if not stream:
            changes["batch_sampler" if batches else "sampler"] = _Order(_sampler_of(loader), batches)
        if seeds:
            changes["dataset"] = _Seeded(loader.dataset)
        if counts or watches:
            changes["collate_fn"] = CountingCollate(loader.collate_fn, batches)
        if watches:
            changes["worker_init_fn"] = WatchedStart(loader.worker_init_fn)
        found = copy.copy(loader)
        vars(found).update(changes)  # a DataLoader does not let one set them
        if loader.persistent_workers and (known is None or not known.reads):
            _kept[loader] = _Kept(found, loader.collate_fn)
    if not stream:
        order: Any = _sampler_of(found)
        order.seed, order.start = (seed if seeds else None), (start if skips else None)
    return found


def passes_over(loader: Any, seeds: bool) -> bool:
    """Return whether a loader can go on after a start without loading what comes before it.

    A ``DataLoader`` can over a dataset with a length, if it has no workers, or its samples have seeds of their own.
    """
    plain = isinstance(loader, DataLoader) and _has_torchs_loop(loader)
    return plain and not isinstance(loader.dataset, IterableDataset) and (loader.num_workers == 0 or seeds)


@contextlib.contextmanager
def reading(loader: DataLoader[Any]) -> Iterator[None]:
    """Note that a loader is being read: workers that stay can serve one pass at a time."""
    kept = next((kept for kept in list(_kept.values()) if kept.loader is loader), None)
    if kept is not None:
        kept.reads = True
    try:
        yield
    finally:
        if kept is not None:
            kept.reads = False


class _Kept:
    """The copy of a loader whose workers stay from pass to pass."""

    def __init__(self, loader: DataLoader[Any], collate: Any) -> None:
        self.loader, self.collate, self.reads = loader, collate, False


_kept: weakref.WeakKeyDictionary[DataLoader[Any], _Kept] = weakref.WeakKeyDictionary()


def _has_torchs_loop(loader: DataLoader[Any]) -> bool:
    return type(loader).__iter__ is DataLoader.__iter__ and "__iter__" not in vars(loader)


def _sampler_of(loader: DataLoader[Any]) -> Any:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


class _Place(NamedTuple):
    """The index of a sample, on its way to the process that loads it."""

    index: Any
    position: int  # in the order of the epoch
    seed: tuple[Any, ...]


class _Order:
    """A sampler without its first items; where there is a seed, its indices have places."""

    def __init__(self, sampler: Any, batches: bool) -> None:
        self.sampler, self.batches = sampler, batches
        self.seed: tuple[Any, ...] | None = None
        self.start: ResumePoint | None = None

    def __iter__(self) -> Iterator[Any]:
        # Not before the first item is asked for: workers that stay begin with the sampler of the pass before.
        start = self.start
        if start is not None and start.samples is not None and has_methods(self.sampler, "pass_over"):
            self.sampler.pass_over(start.samples)  # it divides each batch among ranks
            start = dataclasses.replace(start, batches=0, samples=None)
        yield from after(start, self.sampler if self.seed is None else self._placed(self.seed))

    def __len__(self) -> int:
        return len(self.sampler) - (0 if self.start is None else self.start.passed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sampler":  # while it is copied
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def _placed(self, seed: tuple[Any, ...]) -> Iterator[Any]:
        inner = self.sampler if isinstance(self.sampler, DistributedSampler) else attribute(self.sampler, "sampler")
        # A sampler that has divided the order among ranks gives each every n-th sample.
        first, step = (inner.rank, inner.num_replicas) if is_a(inner, DistributedSampler) else (0, 1)
        position = 0
        for chosen in self.sampler:
            if self.batches:
                chosen = list(chosen)
                # A rank's part of a batch says where it begins; the other parts are in between.
                position = attribute(self.sampler, "position", position)
                yield [_Place(one, first + step * (position + k), seed) for k, one in enumerate(chosen)]
                position += len(chosen)
            else:
                yield _Place(chosen, first + step * position, seed)
                position += 1


class _Seeded(Dataset[Any]):
    """A dataset whose samples depend on their index, their position and the seed, whoever loads them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.singly = not _fetches_batches(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Any) -> Any:
        if type(place) is not _Place:  # asked for by somebody else
            return self.dataset[place]
        with preserved_rng(devices=False):
            _seed(place)
            return self.dataset[place.index]

    def __getitems__(self, places: list[Any]) -> list[Any]:
        with preserved_rng(devices=False):
            if not self.singly:
                before = _numbers()
                batch = self.dataset.__getitems__([place.index for place in places])
                if before == _numbers():
                    return batch
                # It draws numbers for the batch as a whole, which then depend on who shares it.
                self.singly = True
            return [self._sample(place) for place in places]

    def _sample(self, place: _Place) -> Any:
        _seed(place)
        if _fetches_batches(self.dataset):
            return self.dataset.__getitems__([place.index])[0]
        return self.dataset[place.index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _seed(place: _Place) -> None:
    number = random.Random(repr((*place.seed, place.index, place.position))).getrandbits(63)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.random.default_generator.manual_seed(number)  # of the CPU alone


def _fetches_batches(dataset: Any) -> bool:
    """Return whether a dataset, or what a subset is of, has a way of its own to load several samples at once."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return has_methods(dataset, "__getitems__")


def _numbers() -> Any:
    state = get_state(devices=False)
    algorithm, keys, *others = state["numpy"]
    return state["python"], algorithm, keys.tobytes(), others, state["torch"].numpy().tobytes()
