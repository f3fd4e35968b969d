"""Which samples are in which fold: at random, with the same share of every class, groups whole. No trainer is known."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from ..errors import DataError


def split(
    samples: int, folds: int, labels: Sequence[Any] | None, groups: Sequence[Any] | None, seed: int
) -> list[list[int]]:
    """Return the indices of each fold, sorted.

    Without groups the folds' sizes differ by one at most, and so do those of every class. With groups each goes, the
    largest first, to the fold that is then nearest to the same share of every class.

    Parameters
    ----------
    samples, folds : int
    labels : sequence, optional
        The class of each sample.
    groups : sequence, optional
        What each sample belongs to.
    seed : int

    Raises
    ------
    DataError
        If there are too few samples or groups, and for labels or groups of another length.
    """
    for name, given in (("labels", labels), ("groups", groups)):
        if given is not None and len(given) != samples:
            raise DataError(f"there are {len(given)} {name} for {samples} samples; expected one for each.")
    classes = [0] * samples if labels is None else [_plain(label) for label in labels]
    units = list(range(samples)) if groups is None else [_plain(group) for group in groups]
    members: dict[Any, list[int]] = {}
    for index, unit in enumerate(units):
        members.setdefault(unit, []).append(index)
    if len(members) < folds:
        what = "samples" if groups is None else "groups"
        raise DataError(f"{folds} folds of {len(members)} {what}; expected as many {what} at least.")
    counts = Counter(classes)
    rare = [label for label, count in counts.items() if count < folds]
    if rare and labels is not None:
        warnings.warn(f"some folds have no sample of {rare}: there are fewer than {folds} of them.", stacklevel=3)
    shuffled = list(members.values())
    random.Random(seed).shuffle(shuffled)
    parts = _dealt(shuffled, classes, folds) if groups is None else _balanced(shuffled, classes, counts, folds)
    return [sorted(part) for part in parts]


def labels_of(data: Any) -> list[Any] | None:
    """Return the class of every sample where a data set tells it, else None."""
    if isinstance(data, Subset):
        found = labels_of(data.dataset)
        return None if found is None else [found[index] for index in data.indices]
    targets = data.tensors[1] if isinstance(data, TensorDataset) and len(data.tensors) == 2 else None
    targets = getattr(data, "targets", None) if targets is None else targets
    if isinstance(targets, Tensor):
        return targets.tolist() if targets.ndim == 1 and not targets.is_floating_point() else None
    if isinstance(targets, (list, tuple)) and all(isinstance(target, int) for target in targets):
        return list(targets)
    return None


def _dealt(units: list[list[int]], classes: list[Any], folds: int) -> list[list[int]]:
    """Deal single samples out like cards, class after class."""
    parts: list[list[int]] = [[] for _ in range(folds)]
    ordered = sorted((unit[0] for unit in units), key=lambda index: repr(classes[index]))
    for place, index in enumerate(ordered):
        parts[place % folds].append(index)
    return parts


def _balanced(units: list[list[int]], classes: list[Any], counts: Counter[Any], folds: int) -> list[list[int]]:
    """Give each group to the fold in which the shares of its classes are the smallest so far."""
    parts: list[list[int]] = [[] for _ in range(folds)]
    shares = [dict.fromkeys(counts, 0.0) for _ in range(folds)]
    for place, unit in enumerate(sorted(units, key=len, reverse=True)):
        own = Counter(classes[index] for index in unit)
        left = len(units) - place
        empty = [fold for fold in range(folds) if not parts[fold]]
        allowed = empty if len(empty) >= left else range(folds)  # no fold stays empty
        best = min(allowed, key=lambda fold: (_cost(shares[fold], own, counts), len(parts[fold])))
        parts[best] += unit
        for label, count in own.items():
            shares[best][label] += count / counts[label]
    return parts


def _cost(shares: dict[Any, float], own: Counter[Any], counts: Counter[Any]) -> float:
    """Return by how much the squares of a fold's shares grow with a group: least where they are evenest."""
    return sum((shares[label] + n / counts[label]) ** 2 - shares[label] ** 2 for label, n in own.items())


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
