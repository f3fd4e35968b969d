"""Which samples a loader has, told without loading one: to see whether two loaders have the same, or share some."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from ..duck_typing import attribute, is_a, own_attributes
from .streams import digest

MOST_SAMPLES = 2_000_000  # that are told one by one
DEEPEST = 6  # data sets within data sets
_ROWS = (list, tuple, np.ndarray, Tensor)


def samples_of(loader: Any) -> Callable[[], Iterator[str]] | None:
    """Return what yields a number for each sample of a loader, None where that cannot be told without loading it.

    The same sample has the same number in another process. It is the index in the data set that a ``Subset`` or a
    ``SubsetRandomSampler`` chooses from, the content of what is in memory, or for a data set of the user's its entry
    in the lists and arrays that it has for all samples: names of files, say.
    """
    if isinstance(loader, (list, tuple)):
        return lambda: _told(map(digest, loader))
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    named = _of_dataset(loader.dataset, 0)
    sampler = attribute(loader, "sampler")
    if named is None or not is_a(sampler, SubsetRandomSampler):
        return named
    return lambda: (str(int(i)) for i in sampler.indices)


def _told(found: Iterator[str | None]) -> Iterator[str]:
    return ("?" if one is None else one for one in found)


def _of_dataset(dataset: Any, depth: int) -> Callable[[], Iterator[str]] | None:
    if depth > DEEPEST:
        return None
    if isinstance(dataset, Subset):
        # The index alone: the data set that it counts in is compared by itself.
        return lambda: (str(int(i)) for i in dataset.indices)
    if isinstance(dataset, (list, tuple)):
        return lambda: _told(map(digest, dataset))
    if isinstance(dataset, TensorDataset):
        return lambda: _told(digest([t[i] for t in dataset.tensors]) for i in range(len(dataset)))
    if isinstance(dataset, ConcatDataset):
        parts = [_of_dataset(part, depth + 1) for part in dataset.datasets]
        return None if None in parts else lambda: (one for part in parts for one in part())  # type: ignore[misc]
    try:
        length = len(dataset)
    except Exception:  # of the user's own method
        return None
    own = own_attributes(dataset) or {}
    columns = [column for column in own.values() if type(column) in _ROWS and _length(column) == length]
    if columns:
        return lambda: _told(digest([column[i] for column in columns]) for i in range(length))
    inner = [v for v in own.values() if is_a(v, Dataset)]
    return _of_dataset(inner[0], depth + 1) if len(inner) == 1 else None


def _length(column: Any) -> int | None:
    try:
        return len(column)
    except TypeError:  # an array of no dimension
        return None


def fingerprint(loader: Any) -> dict[str, Any] | None:
    """Return length and digest of the samples of a loader, None for one that is a stream or an iterable.

    Returns
    -------
    dict or None
        ``length``, and ``samples``, which is None where they cannot be told.
    """
    dataset = loader if isinstance(loader, (list, tuple)) else attribute(loader, "dataset")
    if dataset is None or isinstance(dataset, IterableDataset):
        return None
    try:
        length = len(dataset)
    except Exception:  # of the user's own method
        return None
    told = samples_of(loader)
    if told is None or length > MOST_SAMPLES:
        return {"length": length, "samples": None}
    found = hashlib.sha256()
    for one in told():
        found.update(one.encode() + b",")
    return {"length": length, "samples": found.hexdigest()}


def first_of(loader: Any, most: int = 64) -> tuple[str, ...] | None:
    """Return the numbers of the first samples of a loader, None where they cannot be told."""
    told = samples_of(loader)
    return tuple(islice(told(), most)) if told is not None else None


def all_of(loader: Any) -> frozenset[str]:
    """Return the numbers of all samples of a loader, of very large ones of the first."""
    told = samples_of(loader)
    return frozenset(islice(told(), MOST_SAMPLES)) if told is not None else frozenset()
