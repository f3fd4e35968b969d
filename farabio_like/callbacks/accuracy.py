"""`Accuracy`: how many predictions are right, or among the k best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .labels import LabelMetric
from .metric import add


class Accuracy(LabelMetric):
    """Measures the accuracy, and how often the true class is among the k with the highest scores.

    Names: ``accuracy``, ``accuracy_top3``, ... Of pixels or of several labels each it is the share of all entries.
    Of equal scores the one with the lower class counts as higher, as for ``argmax``. Nothing to count gives NaN.

    Parameters
    ----------
    top_k : sequence of int
    **options
        ``threshold``, ``ignore_index``, ``num_classes``, and the shapes: see `LabelMetric`. ``loaders``,
        ``prediction``, ``target``, ``prefix``: see `MetricCallback`.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For a k above the number of classes, or above 1 where there are no scores of classes.

    Examples
    --------
    ``self.callbacks = [Accuracy(top_k=(1, 5))]``
    """

    def __init__(self, top_k: Sequence[int] = (1,), **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(top_k, (list, tuple)) or not top_k or not all(type(k) is int and k > 0 for k in top_k):
            raise ConfigError(f"Accuracy(top_k={top_k!r}): expected numbers from 1 on. Write Accuracy(top_k=(1, 5)).")
        self.top_k = tuple(top_k)

    def announces(self) -> dict[str, bool | None] | None:
        """Return a name for every k."""
        return {f"{self.prefix}{_name(k)}": True for k in self.top_k}

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Count the batch's hits."""
        batch = self.labels(state, prediction, target)
        add(state, "samples", batch.counts.sum())
        rank = None
        for k in self.top_k:
            if k == 1:
                hits = batch.predicted == batch.true
            else:
                rank = self._rank(prediction, batch.true, k) if rank is None else rank
                hits = rank < k
            add(state, _name(k), (hits & batch.counts).sum())

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the accuracy for every k."""
        self.check(state)
        samples = state["samples"].item()
        return {_name(k): state[_name(k)].item() / samples if samples else math.nan for k in self.top_k}

    def _rank(self, prediction: Any, true: Tensor, k: int) -> Tensor:
        """Return how many classes come before the true one; a NaN comes before everything."""
        scores, target, _ = self.aligned(prediction, true)
        classes = scores.shape[1] if scores.dim() > target.dim() else 1
        if max(self.top_k) > classes:
            raise DataError(
                f"Accuracy(top_k={self.top_k}) got a prediction of shape {tuple(prediction.shape)}; expected at least "
                f"{max(self.top_k)} scores per sample. Write Accuracy(top_k=(1,))."
            )
        index = torch.arange(classes, device=scores.device).reshape(1, -1, *[1] * (scores.dim() - 2))
        true = true.unsqueeze(1)
        own = scores.gather(1, true)
        return (~(scores <= own) | ((scores == own) & (index < true))).sum(1)


def _name(k: int) -> str:
    return "accuracy" if k == 1 else f"accuracy_top{k}"
