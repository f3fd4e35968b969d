"""Cross entropy with soft or smoothed targets: of one class against the rest, and over the classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .segmentation import (
    Batch,
    ClassWeights,
    Mode,
    SegmentationLoss,
    check_number,
    divided,
    mean_over_pixels,
    prepare,
    sum_over_pixels,
    weights_for,
)


def soft_bce_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    smoothing: float = 0.0,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the mean binary cross entropy.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W).
    target : Tensor
        Masks, see :doc:`losses`; may be soft.
    mode, smoothing, class_weights, ignore_index
        As for `SoftBCELoss`.

    Returns
    -------
    Tensor
        One number from 0 up.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        If an argument, a shape or a value is not allowed, see :doc:`losses`.
    """
    check_bce(mode, smoothing)
    batch = prepare(logits, target, mode, ignore_index=ignore_index)
    return batch.checked(binary_cross_entropy(batch, smoothing, weights_for(batch, class_weights)))


def binary_cross_entropy(batch: Batch, smoothing: float, class_weights: Tensor | None) -> Tensor:
    """Return `soft_bce_loss` of a batch that is checked already."""
    target = batch.target * (1 - smoothing) + smoothing / 2 if smoothing else batch.target
    losses = F.binary_cross_entropy_with_logits(batch.logits, target, reduction="none")
    return mean_over_pixels(losses, batch, class_weights)


class SoftBCELoss(SegmentationLoss):
    """Binary cross entropy with soft targets, smoothing and ignored pixels; the mean over pixels and channels.

    ``-t log p - (1 - t) log(1 - p)``; where all pixels are ignored it is 0.

    Parameters
    ----------
    mode : "binary" or "multilabel"
        One channel, or a mask per channel. Classes that exclude each other: `SoftCELoss`.
    smoothing : float
        From 0 to 1: how far targets are drawn to 0.5. It is that of cross entropy over two classes, so 0.1 makes of a
        1 a target of 0.95 (Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016).
    class_weights : Tensor or sequence of float, optional
        One weight from 0 up for each channel, in the mean; multilabel only.
    ignore_index : int, optional
        Pixels with this value in the target count nowhere.

    Examples
    --------
    ``self.criterion = SoftBCELoss("binary", smoothing=0.1)``
    """

    def __init__(
        self,
        mode: Mode,
        *,
        smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(mode, class_weights, ignore_index)
        check_bce(mode, smoothing)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `soft_bce_loss` with the arguments of this module."""
        return soft_bce_loss(
            logits,
            target,
            self.mode,
            smoothing=self.smoothing,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
        )


def check_bce(mode: Mode, smoothing: float) -> None:
    """Raise if an argument of a binary cross entropy is not allowed."""
    if mode == "multiclass":
        raise ConfigError('mode="multiclass" has one class per pixel: soft_ce_loss or SoftCELoss, DiceCELoss.')
    check_number("smoothing", smoothing, 0, 1)


def soft_ce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    smoothing: float = 0.0,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the mean cross entropy over the classes.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W), C two or more.
    target : Tensor
        Class numbers without the channels, or class probabilities in the shape of `logits`.
    smoothing, class_weights, ignore_index
        As for `SoftCELoss`.

    Returns
    -------
    Tensor
        One number from 0 up.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        If an argument, a shape or a value is not allowed, see :doc:`losses`.
    """
    check_number("smoothing", smoothing, 0, 1)
    batch = prepare(logits, target, "multiclass", ignore_index=ignore_index)
    return batch.checked(cross_entropy(batch, smoothing, weights_for(batch, class_weights)))


def cross_entropy(batch: Batch, smoothing: float, class_weights: Tensor | None) -> Tensor:
    """Return `soft_ce_loss` of a batch that is checked already."""
    logs = batch.logits.log_softmax(1)
    if class_weights is not None:
        logs = logs * class_weights.view(-1, *[1] * (logs.ndim - 2))
    if batch.target.ndim == logs.ndim:
        true = logs * batch.target
    else:
        true = logs.gather(1, batch.target.unsqueeze(1))
    if batch.ignored is not None:
        true = true.masked_fill(batch.ignored, 0)
    total = (smoothing - 1) * true.sum()
    if smoothing:
        even = logs if batch.ignored is None else logs.sum(1, keepdim=True).masked_fill(batch.ignored, 0)
        total = total - smoothing / logs.shape[1] * even.sum()
    if class_weights is None:
        return total / batch.pixels()
    return divided(total, (sum_over_pixels(batch.masks()) * class_weights).sum())


class SoftCELoss(SegmentationLoss):
    """Cross entropy over the classes with soft targets, smoothing and ignored pixels; the mean over pixels.

    With class numbers it is torch's ``cross_entropy(weight=..., label_smoothing=...)`` in number, but that it is 0
    where all pixels are ignored, which torch makes NaN. Class probabilities give the number that the same classes as
    numbers give; with `class_weights` torch divides them by the pixels, here by their weights.

    Parameters
    ----------
    smoothing : float
        From 0 to 1: how far targets are drawn to ``1 / C`` (Szegedy et al., "Rethinking the Inception Architecture",
        CVPR 2016).
    class_weights : Tensor or sequence of float, optional
        One weight from 0 up for each class; a pixel weighs as its class does.
    ignore_index : int, optional
        Pixels with this class number count nowhere.

    Examples
    --------
    ``self.criterion = SoftCELoss(smoothing=0.1, ignore_index=255)``
    """

    def __init__(
        self, *, smoothing: float = 0.0, class_weights: ClassWeights = None, ignore_index: int | None = None
    ) -> None:
        super().__init__("multiclass", class_weights, ignore_index)
        check_number("smoothing", smoothing, 0, 1)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `soft_ce_loss` with the arguments of this module."""
        return soft_ce_loss(
            logits,
            target,
            smoothing=self.smoothing,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
        )
