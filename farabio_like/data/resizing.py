"""`downscale`: images made smaller by a whole number as data sets of super-resolution are. Files are read elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, DataError

SHARPNESS = -0.5  # Keys' parameter of the cubic


def downscale(image: Tensor, scale: int) -> Tensor:
    """Return images with a `scale`-th of the height and width, by a bicubic filter that is as much wider.

    As MATLAB's ``imresize(image, 1 / scale, "bicubic")`` does, by which the low-resolution images of DIV2K were made:
    the cubic of Keys (1981, "Cubic convolution interpolation for digital image processing") with the parameter -0.5,
    stretched by the scale against aliasing, and the image mirrored at its borders. More than two pixels of the result
    away from them it equals ``torch.nn.functional.interpolate(..., mode="bicubic", antialias=True)``.

    Parameters
    ----------
    image : Tensor
        C x height x width or N x C x height x width. Floating-point numbers, or uint8.
    scale : int
        A whole number, 1 or more.

    Returns
    -------
    Tensor
        Of the same type: uint8 is rounded and kept from 0 to 255, floating-point numbers may go a little beyond the
        range of the image. Height and width are rounded up, as MATLAB does.

    Raises
    ------
    ConfigError
        For another scale.
    DataError
        For an image of another kind or shape.

    Examples
    --------
    >>> downscale(torch.rand(3, 96, 50), 4).shape
    torch.Size([3, 24, 13])
    """
    check_scale("downscale", scale)
    if not isinstance(image, Tensor):
        raise DataError(
            f"downscale got a {type(image).__name__}; expected a tensor of C x height x width. Of an array with the "
            "channels last write torch.from_numpy(array).permute(2, 0, 1)."
        )
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise DataError(
            f"downscale got an image of the shape {tuple(image.shape)}; expected C x height x width, or N of them."
        )
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise DataError(f"downscale got an image of {image.dtype}; expected floating-point numbers, or uint8.")
    exact = image if image.dtype == torch.float64 else image.float()
    weights, first = _weights(scale)
    weights = weights.to(exact)
    for axis in (-2, -1):
        exact = _filtered(exact, weights, first, scale, axis)
    return exact.round().clamp(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else exact.to(image.dtype)


def check_scale(owner: str, scale: object) -> None:
    """Raise a ConfigError for a scale that is no whole number."""
    if type(scale) is not int or scale < 1:
        raise ConfigError(f"{owner}(scale={scale!r}): expected a whole number, 1 or more. Write scale=4.")


def _weights(scale: int) -> tuple[Tensor, int]:
    """Return what the pixels around the first one of the result weigh, and the place of the first of them."""
    middle = (scale - 1) / 2  # of the pixels that the first one of the result covers
    first = -((3 * scale + 1) // 2)  # not further than 2 * scale from the middle, where the cubic ends
    places = torch.arange(first, scale - first, dtype=torch.float64)
    x = ((places - middle) / scale).abs()
    a = SHARPNESS
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    weights = torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))
    return weights / weights.sum(), first


def _filtered(image: Tensor, weights: Tensor, first: int, scale: int, axis: int) -> Tensor:
    """Return an image made smaller along one axis."""
    length = image.shape[axis]
    short = -(-length // scale)
    places = torch.arange(first, first + (short - 1) * scale + len(weights), device=image.device) % (2 * length)
    mirrored = torch.minimum(places, 2 * length - 1 - places)
    rows = image.index_select(axis, mirrored).movedim(axis, -1)
    found = F.conv1d(rows.reshape(-1, 1, rows.shape[-1]), weights.reshape(1, 1, -1), stride=scale)
    return found.reshape(*rows.shape[:-1], short).movedim(-1, axis)
