"""The focal loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .segmentation import (
    SMALLEST,
    ClassWeights,
    Mode,
    SegmentationLoss,
    check_number,
    mean_over_pixels,
    prepare,
    weights_for,
)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the mean focal loss.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W).
    target : Tensor
        Masks or class numbers, see :doc:`losses`; may be soft.
    mode, gamma, alpha, class_weights, ignore_index
        As for `FocalLoss`.

    Returns
    -------
    Tensor
        One number from 0 up.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        If an argument, a shape or a value is not allowed, see :doc:`losses`.
    """
    _check_focal(gamma, alpha)
    batch = prepare(logits, target, mode, ignore_index=ignore_index)
    true = batch.masks()
    losses = F.binary_cross_entropy_with_logits(batch.logits, true, reduction="none")
    distance = batch.logits.sigmoid() - true
    if gamma != 2:  # an even power needs no absolute value
        distance = distance.abs()
    if 0 < gamma < 1:
        distance = distance.clamp(min=SMALLEST)  # at 0 the root has an infinite gradient
    losses = losses * distance**gamma
    if alpha is not None:
        losses = losses * (true * (2 * alpha - 1) + (1 - alpha))
    return batch.checked(mean_over_pixels(losses, batch, weights_for(batch, class_weights)))


class FocalLoss(SegmentationLoss):
    """Binary cross entropy in which well predicted pixels count little; the mean over pixels and classes.

    ``|t - p| ** gamma`` times the binary cross entropy (Lin et al., "Focal Loss for Dense Object Detection", ICCV
    2017; for soft targets Li et al., "Generalized Focal Loss", NeurIPS 2020). In multiclass mode, too, each class is
    taken by a sigmoid against the rest. Where all pixels are ignored it is 0.

    Parameters
    ----------
    mode : "binary", "multiclass" or "multilabel"
        One channel; class numbers or probabilities over the channels; a mask per channel.
    gamma : float
        From 0 up; 0 is the cross entropy.
    alpha : float, optional
        From 0 to 1: true pixels are weighed by `alpha`, the others by ``1 - alpha``.
    class_weights : Tensor or sequence of float, optional
        One weight from 0 up for each class, in the mean; not in binary mode.
    ignore_index : int, optional
        Pixels with this value in the target count nowhere.

    Examples
    --------
    ``self.criterion = FocalLoss("binary", gamma=2.0, alpha=0.25)``
    """

    def __init__(
        self,
        mode: Mode,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(mode, class_weights, ignore_index)
        _check_focal(gamma, alpha)
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `focal_loss` with the arguments of this module."""
        return focal_loss(
            logits,
            target,
            self.mode,
            gamma=self.gamma,
            alpha=self.alpha,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
        )


def _check_focal(gamma: float, alpha: float | None) -> None:
    check_number("gamma", gamma, 0)
    if alpha is not None:
        check_number("alpha", alpha, 0, 1)
