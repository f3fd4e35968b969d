"""`HausdorffDistance`: how far the borders of predicted and true regions are apart."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from ..callbacks.labels import LabelMetric, Labels
from ..callbacks.metric import add
from ..errors import ConfigError

CHUNK = 1 << 22  # distances at once


class HausdorffDistance(LabelMetric):
    """Measures the distance between the borders of predicted and true regions, per image, then averaged.

    For every pixel of one border the distance to the nearest one of the other, in pixels; of these the `percentile`;
    of both directions the larger one (Huttenlocher et al., "Comparing images using the Hausdorff distance", IEEE
    PAMI 15, 1993, with 100 %). Names: ``hausdorff95``, with 95 %, and ``hausdorff95_per_class`` where there are several
    classes; class 0, the background, is not measured.

    Where an image has a class neither in the prediction nor in the target, it counts nowhere. Where one of the two has
    it, the distance is the diagonal of the image, the largest that there can be.

    Parameters
    ----------
    percentile : float
    **options
        As for `LabelMetric`.

    Raises
    ------
    ConfigError
        For a percentile that is not above 0 and up to 100.
    """

    def __init__(self, percentile: float = 95, **options: Any) -> None:
        super().__init__(**options)
        if isinstance(percentile, bool) or not isinstance(percentile, (int, float)) or not 0 < percentile <= 100:
            raise ConfigError(f"HausdorffDistance(percentile={percentile!r}): expected above 0 and up to 100.")
        self.percentile = percentile
        self.name = f"hausdorff{percentile:g}"

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Add the distances of the batch's images."""
        batch = self.labels(state, prediction, target)
        state["binary"] = batch.binary and not batch.multilabel
        distances = self.distances(batch)
        add(state, "sum", distances.nansum(0))
        add(state, "images", (~distances.isnan()).sum(0))

    def distances(self, batch: Labels) -> Tensor:
        """Return the distance for every image and class, NaN where there is none: float64, N x classes, on the CPU."""
        multilabel, columns = batch.multilabel, batch.true.shape[1] if batch.multilabel else batch.classes - 1
        rows = []
        for predicted, true, counts in zip(batch.predicted, batch.true, batch.counts, strict=True):
            for column in range(columns):
                place, number = (column, 1) if multilabel else (..., column + 1)
                first, second = ((part[place] == number) & counts[place] for part in (predicted, true))
                rows.append(border_distance(first, second, self.percentile))
        return torch.tensor(rows, dtype=torch.float64).reshape(len(batch.true), columns)

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the mean over the classes, and the values per class as a list."""
        self.check(state)
        means = torch.where(state["images"] > 0, state["sum"] / state["images"].clamp_min(1), math.nan)
        if state["binary"]:
            return {self.name: means[0]}
        return {self.name: means.nanmean(), f"{self.name}_per_class": means}


def border_distance(predicted: Tensor, true: Tensor, percentile: float = 95) -> float:
    """Return the percentile of the distances between the borders of two regions, in pixels.

    Parameters
    ----------
    predicted, true : Tensor
        Bool, height x width, or depth x height x width. A border is made of the region's pixels that have one outside
        of it, or the end of the image, beside, above or below them.
    percentile : float

    Returns
    -------
    float
        NaN where both are empty; where one is, the diagonal of the image.
    """
    if not predicted.any() and not true.any():
        return math.nan
    if not predicted.any() or not true.any():
        return math.dist([0] * predicted.ndim, predicted.shape)
    borders = _border(predicted), _border(true)
    return max(
        torch.quantile(_nearest(first, second), percentile / 100).item()
        for first, second in itertools.permutations(borders)
    )


def _border(region: Tensor) -> Tensor:
    """Return the places of the pixels on the border of a region, float64, N x axes."""
    inside = region.clone()
    for axis in range(region.ndim):
        for step in (1, -1):
            beside = region.roll(step, axis)
            beside.select(axis, 0 if step == 1 else -1).fill_(False)  # what rolls in from the other end
            inside &= beside
    return (region & ~inside).nonzero().double()


def _nearest(places: Tensor, others: Tensor) -> Tensor:
    """Return for each place the distance to the nearest of the others, some places at once."""
    rows = max(1, CHUNK // len(others))
    # Not by matrix products, which are inexact for places far from the origin.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, others, compute_mode=mode).amin(1) for part in places.split(rows)])
