"""Losses of overlap: Dice, Jaccard, Tversky, focal Tversky, generalized Dice. All are made of `region_sums`."""

from __future__ import annotations

import torch
from torch import Tensor

from .segmentation import (
    SMALLEST,
    Absent,
    Batch,
    ClassWeights,
    Mode,
    RegionLoss,
    RegionSums,
    check_number,
    divided,
    mean_over_classes,
    prepare,
    ratio_or_painted,
    region_sums,
    weights_for,
)


def dice_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return one minus the Dice coefficient, averaged over the classes.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W).
    target : Tensor
        Masks or class numbers, see :doc:`losses`; may be soft.
    mode, class_weights, ignore_index, absent
        As for `DiceLoss`.

    Returns
    -------
    Tensor
        One number from 0 to 1.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        If an argument, a shape or a value is not allowed, see :doc:`losses`.
    """
    batch = prepare(logits, target, mode, ignore_index=ignore_index)
    return batch.checked(dice(batch, weights_for(batch, class_weights), absent))


def dice(batch: Batch, class_weights: Tensor | None, absent: Absent) -> Tensor:
    """Return `dice_loss` of a batch that is checked already."""
    sums = region_sums(batch)
    size = sums.predicted + sums.true
    return mean_over_classes(
        ratio_or_painted(size - 2 * sums.common, size, sums), sums.true, batch, class_weights, absent
    )


class DiceLoss(RegionLoss):
    """One minus the Dice coefficient, averaged over the classes.

    ``1 - 2 |P and T| / (|P| + |T|)`` for the predicted probabilities and the targets of a class, summed over batch
    and space (Drozdzal et al., "The Importance of Skip Connections in Biomedical Image Segmentation", DLMIA 2016; the
    V-Net paper squares the summands of the sizes). Soft targets: a prediction equal to its target has loss 0.

    Parameters
    ----------
    mode : "binary", "multiclass" or "multilabel"
        Sigmoid of one channel; softmax over the channels; sigmoid of every channel.
    class_weights : Tensor or sequence of float, optional
        One weight from 0 up for each class, in the mean over the classes; not in binary mode.
    ignore_index : int, optional
        Pixels with this value in the target count nowhere.
    absent : "count" or "skip"
        What a class does that has no true pixel in the batch. ``"count"``: its loss is its mean predicted
        probability, so that every pixel painted with it is pushed down. ``"skip"``: it is left out of the mean, and
        if no class is left, the loss is 0 and has no gradient.

    Examples
    --------
    ``self.criterion = DiceLoss("multiclass", ignore_index=255)``
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `dice_loss` with the arguments of this module."""
        return dice_loss(
            logits,
            target,
            self.mode,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def jaccard_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return one minus the Jaccard index (intersection over union), averaged over the classes.

    Parameters
    ----------
    logits, target, mode, class_weights, ignore_index, absent
        As for `dice_loss`.

    Returns
    -------
    Tensor
        One number from 0 to 1.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        As `dice_loss`.
    """
    batch = prepare(logits, target, mode, ignore_index=ignore_index)
    sums = region_sums(batch)
    union = sums.predicted + sums.true - sums.common
    losses = ratio_or_painted(union - sums.common, union, sums)
    return batch.checked(mean_over_classes(losses, sums.true, batch, weights_for(batch, class_weights), absent))


class JaccardLoss(RegionLoss):
    """One minus the Jaccard index (intersection over union), averaged over the classes.

    ``1 - |P and T| / |P or T|``, summed over batch and space (Rahman and Wang, "Optimizing Intersection-Over-Union in
    Deep Neural Networks for Image Segmentation", ISVC 2016). Soft targets as for `DiceLoss`.

    Parameters
    ----------
    mode, class_weights, ignore_index, absent
        As for `DiceLoss`.

    Examples
    --------
    ``self.criterion = JaccardLoss("binary")``
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `jaccard_loss` with the arguments of this module."""
        return jaccard_loss(
            logits,
            target,
            self.mode,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return one minus the Tversky index, averaged over the classes.

    Parameters
    ----------
    logits, target, mode, class_weights, ignore_index, absent
        As for `dice_loss`.
    alpha, beta : float
        As for `TverskyLoss`.

    Returns
    -------
    Tensor
        One number from 0 to 1.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        As `dice_loss`.
    """
    return focal_tversky_loss(
        logits,
        target,
        mode,
        alpha=alpha,
        beta=beta,
        gamma=1.0,
        class_weights=class_weights,
        ignore_index=ignore_index,
        absent=absent,
    )


class TverskyLoss(RegionLoss):
    """One minus the Tversky index, averaged over the classes: Dice with a price of its own for each kind of mistake.

    ``1 - TP / (TP + alpha FP + beta FN)``, summed over batch and space (Salehi et al., "Tversky loss function for
    image segmentation using 3D fully convolutional deep networks", MLMI 2017). Soft targets as for `DiceLoss`.

    Parameters
    ----------
    mode, class_weights, ignore_index, absent
        As for `DiceLoss`.
    alpha, beta : float
        The price of a false positive and of a false negative, `beta` above 0. The defaults are the best ones of the
        paper, for small structures; 0.5 and 0.5 is Dice, 1 and 1 is Jaccard.

    Examples
    --------
    ``self.criterion = TverskyLoss("binary", alpha=0.3, beta=0.7)``
    """

    def __init__(
        self,
        mode: Mode,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
        absent: Absent = "count",
    ) -> None:
        super().__init__(mode, class_weights=class_weights, ignore_index=ignore_index, absent=absent)
        _check_prices(alpha, beta)
        self.alpha = alpha
        self.beta = beta

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `tversky_loss` with the arguments of this module."""
        return tversky_loss(
            logits,
            target,
            self.mode,
            alpha=self.alpha,
            beta=self.beta,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def focal_tversky_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return the Tversky loss to the power of `gamma`.

    Parameters
    ----------
    logits, target, mode, class_weights, ignore_index, absent
        As for `dice_loss`.
    alpha, beta, gamma : float
        As for `FocalTverskyLoss`.

    Returns
    -------
    Tensor
        One number from 0 to 1.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        As `dice_loss`.
    """
    _check_prices(alpha, beta)
    check_number("gamma", gamma, SMALLEST)
    batch = prepare(logits, target, mode, ignore_index=ignore_index)
    sums = region_sums(batch)
    mistakes = alpha * (sums.predicted - sums.common) + beta * (sums.true - sums.common)
    losses = ratio_or_painted(mistakes, sums.common + mistakes, sums)
    loss = mean_over_classes(losses, sums.true, batch, weights_for(batch, class_weights), absent)
    # loss ** gamma, but for the infinite gradient that a root has at 0
    return batch.checked(loss * loss.clamp(min=SMALLEST) ** (gamma - 1))


class FocalTverskyLoss(TverskyLoss):
    """The Tversky loss to the power of `gamma`.

    ``(1 - TP / (TP + alpha FP + beta FN)) ** gamma``, after the mean over the classes. Below 1, `gamma` keeps the
    gradient of a good prediction large; above 1, it does so for a bad one (Abraham and Khan, "A Novel Focal Tversky
    Loss Function with improved Attention U-Net for Lesion Segmentation", ISBI 2019). The paper takes the power class by
    class, writes it as ``1 / gamma`` and calls the price of a false negative `alpha`.

    Parameters
    ----------
    mode, class_weights, ignore_index, absent
        As for `DiceLoss`.
    alpha, beta : float
        As for `TverskyLoss`.
    gamma : float
        Above 0; 0.75 is the paper's choice.

    Examples
    --------
    ``self.criterion = FocalTverskyLoss("multiclass", gamma=0.75)``
    """

    def __init__(
        self,
        mode: Mode,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.75,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
        absent: Absent = "count",
    ) -> None:
        super().__init__(
            mode, alpha=alpha, beta=beta, class_weights=class_weights, ignore_index=ignore_index, absent=absent
        )
        check_number("gamma", gamma, SMALLEST)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `focal_tversky_loss` with the arguments of this module."""
        return focal_tversky_loss(
            logits,
            target,
            self.mode,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def generalized_dice_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return the generalized Dice loss: one ratio for all classes, each weighed by the inverse square of its size.

    Parameters
    ----------
    logits, target
        As for `dice_loss`.
    mode, class_weights, ignore_index, absent
        As for `GeneralizedDiceLoss`.

    Returns
    -------
    Tensor
        One number from 0 to 1.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        As `dice_loss`.
    """
    batch = prepare(logits, target, mode, ignore_index=ignore_index)
    weights, sums = weights_for(batch, class_weights), region_sums(batch)
    if mode == "multiclass":
        size = sums.predicted + sums.true
        scale = _inverse_squares(sums, counted=absent == "count")
        scale = scale if weights is None else scale * weights
        return batch.checked(divided((scale * (size - 2 * sums.common)).sum(), (scale * size).sum()))
    pairs = _with_background(sums)
    size = pairs.predicted + pairs.true
    scale = _inverse_squares(pairs, counted=True)
    losses = divided((scale * (size - 2 * pairs.common)).sum(0), (scale * size).sum(0))
    return batch.checked(mean_over_classes(losses, sums.true, batch, weights, absent))


class GeneralizedDiceLoss(RegionLoss):
    """Dice as one ratio for all classes, each weighed by the inverse square of its true size.

    ``1 - 2 sum_c w_c |P_c and T_c| / sum_c w_c (|P_c| + |T_c|)`` with ``w_c = 1 / |T_c|^2`` (Sudre et al.,
    "Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations", DLMIA 2017). In
    binary and multilabel mode each channel makes such a ratio with its background, and the mean over the channels is
    taken. Soft targets as for `DiceLoss`.

    Parameters
    ----------
    mode, ignore_index
        As for `DiceLoss`.
    class_weights : Tensor or sequence of float, optional
        As for `DiceLoss`; in multiclass mode they multiply ``w_c``.
    absent : "count" or "skip"
        As for `DiceLoss`, but that a class without a true pixel is weighed as the smallest one that has some, where
        the formula would weigh it infinitely. Beside its background alone this is its mean predicted probability.

    Examples
    --------
    ``self.criterion = GeneralizedDiceLoss("multiclass")``
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `generalized_dice_loss` with the arguments of this module."""
        return generalized_dice_loss(
            logits,
            target,
            self.mode,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def _with_background(sums: RegionSums) -> RegionSums:
    """Return the sums with a first dimension of two: each channel's region, and what is outside it."""
    common, predicted, true, pixels = sums
    outside = pixels - predicted - true + common
    return RegionSums(
        torch.stack([common, outside]),
        torch.stack([predicted, pixels - predicted]),
        torch.stack([true, pixels - true]),
        pixels,
    )


def _inverse_squares(sums: RegionSums, counted: bool) -> Tensor:
    """Return the weights of the classes along the first dimension; those of absent ones are the largest, or 0."""
    # In parts of the image, so that the square of a large volume stays in the range of float32.
    present = (sums.true > 0) & (sums.pixels > 0)
    weights = torch.where(present, (sums.pixels / sums.true.clamp(min=1)) ** 2, 0)
    return torch.where(present, weights, weights.amax(0)) if counted else weights


def _check_prices(alpha: float, beta: float) -> None:
    check_number("alpha", alpha, 0)
    check_number("beta", beta, SMALLEST)
