"""Means over a loader, weighted by samples, kept on the device; no metric formulas live here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import HookError

# Values wait in a list and are summed together: one kernel for 128 steps instead of one per step.
FOLD_EVERY = 128
_OWN_RECORDS = (type(None), bool, int, float, str, list, tuple, dict, Tensor)


class RunningMeans:
    """Means of named values, each weighted by the number of samples that it stands for.

    Tensors stay on their device until `compute`; a name that appears only in some batches is averaged over
    the samples of those.

    Examples
    --------
    >>> means = RunningMeans()
    >>> for value, samples in zip([1.0, 0.0, 2.0, 3.0], [10, 5, 15, 25]):
    ...     means.update({"loss": value}, samples)
    >>> round(means.compute()["loss"], 4)
    2.0909
    """

    def __init__(self) -> None:
        self._means: dict[str, Mean] = {}

    def update(self, values: Mapping[str, Any], samples: int) -> None:
        """Add one batch's values.

        Parameters
        ----------
        values : mapping of str to a number or a tensor with one element
        samples : int
            Number of samples in the batch.

        Raises
        ------
        HookError
            For a value that is not one number.
        """
        for name, value in values.items():
            # A copy: a parameter or a buffer may change in place before it is folded. A step's loss is new anyway.
            self.add(name, value.detach().clone() if isinstance(value, Tensor) else value, samples)

    def add(self, name: str, value: Any, samples: int) -> None:
        """Add one value, as `update` does."""
        mean = self[name]
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise HookError(
                    f"batch_metrics[{name!r}] has the shape {tuple(value.shape)}; a metric is one number per batch. "
                    f"Write self.batch_metrics[{name!r}] = value.float().mean()."
                )
            if samples != mean.weight or len(mean.waiting) >= FOLD_EVERY:
                mean.fold(samples)
            mean.waiting.append(value.detach())
        else:
            mean.add_number(value, samples)

    def compute(self) -> dict[str, float]:
        """Return the means so far; the one place where tensors are read back."""
        means = {name: mean.compute() for name, mean in self._means.items()}
        return {name: value for name, value in means.items() if value is not None}

    def totals(self) -> dict[str, tuple[float, int]]:
        """Return for every name the weighted sum and the samples that it stands for, read back as `compute` does."""
        totals = {name: mean.total() for name, mean in self._means.items()}
        return {name: total for name, total in totals.items() if total[1]}

    def state_dict(self) -> dict[str, Any]:
        """Return the means under way, not folded: they go on to the same last bit."""
        return {name: mean.state_dict() for name, mean in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; the means that were handed out are changed in place."""
        for name, values in state.items():
            self[name].load_state_dict(values)

    def __getitem__(self, name: str) -> Mean:
        """Return the mean of one name, for a loop that adds to it without a call."""
        mean = self._means.get(name)
        if mean is None:
            mean = self._means[name] = Mean(name)
        return mean


def merged_means(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one state of `RunningMeans` for those of several ranks."""
    totals: dict[str, Mean] = {}
    for state in states:
        means = RunningMeans()
        means.load_state_dict(state)
        for name, (total, count) in means.totals().items():
            mean = totals.setdefault(name, Mean(name))
            mean.number += total
            mean.count += count
    return {name: mean.state_dict() for name, mean in totals.items()}


class Mean:
    """One weighted mean: `waiting` tensors of one `weight`, and what was folded before."""

    __slots__ = ("count", "folded", "name", "number", "tensor", "waiting", "watch", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0  # samples, all together
        self.number = 0.0  # weighted sum of Python numbers
        self.tensor: Tensor | None = None  # weighted sum of folded tensors
        self.waiting: list[Tensor] = []  # tensors not yet folded, all of the same weight
        self.weight = 0
        self.folded = 0  # tensors
        # Sees what is folded, its weighted sum, and how many were folded before.
        self.watch: Callable[[Tensor, Tensor, int], None] | None = None

    def add_number(self, value: Any, samples: int) -> None:
        """Add a Python number."""
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise HookError(
                f"batch_metrics[{self.name!r}] is a {type(value).__name__}; give a number or a tensor."
            ) from error
        # What an empty batch gave, NaN mostly, stands for nothing.
        if samples:
            self.number += number * samples
            self.count += samples

    def fold(self, next_weight: int) -> None:
        """Sum the waiting tensors into `tensor`, without reading anything back."""
        if self.waiting and self.weight:
            device = self.waiting[0].device
            dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no double precision
            try:
                values = torch.stack(self.waiting)
            except RuntimeError:  # shapes () and (1,) mixed, or devices
                values = torch.stack([value.reshape(()).to(device) for value in self.waiting])
            folded = values.sum(dtype=dtype) * self.weight
            if self.watch is not None:
                self.watch(values, folded, self.folded)
            self.folded += len(self.waiting)
            self.tensor = folded if self.tensor is None else self.tensor + folded.to(self.tensor.device)
            self.count += self.weight * len(self.waiting)
        self.waiting = []
        self.weight = next_weight

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain data."""
        # One tensor for all: a file with hundreds of small ones is slow to write.
        waiting = torch.stack([value.reshape(()) for value in self.waiting]) if self.waiting else None
        return {
            "count": self.count,
            "number": self.number,
            "tensor": self.tensor,
            "waiting": waiting,
            "weight": self.weight,
            "folded": self.folded,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.count, self.number, self.tensor = state["count"], state["number"], state["tensor"]
        self.waiting = list(state["waiting"].unbind()) if state["waiting"] is not None else []
        self.weight, self.folded = state["weight"], state["folded"]

    def compute(self) -> float | None:
        """Return the mean, None when no sample was added."""
        total, count = self.total()
        return total / count if count else None

    def total(self) -> tuple[float, int]:
        """Return the weighted sum and the number of samples."""
        self.fold(self.weight)
        return self.number + (0.0 if self.tensor is None else self.tensor.item()), self.count
