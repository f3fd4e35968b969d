"""`AUC`: the area under the ROC curve, exact."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .metric import MetricCallback, joined, keep


class AUC(MetricCallback):
    """Measures the area under the ROC curve, exactly and with ties, like ``sklearn.metrics.roc_auc_score``.

    Binary scores, shape (N,) or (N, 1), may be logits or probabilities: only their order counts. Scores of C classes,
    shape (N, C) with targets (N,), are compared one class against the rest and averaged over the classes (macro);
    rows that are no probabilities yet get a softmax first; of two classes the second is measured. With targets
    (N, C) each of the C labels is measured and the mean taken. Names: ``auc``, and ``auc_per_class`` as a list.

    A class of which the loader has no sample, or nothing else, has no AUC: it is left out of the mean, NaN in the
    list, and a warning names it once; when none is left, the value is NaN. All scores of a loader are kept on the
    device until its end.

    Parameters
    ----------
    **options
        ``loaders``, ``prediction``, ``target``, ``prefix``: see `MetricCallback`.

    Raises
    ------
    DataError
        For other shapes, and for targets that are no classes.

    Examples
    --------
    ``self.callbacks = [AUC(loaders=("valid", "test"))]``
    """

    def announces(self) -> dict[str, bool | None] | None:
        """Return the name of the area; the list is no number to watch."""
        return {f"{self.prefix}auc": True}

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Keep the batch's scores and targets."""
        if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
            raise DataError(
                f"AUC got a {type(prediction).__name__} as prediction and a {type(target).__name__} as target; "
                "expected tensors. Write AUC(prediction=lambda trainer: ..., target=lambda trainer: ...)."
            )
        given = f"a prediction of shape {tuple(prediction.shape)} and a target of shape {tuple(target.shape)}"
        target = target.to(prediction.device)
        if prediction.dim() == 2 and prediction.shape[1] == 1:
            prediction = prediction.squeeze(1)
        if target.dim() == 2 and target.shape[1] == 1:
            target = target.squeeze(1)
        fits = prediction.shape == target.shape or (target.dim() == 1 and prediction.shape[:1] == target.shape)
        if prediction.dim() not in (1, 2) or not fits:
            raise DataError(
                f"AUC got {given}; expected (N,) or (N, 1) and (N,), (N, C) and (N,), or twice (N, C). "
                "Write AUC(prediction=lambda trainer: trainer.outputs.flatten()), say."
            )
        keep(state, "scores", prediction)
        keep(state, "targets", target)

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the area, and the areas per class as a list."""
        scores, targets = joined(state, "scores"), joined(state, "targets")
        if scores.device.type == "mps":  # it has no double precision
            scores = scores.cpu()
        scores, targets = scores.double(), targets.to(scores.device)
        targets = targets.long() if targets.dtype == torch.bool else targets
        classes = scores.shape[1] if scores.dim() == 2 and targets.dim() == 1 else 2
        if ((targets != targets.round()) | (targets < 0) | (targets >= classes)).any():
            raise DataError(
                f"AUC got targets from {targets.min().item()} to {targets.max().item()}; expected whole numbers from "
                f"0 to {classes - 1}. Write AUC(target=lambda trainer: ...) to give them."
            )
        if scores.dim() == 2 and targets.dim() == 1:
            scores = _probabilities(scores)
            if classes == 2:
                scores = scores[:, 1]
        if scores.dim() == 1:
            area = binary_auc(scores, targets == 1)
            if math.isnan(area):
                self._say_missing(scores, "there is one class only in the targets, so the AUC is NaN.")
            return {"auc": area}
        columns = targets.T == 1 if targets.dim() == 2 else [targets == c for c in range(classes)]
        areas = [binary_auc(column, positive) for column, positive in zip(scores.T, columns, strict=True)]
        there = [area for area in areas if not math.isnan(area)]
        if len(there) < len(areas):
            missing = [c for c, area in enumerate(areas) if math.isnan(area)]
            self._say_missing(scores, f"the targets have no samples, or no others, of {missing}: not in the mean.")
        return {"auc": sum(there) / len(there) if there else math.nan, "auc_per_class": areas}

    def _say_missing(self, scores: Tensor, message: str) -> None:
        self.say_once("AUC: there are NaN among the scores." if scores.isnan().any() else f"AUC: {message}")


def binary_auc(scores: Tensor, positive: Tensor) -> float:
    """Return the area under the ROC curve: how probably a positive sample has the higher score, ties half.

    By the ranks of the positive samples, as the Mann-Whitney statistic (Hanley and McNeil, "The meaning and use of
    the area under a receiver operating characteristic curve", Radiology 143, 1982).

    Parameters
    ----------
    scores : Tensor
        Shape (N,).
    positive : Tensor
        Bool, shape (N,).

    Returns
    -------
    float
        NaN without positive or without negative samples, and for scores with NaN.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives or scores.isnan().any():
        return math.nan
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    # Samples with equal scores share the mean of their ranks; doubled, ranks are whole numbers and their sum exact.
    doubled = 2 * counts.cumsum(0) - counts + 1
    total = int(doubled[place[positive]].sum())
    return (total - positives * (positives + 1)) / (2 * positives * negatives)


def _probabilities(scores: Tensor) -> Tensor:
    """Return the scores of classes as probabilities: as they are when every row is a distribution already."""
    already = ((scores >= 0) & (scores <= 1)).all() and ((scores.sum(1) - 1).abs() < 1e-2).all()
    return scores if already else scores.softmax(1)
