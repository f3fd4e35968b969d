"""The clDice loss, which keeps vessels and other thin structures connected, and its soft skeleton."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .segmentation import (
    Absent,
    ClassWeights,
    Mode,
    RegionLoss,
    check_number,
    mean_over_classes,
    prepare,
    ratio_or_painted,
    region_sums,
    sum_over_pixels,
    weights_for,
)


def cldice_loss(
    logits: Tensor,
    target: Tensor,
    mode: Mode,
    *,
    alpha: float = 0.5,
    iterations: int = 10,
    class_weights: ClassWeights = None,
    ignore_index: int | None = None,
    absent: Absent = "count",
) -> Tensor:
    """Return the weighted sum of the Dice and the centreline Dice loss, averaged over the classes.

    Parameters
    ----------
    logits : Tensor
        (N, C, H, W) or (N, C, D, H, W).
    target : Tensor
        Masks of 0 and 1, or class numbers, see :doc:`losses`; never soft.
    mode, alpha, iterations, class_weights, ignore_index, absent
        As for `ClDiceLoss`.

    Returns
    -------
    Tensor
        One number from 0 to 1.

    Raises
    ------
    ConfigError, DataError, NonFiniteError
        If an argument, a shape or a value is not allowed, see :doc:`losses`.
    """
    _check_cldice(alpha, iterations)
    batch = prepare(logits, target, mode, ignore_index=ignore_index, soft=False)
    sums = region_sums(batch)
    size = sums.predicted + sums.true
    dice = ratio_or_painted(size - 2 * sums.common, size, sums)
    predicted, true = batch.probabilities(), batch.masks()
    precision = _inside(soft_skeleton(predicted, iterations), true)
    sensitivity = _inside(soft_skeleton(true, iterations), predicted)
    centreline = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    losses = torch.where(sums.true == 0, dice, (1 - alpha) * dice + alpha * centreline)
    return batch.checked(mean_over_classes(losses, sums.true, batch, weights_for(batch, class_weights), absent))


def _inside(skeleton: Tensor, region: Tensor) -> Tensor:
    """Return for each class which part of a skeleton lies inside a region; one pixel is added to both counts."""
    return (sum_over_pixels(skeleton * region) + 1) / (sum_over_pixels(skeleton) + 1)


def soft_skeleton(image: Tensor, iterations: int) -> Tensor:
    """Return the centrelines of bright structures, by poolings that gradients pass.

    What an opening takes away belongs to the skeleton; the image is eroded step by step, so that the centrelines of
    thicker structures come out later (Algorithm 1 of the clDice paper, with the neighbourhoods of the authors' code:
    erosion by the direct neighbours, dilation by the diagonal ones, too).

    Parameters
    ----------
    image : Tensor
        (N, C, H, W) or (N, C, D, H, W), values from 0 to 1.
    iterations : int
        Erosions; at least the largest radius in pixels, or thick structures are left without a centreline.

    Returns
    -------
    Tensor
        The shape of `image`, values from 0 to 1.
    """
    eroded = _erode(image)
    skeleton = (image - _dilate(eroded)).relu()
    for _ in range(iterations):
        image, eroded = eroded, _erode(eroded)
        skeleton = skeleton + (1 - skeleton) * (image - _dilate(eroded)).relu()
    return skeleton


def _erode(image: Tensor) -> Tensor:
    axes = image.ndim - 2
    negative, least = -image, None
    for axis in range(axes):
        size = [3 if other == axis else 1 for other in range(axes)]
        lines = _max_pool(negative, size)
        least = lines if least is None else torch.maximum(least, lines)
    assert least is not None
    return -least


def _dilate(image: Tensor) -> Tensor:
    return _max_pool(image, [3] * (image.ndim - 2))


def _max_pool(image: Tensor, size: list[int]) -> Tensor:
    pool = F.max_pool2d if image.ndim == 4 else F.max_pool3d
    return pool(image, size, stride=1, padding=[length // 2 for length in size])


class ClDiceLoss(RegionLoss):
    """The Dice loss and the centreline Dice loss: for vessels, roads, neurites, which shall not be cut.

    ``(1 - alpha) Dice + alpha (1 - 2 Tprec Tsens / (Tprec + Tsens))``, where ``Tprec`` is the part of the predicted
    skeleton inside the true region, and ``Tsens`` that of the true skeleton inside the predicted one (Shit et al.,
    "clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation", CVPR 2021). As in the
    authors' code, one pixel is added to both sides of these two ratios; the class means are those of `DiceLoss`. On
    CUDA, torch has no deterministic gradient for the poolings of volumes.

    Parameters
    ----------
    mode, class_weights, absent
        As for `DiceLoss`. In multiclass mode the background has a skeleton too; a weight of 0 leaves it out.
    alpha : float
        From 0, Dice alone, to 1.
    iterations : int
        Erosions of the skeleton: at least the largest radius of a structure, in pixels. Time grows with it.
    ignore_index : int, optional
        Pixels with this value in the target count nowhere, and are background to the skeletons.

    Examples
    --------
    ``self.criterion = ClDiceLoss("binary", iterations=5)``
    """

    def __init__(
        self,
        mode: Mode,
        *,
        alpha: float = 0.5,
        iterations: int = 10,
        class_weights: ClassWeights = None,
        ignore_index: int | None = None,
        absent: Absent = "count",
    ) -> None:
        super().__init__(mode, class_weights=class_weights, ignore_index=ignore_index, absent=absent)
        _check_cldice(alpha, iterations)
        self.alpha = alpha
        self.iterations = iterations

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return `cldice_loss` with the arguments of this module."""
        return cldice_loss(
            logits,
            target,
            self.mode,
            alpha=self.alpha,
            iterations=self.iterations,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            absent=self.absent,
        )


def _check_cldice(alpha: float, iterations: int) -> None:
    check_number("alpha", alpha, 0, 1)
    if not isinstance(iterations, int) or iterations < 0:
        raise ConfigError(f"iterations={iterations!r}, expected a whole number from 0 up.")
