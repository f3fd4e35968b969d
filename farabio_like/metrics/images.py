"""`psnr` and `ssim` of images, by the two protocols that papers report. The callbacks of them are in `callbacks`."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, DataError, closest

Protocol = Literal["rgb", "y"]

# Luma from 16 to 235 of 255, of red, green and blue from 0 to 1: ITU-R BT.601, studio range.
LUMA, BLACK = (65.481 / 255, 128.553 / 255, 24.966 / 255), 16 / 255
WINDOW, SIGMA = 11, 1.5  # of SSIM, in pixels
K1, K2 = 0.01, 0.03


def psnr(image: Tensor, target: Tensor, data_range: float = 1.0, protocol: Protocol = "rgb", crop: int = 0) -> Tensor:
    """Return the peak signal-to-noise ratio in decibels, the mean over the images.

    ``10 log10(data_range**2 / mse)`` of each image, the mean squared error over its pixels and channels. Of an image
    that equals its target it is infinite, and so is the mean with it; a warning says so.

    Parameters
    ----------
    image, target : Tensor
        N x C x height x width, or C x height x width of one. They are not clamped.
    data_range : float
        How far the values of images may be apart: 1 for images of 0 to 1, 255 for those of 0 to 255.
    protocol : {"rgb", "y"}
        ``"rgb"`` compares all channels; ``"y"`` the luma of BT.601 in studio range, as papers on super-resolution do.
        A grey image counts as one of three equal channels. For ``"y"`` images begin at 0.
    crop : int
        Pixels that are left out at every border: with ``"y"``, papers leave out as many as the scale.

    Returns
    -------
    Tensor
        A scalar, float64.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For images of different shapes, or with nothing left of them.
    """
    each = psnr_of_each(image, target, data_range, protocol, crop)
    if each.isinf().any():
        warnings.warn(identical(int(each.isinf().sum()), len(each)), stacklevel=2)
    return each.mean()


def ssim(image: Tensor, target: Tensor, data_range: float = 1.0, protocol: Protocol = "rgb", crop: int = 0) -> Tensor:
    """Return the structural similarity, the mean over the images: 1 of an image that equals its target.

    As Wang et al. 2004 ("Image quality assessment", IEEE Transactions on Image Processing 13) define it, with their
    Gaussian window of 11 x 11 pixels and a standard deviation of 1.5, where it lies wholly in the image, K1 = 0.01 and
    K2 = 0.03; the mean over the channels. Images are never made smaller before, as papers on super-resolution do not.

    Parameters
    ----------
    image, target, data_range, protocol, crop
        As `psnr` takes them. What is left has 11 x 11 pixels or more.

    Returns
    -------
    Tensor
        A scalar, float64.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For images of different shapes, or too small.
    """
    return ssim_of_each(image, target, data_range, protocol, crop).mean()


def psnr_of_each(image: Tensor, target: Tensor, data_range: float, protocol: Protocol, crop: int) -> Tensor:
    """Return the PSNR of each image, N in float64; infinite where it equals its target."""
    image, target = _prepared(image, target, data_range, protocol, crop, "psnr", 1)
    return -10 * (image - target).square().mean((1, 2, 3)).log10()


def ssim_of_each(image: Tensor, target: Tensor, data_range: float, protocol: Protocol, crop: int) -> Tensor:
    """Return the SSIM of each image, N in float64."""
    image, target = _prepared(image, target, data_range, protocol, crop, "ssim", WINDOW)
    mean_x, mean_y = _blurred(image), _blurred(target)
    var_x, var_y = _blurred(image.square()) - mean_x.square(), _blurred(target.square()) - mean_y.square()
    covariance = _blurred(image * target) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x.square() + mean_y.square() + K1**2)
    return (luminance * (2 * covariance + K2**2) / (var_x + var_y + K2**2)).mean((1, 2, 3))


def identical(images: int, of: int) -> str:
    """Return what is said of images that equal their targets."""
    return (
        f"{images} of {of} images equal their targets: their PSNR is infinite, and so is the mean. "
        "Is the target compared with itself?"
    )


def check_settings(owner: str, data_range: Any, protocol: Any, crop: Any) -> None:
    """Raise a ConfigError for a setting of PSNR or SSIM that is not allowed."""
    if protocol not in get_args(Protocol):
        hint = closest(str(protocol), get_args(Protocol))
        raise ConfigError(f"{owner}(protocol={protocol!r}): expected 'rgb' or 'y'.{hint}")
    if isinstance(data_range, bool) or not isinstance(data_range, (int, float)) or not 0 < data_range < math.inf:
        raise ConfigError(
            f"{owner}(data_range={data_range!r}): expected a number above 0, 1 for images of 0 to 1: data_range=1."
        )
    if isinstance(crop, bool) or not isinstance(crop, int) or crop < 0:
        raise ConfigError(f"{owner}(crop={crop!r}): expected a number of pixels, 0 or more. Write crop=4.")


def _prepared(
    image: Tensor, target: Tensor, data_range: float, protocol: Protocol, crop: int, owner: str, least: int
) -> tuple[Tensor, Tensor]:
    """Return both as float64 with a range of 1, cropped, in the channels that are compared."""
    check_settings(owner, data_range, protocol, crop)
    for name, value in (("image", image), ("target", target)):
        if not isinstance(value, Tensor):
            raise DataError(f"{owner}({name}=...) is a {type(value).__name__}; expected a tensor.")
    if image.shape != target.shape or image.ndim not in (3, 4) or 0 in image.shape:
        raise DataError(
            f"{owner} got an image of the shape {tuple(image.shape)} and a target of {tuple(target.shape)}; expected "
            "twice N x C x height x width, or twice C x height x width."
        )
    if image.dtype != target.dtype and not (image.is_floating_point() and target.is_floating_point()):
        raise DataError(
            f"{owner} got an image of {image.dtype} and a target of {target.dtype}; expected the same range, and "
            "the same type: image / 255."
        )
    height, width = (side - 2 * crop for side in image.shape[-2:])
    if min(height, width) < least:
        raise DataError(
            f"{owner} got images of {image.shape[-2]} x {image.shape[-1]} pixels, of which crop={crop} leaves "
            f"{max(height, 0)} x {max(width, 0)}; expected {least} x {least} or more."
        )
    found = []
    for value in (image, target):
        value = value.reshape(-1, *value.shape[-3:])[..., crop : crop + height, crop : crop + width]
        # The difference of means of squares loses the digits that float32 has; mps has no others.
        value = (value.float() if value.device.type == "mps" else value.double()) / data_range
        found.append(_luma(value, owner) if protocol == "y" else value)
    return found[0], found[1]


def _luma(images: Tensor, owner: str) -> Tensor:
    if images.shape[1] not in (1, 3):
        raise DataError(f"{owner}(protocol='y') got {images.shape[1]} channels; expected red, green and blue, or grey.")
    weights = images.new_tensor(LUMA).reshape(3, 1, 1)
    return (images * weights).sum(1, keepdim=True) + BLACK


def _blurred(images: Tensor) -> Tensor:
    """Return the means under the Gaussian window, where it lies wholly in the image."""
    distance = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    weights = torch.exp(-((distance / SIGMA) ** 2) / 2)
    weights = (weights / weights.sum()).reshape(1, 1, -1, 1)
    n, c, *size = images.shape
    rows = F.conv2d(images.reshape(n * c, 1, *size), weights)
    blurred = F.conv2d(rows, weights.mT)
    return blurred.reshape(n, c, *blurred.shape[2:])
