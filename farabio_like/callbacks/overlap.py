"""`Dice` and `IoU`: how far predicted and true regions agree."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .labels import LabelMetric, class_sums, confusion, divided
from .metric import add


class Overlap(LabelMetric):
    """Base of the measures of overlap: a subclass gives `name` and `score`."""

    name: str

    def __init__(self, *, per_image: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.per_image = per_image

    def announces(self) -> dict[str, bool | None] | None:
        """Return the name of the mean."""
        return {f"{self.prefix}{self.name}": True}

    @staticmethod
    def score(hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Return the overlap, NaN where a class is in neither; each argument counts pixels."""
        raise NotImplementedError

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Count the batch's pixels, or add its images' scores."""
        batch = self.labels(state, prediction, target)
        state["binary"], state["multilabel"] = batch.binary, batch.multilabel
        matrix = confusion(batch, self.per_image)
        if self.per_image:
            scores = self.score(*class_sums(matrix, batch.multilabel))
            add(state, "sum", scores.nansum(0))
            add(state, "images", (~scores.isnan()).sum(0))
        else:
            add(state, "matrix", matrix)

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the mean over the classes, and the values per class as a list."""
        self.check(state)
        if self.per_image:
            scores = divided(state["sum"], state["images"], math.nan)
        else:
            scores = self.score(*class_sums(state["matrix"], state["multilabel"]))
        if state["binary"] and not state["multilabel"]:
            return {self.name: scores[1]}
        return {self.name: scores.nanmean(), f"{self.name}_per_class": scores}


class Dice(Overlap):
    """Measures the Dice coefficient of a segmentation, per class and averaged.

    ``2 |P and T| / (|P| + |T|)`` for the predicted and the true pixels of a class (Dice, "Measures of the amount of
    ecologic association between species", Ecology 26, 1945). Names: ``dice``, of class 1 for binary masks, else the
    mean over the classes (the background is one) with ``dice_per_class`` as a list.

    A class with no pixel, neither predicted nor true, has no overlap to measure: it is NaN in the list and left out
    of the mean; with `per_image` this goes for each image. A class that is predicted where there is none has 0.

    Parameters
    ----------
    per_image : bool
        Measure each image and take the mean over the images, class by class; else the pixels of the whole loader
        are counted together, so that large regions count more.
    **options
        ``threshold``, ``ignore_index``, ``num_classes``, and the shapes: see `LabelMetric`. ``loaders``,
        ``prediction``, ``target``, ``prefix``: see `MetricCallback`.

    Examples
    --------
    ``self.callbacks = [Dice(ignore_index=255), IoU(ignore_index=255)]``
    """

    name = "dice"

    @staticmethod
    def score(hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Return the coefficient, NaN where a class is in neither; each argument counts pixels."""
        return divided(2 * hits, predicted + true, math.nan)


class IoU(Overlap):
    """Measures the intersection over union of a segmentation, per class and averaged.

    ``|P and T| / |P or T|`` for the predicted and the true pixels of a class (Jaccard, "The distribution of the flora
    in the alpine zone", New Phytologist 11, 1912). Names: ``iou`` and ``iou_per_class``. All else is as for `Dice`.

    Parameters
    ----------
    per_image : bool
        As for `Dice`.
    **options
        As for `Dice`.

    Examples
    --------
    ``self.callbacks = [IoU(threshold=0.5)]``, for masks as probabilities
    """

    name = "iou"

    @staticmethod
    def score(hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Return the ratio, NaN where a class is in neither; each argument counts pixels."""
        return divided(hits, predicted + true - hits, math.nan)
