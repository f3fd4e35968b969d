"""The loss of the Matthews correlation coefficient."""

from __future__ import annotations

import torch
from torch import Tensor

from .segmentation import Absent, ClassWeights, Mode, RegionLoss, mean_over_classes, prepare, region_sums, weights_for


def mcc_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return one minus the Matthews correlation coefficient, averaged over the classes.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W).
    target : Tensor
        Masks or class numbers, see :doc:`losses`; may be soft.
    mode, class_weights, ignore_index, absent
        As for `MCCLoss`.

    Returns
    -------
    Tensor
        One number from 0 to 2; 1 is chance.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        If an argument, a shape or a value is not allowed, see :doc:`losses`.
    """
    batch = prepare(logits, target, mode, ignore_index=ignore_index)
    sums = region_sums(batch)
    # In parts of the image: products of four counts leave the range of float32.
    common, predicted, true = (value / sums.pixels for value in sums[:3])
    spread = predicted * (1 - predicted)
    constant = (true == 0) | (true == 1)
    expected = torch.where(constant, 1, true * (1 - true))
    correlation = (common - predicted * true) / (spread * expected).clamp(min=1e-30).sqrt()
    losses = torch.where(constant, predicted + true - 2 * common, 1 - correlation)
    return batch.checked(mean_over_classes(losses, sums.true, batch, weights_for(batch, class_weights), absent))


class MCCLoss(RegionLoss):
    """One minus the Matthews correlation coefficient of prediction and target, averaged over the classes.

    ``1 - (TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN))``, summed over batch and space: background
    counts as much as foreground (Abhishek and Hamarneh, "Matthews Correlation Coefficient Loss for Deep
    Convolutional Networks: Application to Skin Lesion Segmentation", ISBI 2021). In multiclass and multilabel mode
    each class is taken against the rest. Soft targets as for `DiceLoss`.

    Parameters
    ----------
    mode, class_weights, ignore_index, absent
        As for `DiceLoss`. Where a class has no background, there is no correlation either, and its loss is one minus
        its mean predicted probability.

    Examples
    --------
    ``self.criterion = MCCLoss("binary")``
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `mcc_loss` with the arguments of this module."""
        return mcc_loss(
            logits,
            target,
            self.mode,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )
