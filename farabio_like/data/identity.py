"""Which samples a loader has, told without loading one: to see whether two loaders have the same, or share some."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

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

MOST_TOLD = 5_000  # rows of tensors, say; of more, some are looked at
DEEPEST = 6  # data sets within data sets
_ROWS = (list, tuple, np.ndarray, Tensor)


class Told(NamedTuple):
    """The samples of a data set: how many, and what yields a text for one of them, the same in every process."""

    length: int
    tell: Callable[[int], str]


def samples_of(loader: Any) -> Told | None:
    """Return what tells the samples of a loader, None where that cannot be done without loading them.

    A sample is told by its index in the data set that a ``Subset`` or a ``SubsetRandomSampler`` chooses from; by its
    content, where that is in memory; or by its entry in the lists and arrays that a data set of the user's has for all
    of its samples: names of files, say.
    """
    if isinstance(loader, (list, tuple)):
        return Told(len(loader), lambda i: str(digest(loader[i])))
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler = attribute(loader, "sampler")
    if is_a(sampler, SubsetRandomSampler):
        return Told(len(sampler.indices), lambda i: str(int(sampler.indices[i])))
    return of_dataset(loader.dataset)


def of_dataset(dataset: Any, depth: int = 0) -> Told | None:
    """Return what tells the samples of a data set, see `samples_of`."""
    if depth > DEEPEST:
        return None
    if isinstance(dataset, Subset):
        return Told(len(dataset.indices), lambda i: str(int(dataset.indices[i])))
    if isinstance(dataset, (list, tuple)):
        return Told(len(dataset), lambda i: str(digest(dataset[i])))
    if isinstance(dataset, TensorDataset):
        return Told(len(dataset), lambda i: str(digest([tensor[i] for tensor in dataset.tensors])))
    if isinstance(dataset, ConcatDataset):
        parts = [of_dataset(part, depth + 1) for part in dataset.datasets]
        return _joined([part for part in parts if part is not None]) if None not in parts else None
    length, own = length_of(dataset), own_attributes(dataset) or {}
    columns = [column for column in own.values() if type(column) in _ROWS and length_of(column) == length]
    if length is not None and columns:
        return Told(length, lambda i: str(digest([column[i] for column in columns])))
    inner = [part for part in own.values() if is_a(part, Dataset)]
    return of_dataset(inner[0], depth + 1) if len(inner) == 1 else None


def _joined(parts: list[Told]) -> Told:
    every = [(k, i) for k, part in enumerate(parts) for i in range(part.length)]
    return Told(len(every), lambda i: f"{every[i][0]}:{parts[every[i][0]].tell(every[i][1])}")


def length_of(dataset: Any) -> int | None:
    """Return the length of a data set, None where it has none."""
    try:
        return len(dataset)
    except Exception:  # whatever a method of the user's raises
        return None


def fingerprint(loader: Any) -> dict[str, Any] | None:
    """Return what tells the samples of a loader from others, None for a stream or an iterable.

    Returns
    -------
    dict or None
        ``length``; ``samples``, a digest that does not depend on their order; and ``order``, one that does. Those are
        None where the samples cannot be told, ``samples`` also where they are too many to be told one by one.
    """
    dataset = loader if isinstance(loader, (list, tuple)) else attribute(loader, "dataset")
    return None if dataset is None else fingerprint_of(dataset, samples_of(loader))


def fingerprint_of(dataset: Any, told: Told | None) -> dict[str, Any] | None:
    """Return what tells the samples of a data set, see `fingerprint`."""
    length = length_of(dataset)
    if isinstance(dataset, IterableDataset) or length is None:
        return None
    if told is None:
        return {"length": length, "samples": None, "order": None}
    whole = told.length <= MOST_TOLD
    chosen = range(told.length) if whole else np.linspace(0, told.length - 1, 1000).astype(int).tolist()
    ordered, unordered = hashlib.sha256(), 0
    for i in chosen:
        one = hashlib.sha256(told.tell(i).encode()).digest()
        ordered.update(one)
        unordered = (unordered + int.from_bytes(one, "big")) % 2**256
    samples = f"{unordered:064x}" if whole else None
    return {"length": told.length, "samples": samples, "order": ordered.hexdigest()}


def choices(loader: Any) -> dict[str, Any]:
    """Return what chooses samples in a loader by indices, by its place: each ``Subset``, a ``SubsetRandomSampler``."""
    found: dict[str, Any] = {}
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        _find_choices(loader.dataset, "dataset", found, 0)
        sampler = attribute(loader, "sampler")
        if is_a(sampler, SubsetRandomSampler):
            found["sampler"] = sampler
    return found


def _find_choices(dataset: Any, where: str, found: dict[str, Any], depth: int) -> None:
    if depth > DEEPEST:
        return
    if isinstance(dataset, Subset):
        found[where] = dataset
    inside = own_attributes(dataset) or {}
    for name, part in inside.items():
        if is_a(part, Dataset):
            _find_choices(part, f"{where}.{name}", found, depth + 1)
    if isinstance(dataset, ConcatDataset):
        for k, part in enumerate(dataset.datasets):
            _find_choices(part, f"{where}.datasets[{k}]", found, depth + 1)


def first_of(loader: Any, most: int = 64) -> tuple[str, ...] | None:
    """Return the texts of the first samples of a loader, None where they cannot be told."""
    told = samples_of(loader)
    return tuple(told.tell(i) for i in range(min(most, told.length))) if told is not None else None


def all_of(loader: Any) -> frozenset[str]:
    """Return the texts of all samples of a loader."""
    told = samples_of(loader)
    return frozenset(told.tell(i) for i in range(told.length)) if told is not None else frozenset()
