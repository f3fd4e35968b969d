"""`PrecisionRecallF1`: precision, recall and F1, per class and averaged."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import ConfigError, DataError, closest
from .labels import LabelMetric, class_sums, confusion, divided
from .metric import add

AVERAGES = ("macro", "micro", "weighted", "binary", None)


class PrecisionRecallF1(LabelMetric):
    """Measures precision, recall and F1, per class and averaged.

    Names: ``precision``, ``recall``, ``f1``, and ``precision_per_class``, ... as lists. The numbers are those of
    ``sklearn.metrics.precision_recall_fscore_support(..., zero_division=0)``: a class that was never predicted has
    the precision 0, one that is nowhere in the targets the recall 0; ``macro`` leaves out a class that is in neither.

    Parameters
    ----------
    num_classes : int, optional
        Needed where the predictions are labels already.
    average : {"macro", "micro", "weighted", "binary", None}
        Mean over the classes; of all counts together; mean weighted by the true counts; class 1 alone; or the lists
        only.
    **options
        ``threshold``, ``ignore_index``, and the shapes: see `LabelMetric`. ``loaders``, ``prediction``, ``target``,
        ``prefix``: see `MetricCallback`.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For ``average="binary"`` with more than two classes.

    Examples
    --------
    ``self.callbacks = [PrecisionRecallF1(average="weighted", loaders=("valid", "test"))]``
    """

    def __init__(self, num_classes: int | None = None, average: str | None = "macro", **options: Any) -> None:
        super().__init__(num_classes=num_classes, **options)
        if average not in AVERAGES:
            hint = closest(str(average), [name for name in AVERAGES if name])
            raise ConfigError(f"PrecisionRecallF1(average={average!r}): expected one of {AVERAGES}.{hint}")
        self.average = average

    def announces(self) -> dict[str, bool | None] | None:
        """Return the names of the averages."""
        names = () if self.average is None else ("precision", "recall", "f1")
        return {f"{self.prefix}{name}": True for name in names}

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Count the batch's pairs of classes."""
        batch = self.labels(state, prediction, target)
        state["multilabel"] = batch.multilabel
        add(state, "matrix", confusion(batch))

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the averages, and the values per class as lists."""
        self.check(state)
        hits, predicted, true = class_sums(state["matrix"], state["multilabel"])
        scores = _scores(hits, predicted, true)
        per_class = {f"{name}_per_class": value for name, value in scores.items()}
        if self.average is None:
            return per_class
        if self.average == "binary":
            if state["multilabel"] or len(hits) != 2:
                found = f"{len(hits)} {'labels' if state['multilabel'] else 'classes'}"
                raise DataError(
                    f"PrecisionRecallF1(average='binary') got {found}; expected two classes. "
                    "Write PrecisionRecallF1(average='macro')."
                )
            return {**{name: value[1] for name, value in scores.items()}, **per_class}
        if self.average == "micro":
            return {**_scores(hits.sum(), predicted.sum(), true.sum()), **per_class}
        there = true if self.average == "weighted" else (predicted + true > 0) | state["multilabel"]
        weights = there.double()
        return {**{name: divided((v * weights).sum(), weights.sum(), 0.0) for name, v in scores.items()}, **per_class}


def _scores(hits: Tensor, predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
    return {
        "precision": divided(hits, predicted, 0.0),
        "recall": divided(hits, true, 0.0),
        "f1": divided(2 * hits, predicted + true, 0.0),
    }
