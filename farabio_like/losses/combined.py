"""Sums of an overlap loss, which sees regions, and a cross entropy, which sees every pixel."""

from __future__ import annotations

from torch import Tensor

from .cross_entropy import binary_cross_entropy, check_bce, cross_entropy
from .overlap import dice
from .segmentation import Absent, ClassWeights, Mode, RegionLoss, check_number, prepare, weights_for


def dice_ce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    smoothing: float = 0.0,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return the sum of `dice_loss` and `soft_ce_loss`.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W), C two or more.
    target : Tensor
        Class numbers without the channels, or class probabilities in the shape of `logits`.
    smoothing, class_weights, ignore_index, absent
        As for `DiceCELoss`.

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
    weights = weights_for(batch, class_weights)
    return batch.checked(dice(batch, weights, absent) + cross_entropy(batch, smoothing, weights))


class DiceCELoss(RegionLoss):
    """The sum of `DiceLoss` and `SoftCELoss`: one class per pixel.

    Such a sum is a good first choice (Isensee et al., "nnU-Net", Nature Methods 18, 2021).

    Parameters
    ----------
    smoothing : float
        Of the cross entropy's targets, as for `SoftCELoss`.
    class_weights, ignore_index, absent
        As for `DiceLoss`; the weights go into both parts, `absent` into Dice.

    Examples
    --------
    ``self.criterion = DiceCELoss(ignore_index=255)``
    """

    def __init__(
        self,
        *,
        smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
        absent: Absent = "count",
    ) -> None:
        super().__init__("multiclass", class_weights=class_weights, ignore_index=ignore_index, absent=absent)
        check_number("smoothing", smoothing, 0, 1)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `dice_ce_loss` with the arguments of this module."""
        return dice_ce_loss(
            logits,
            target,
            smoothing=self.smoothing,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def dice_bce_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    smoothing: float = 0.0,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return the sum of `dice_loss` and `soft_bce_loss`.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W).
    target : Tensor
        Masks, see :doc:`losses`; may be soft.
    mode, smoothing, class_weights, ignore_index, absent
        As for `DiceBCELoss`.

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
    weights = weights_for(batch, class_weights)
    return batch.checked(dice(batch, weights, absent) + binary_cross_entropy(batch, smoothing, weights))


class DiceBCELoss(RegionLoss):
    """The sum of `DiceLoss` and `SoftBCELoss`: masks, one or several that may overlap.

    Parameters
    ----------
    mode : "binary" or "multilabel"
        One channel, or a mask per channel.
    smoothing : float
        Of the cross entropy's targets, as for `SoftBCELoss`.
    class_weights, ignore_index, absent
        As for `DiceLoss`; the weights go into both parts, `absent` into Dice.

    Examples
    --------
    ``self.criterion = DiceBCELoss("binary")``
    """

    def __init__(
        self,
        mode: Mode,
        *,
        smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
        absent: Absent = "count",
    ) -> None:
        super().__init__(mode, class_weights=class_weights, ignore_index=ignore_index, absent=absent)
        check_bce(mode, smoothing)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `dice_bce_loss` with the arguments of this module."""
        return dice_bce_loss(
            logits,
            target,
            self.mode,
            smoothing=self.smoothing,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )
