"""The Lovász losses: hinge for masks, softmax for classes."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ..errors import ConfigError
from .segmentation import (
    Absent,
    Batch,
    ClassWeights,
    Mode,
    RegionLoss,
    check_choice,
    mean_over_classes,
    prepare,
    sum_over_pixels,
    weights_for,
)


def lovasz_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return the Lovász hinge of masks, or the Lovász softmax of classes.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W).
    target : Tensor
        Masks of 0 and 1, or class numbers, see :doc:`losses`; never soft.
    mode, class_weights, ignore_index, absent
        As for `LovaszLoss`.

    Returns
    -------
    Tensor
        One number from 0 up.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        If an argument, a shape or a value is not allowed, see :doc:`losses`.
    """
    _check_weights(mode, class_weights)
    check_choice("absent", absent, get_args(Absent))
    batch = prepare(logits, target, mode, ignore_index=ignore_index, soft=False)
    if mode == "multiclass":
        return batch.checked(_softmax(batch, weights_for(batch, class_weights), absent))
    return batch.checked(_hinge(batch, absent))


def _softmax(batch: Batch, class_weights: Tensor | None, absent: Absent) -> Tensor:
    masks = batch.masks()
    errors = (batch.probabilities() - masks).abs()
    slopes = torch.empty_like(errors)
    for number in range(errors.shape[1]):
        slopes[:, number] = _slopes(errors[:, number], masks[:, number], batch.pixels())
    return mean_over_classes(sum_over_pixels(errors * slopes), sum_over_pixels(masks), batch, class_weights, absent)


def _hinge(batch: Batch, absent: Absent) -> Tensor:
    masks = batch.masks()
    errors = (1 - batch.logits * (2 * masks - 1)).relu()
    if batch.ignored is not None:
        errors = errors.masked_fill(batch.ignored, 0)
    if absent == "skip":
        errors = errors * (masks.amax((0, *range(2, masks.ndim)), keepdim=True) > 0)
    pixels = batch.pixels().expand(masks.shape[1]).sum()
    return (errors * _slopes(errors, masks, pixels)).sum()


@torch.no_grad()
def _slopes(errors: Tensor, masks: Tensor, pixels: Tensor) -> Tensor:
    """Return what each error adds to the loss per unit: by how much it lets the Jaccard loss rise (Algorithm 1).

    Largest error first, a true pixel takes one from the intersection, another one adds one to the union. The
    differences of the paper are written out, as they drown in the rounding of large sums. Errors of 0, such as those
    of ignored pixels, come last and add nothing. Without a true pixel each error adds ``1 / pixels``.
    """
    flat = errors.flatten()
    # Floats that are not negative are in the order of their bits, and torch sorts integers several times faster.
    bits = flat.view(torch.int64 if flat.dtype == torch.float64 else torch.int32)
    order = (-bits).argsort()
    true = masks.flatten()[order] > 0
    hits = true.cumsum(0)
    total = hits[-1]
    union = total + torch.arange(1, len(hits) + 1, device=hits.device) - hits
    missed = (total - hits).to(flat.dtype)
    union = union.to(flat.dtype)
    rises = torch.where(true, 1, missed / (union - 1).clamp(min=1)) / union
    rises = torch.where(total > 0, rises, 1 / pixels)
    return torch.empty_like(flat).scatter_(0, order, rises).view_as(errors)


class LovaszLoss(RegionLoss):
    """The Lovász hinge of masks, the Lovász softmax of classes: surrogates of the Jaccard loss.

    Errors are sorted, and each counts by how much the Jaccard loss rises when its pixel becomes wrong (Berman et al.,
    "The Lovász-Softmax loss", CVPR 2018, and Yu and Blaschko, "Learning Submodular Losses with the Lovász Hinge", ICML
    2015), over all pixels of the batch.

    Parameters
    ----------
    mode : "binary", "multiclass" or "multilabel"
        Hinge of one channel; mean over the classes of the softmax form; one hinge over all channels together.
    class_weights : Tensor or sequence of float, optional
        One weight from 0 up for each class, in the mean over the classes; multiclass only.
    ignore_index : int, optional
        Pixels with this value in the target count nowhere.
    absent : "count" or "skip"
        What a class does that has no true pixel in the batch. ``"count"``: in multiclass mode its loss is its mean
        predicted probability, as for `DiceLoss`, where the formula looks at the worst pixel alone; in multilabel mode
        its pixels take part in the common hinge. Masks that are all empty have the mean of the hinges of their pixels.
        ``"skip"``: it is left out, and if no class is left, the loss is 0 and has no gradient.

    Examples
    --------
    ``self.criterion = LovaszLoss("multiclass", absent="skip")``
    """

    def __init__(
        self,
        mode: Mode,
        *,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
        absent: Absent = "count",
    ) -> None:
        super().__init__(mode, class_weights=class_weights, ignore_index=ignore_index, absent=absent)
        _check_weights(mode, class_weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `lovasz_loss` with the arguments of this module."""
        return lovasz_loss(
            logits,
            target,
            self.mode,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def _check_weights(mode: Mode, class_weights: ClassWeights) -> None:
    if mode == "multilabel" and class_weights is not None:
        raise ConfigError(
            'The Lovász loss of mode="multilabel" is one hinge over all channels and has no mean for class_weights: '
            'add up lovasz_loss(..., mode="binary") of single channels, each times its weight.'
        )
