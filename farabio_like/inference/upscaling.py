"""`upscale`: an image made larger by a network, tile by tile. Files are read and written elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..components import unwrap
from ..data.image_files import LUMINANCE
from ..errors import ConfigError, DataError, HookError, NonFiniteError
from .model import device_of, evaluation_mode
from .progress import progress_bar
from .windows import native

Image = TypeVar("Image", Tensor, "npt.NDArray[Any]")

RANGES: dict[Any, float] = {torch.uint8: 255, torch.uint16: 65535}  # of other types a pixel is what it is
REACH_OF_BICUBIC = 2  # pixels that count to either side
COLOURS = 3  # channels that a network takes where nothing tells
WITH_ALPHA = (2, 4)  # channels of an image whose last one is transparency


def upscale(
    model: Callable[[Tensor], Tensor],
    image: Image,
    tile: int | None = 256,
    overlap: int = 16,
    channels: int | None = None,
    device: torch.device | str | None = None,
) -> Image:
    """Return an image as a network makes it larger, tile by tile, of the same kind.

    A tile is given to the network with `overlap` pixels of the image around it, of which the result is cut off. So no
    seam is seen, and where `overlap` is as far as the network looks, the result is that of the whole image at once.
    Memory holds image and result, and what the network needs for one tile. A module runs in eval mode without
    gradients, and gets the training flags of all its parts back.

    Parameters
    ----------
    model : module or callable
        Gets images of 1 x C x height x width, from 0 to 1; gives 1 x C x scale * height x scale * width.
    image : array or Tensor
        An array of height x width or height x width x channels, also a memory map; a tensor of C x height x width or
        N x C x height x width. uint8 and uint16 are divided by 255 and 65535, floating-point numbers are given as they
        are. Of 2 or 4 channels that the network does not take, the last one is the transparency, which is enlarged
        by a bicubic filter. A grey image for a network of colours is three equal channels; of colours for a network of
        grey images every channel is one.
    tile : int, optional
        Height and width of tiles, in pixels of the image. None for the whole image at once.
    overlap : int
        Pixels around a tile, on every side.
    channels : int, optional
        Those that the network takes. Default: its attribute ``channels``, or what its first convolution takes, or 3.
    device : torch.device or str, optional
        Where the network computes: where its parameters are, by default; for a function, where the image is.

    Returns
    -------
    array or Tensor
        Of the type of the image, `scale` times as high and wide, on the device of the image. Integers are rounded and
        kept in their range; floating-point numbers are as the network gives them.

    Raises
    ------
    ConfigError
        For a tile, an overlap, channels or a device that are not allowed.
    DataError
        For an image of another kind or shape.
    HookError
        If the network gives another shape than a multiple of what it got.
    NonFiniteError
        If it gives NaN or infinite values for an image of integers.

    Examples
    --------
    >>> model = torch.nn.Upsample(scale_factor=2)
    >>> upscale(model, np.zeros((50, 33, 3), np.uint8), tile=32).shape
    (100, 66, 3)
    """
    check_settings(tile, overlap, channels)
    _check_image(image)
    source = Source(image)
    plan = _plan(source.channels, channels_of(model) if channels is None else channels)
    if plan.alpha:
        overlap = max(overlap, REACH_OF_BICUBIC)
    device = device_of(model, image, device)
    dtype = _dtype_of(model)
    target: Image | None = None
    tiles = list(_tiles(source.size, tile, overlap))
    with evaluation_mode(model), progress_bar(source.images * len(tiles), "upscale", "tile") as advance:
        for number, (outer, inner) in itertools.product(range(source.images), tiles):
            window = source.read(number, outer)
            found, scale = _enlarged(model, window, plan, dtype, device)
            if target is None:
                target = source.empty(scale)
            rows, columns = (_scaled(part, scale) for part in _within(inner, outer))
            box = tuple(_scaled(part, scale) for part in inner)
            source.write(target, number, box, found[:, rows, columns])
            advance(1)
    assert target is not None
    return target


@dataclass(frozen=True)
class Plan:
    """How the channels of an image go through a network.

    Attributes
    ----------
    takes : int
        Channels of what the network gets.
    colours : int
        Channels of the image without its transparency.
    alpha : bool
    """

    takes: int
    colours: int
    alpha: bool


class Source:
    """An image, read as tensors of 0 to 1 by parts, and written as its own kind.

    Parameters
    ----------
    image : array or Tensor

    Attributes
    ----------
    images, channels : int
    size : pair of int
        Height and width.
    """

    def __init__(self, image: Any) -> None:
        self.image = image
        self.is_tensor = isinstance(image, Tensor)
        self.dtype = image.dtype if self.is_tensor else torch.from_numpy(np.empty(0, native(image.dtype))).dtype
        self.range = RANGES.get(self.dtype)
        self.images = image.shape[0] if self.is_tensor and image.ndim == 4 else 1
        if self.is_tensor:
            self.channels = image.shape[-3]
            self.size = (image.shape[-2], image.shape[-1])
        else:
            self.channels = image.shape[2] if image.ndim == 3 else 1
            self.size = (image.shape[0], image.shape[1])

    def read(self, number: int, box: tuple[slice, slice]) -> Tensor:
        """Return a part of an image, channels x height x width."""
        if self.is_tensor:
            part = self.image[(number, ..., *box) if self.image.ndim == 4 else (..., *box)]
        else:
            array = np.array(self.image[box], native(self.image.dtype))
            part = torch.from_numpy(array.reshape(*array.shape[:2], self.channels)).permute(2, 0, 1)
        return part if self.range is None else part.float() / self.range

    def empty(self, scale: int) -> Any:
        """Return room for the result."""
        size = tuple(scale * length for length in self.size)
        if self.is_tensor:
            return self.image.new_empty((*self.image.shape[:-2], *size))
        return np.empty((*size, *self.image.shape[2:]), native(self.image.dtype))

    def write(self, target: Any, number: int, box: tuple[slice, ...], found: Tensor) -> None:
        """Write a part of the result."""
        if self.range is not None:
            if not found.isfinite().all():
                raise NonFiniteError(
                    "the network gives NaN or infinite values. If it computes in half precision, write model.float()."
                )
            found = (found.clamp(0, 1) * self.range).round()
        if self.is_tensor:
            part = target[(number, ..., *box) if self.image.ndim == 4 else (..., *box)]
            part.copy_(found.to(self.dtype))
        else:
            array = found.permute(1, 2, 0).cpu().numpy()
            target[box] = array.reshape(*array.shape[:2], *self.image.shape[2:])


def check_settings(tile: Any, overlap: Any, channels: Any = None) -> None:
    """Raise a ConfigError for a setting of `upscale` that is not allowed."""
    for name, value, least in (("tile", tile, 1), ("overlap", overlap, 0), ("channels", channels, 1)):
        if value is None and name != "overlap":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ConfigError(
                f"upscale({name}={value!r}): expected a whole number, {least} or more. Write {name}={max(16, least)}."
            )


def _check_image(image: Any) -> None:
    is_tensor = isinstance(image, Tensor)
    if not is_tensor and not isinstance(image, np.ndarray):
        raise DataError(
            f"the image is a {type(image).__name__}; expected an array of height x width x channels, or a tensor of "
            "C x height x width. Of a picture of Pillow write numpy.asarray(picture)."
        )
    if image.ndim not in ((3, 4) if is_tensor else (2, 3)) or 0 in image.shape:
        expected = "C x height x width, or N of them" if is_tensor else "height x width, or height x width x channels"
        raise DataError(f"the image has the shape {tuple(image.shape)}; expected {expected}.")
    kind = image.dtype
    good = kind in RANGES or kind.is_floating_point if is_tensor else kind.kind == "f" or kind in (np.uint8, np.uint16)
    if not good or (not is_tensor and kind.kind == "f" and kind.itemsize > 8):
        raise DataError(f"the image is of {kind}; expected uint8, uint16, or floating-point numbers of 0 to 1.")


def channels_of(model: Any) -> int:
    """Return how many channels a network takes."""
    if not isinstance(model, nn.Module):
        return COLOURS
    told = getattr(unwrap(model), "channels", None)
    if isinstance(told, int) and not isinstance(told, bool):
        return told
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), COLOURS)


def _dtype_of(model: Any) -> torch.dtype:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((value.dtype for value in parameters if value.is_floating_point()), torch.float32)


def _plan(channels: int, takes: int) -> Plan:
    if channels == takes:
        return Plan(takes, channels, False)
    alpha = channels in WITH_ALPHA
    colours = channels - alpha
    if takes not in (1, colours) and colours != 1:
        raise DataError(
            f"the image has {channels} channels, and the network takes {takes}. Arrays have the channels last, tensors "
            "first; for a network whose first layer does not tell what it takes write upscale(channels=...)."
        )
    return Plan(takes, colours, alpha)


def _tiles(size: tuple[int, int], tile: int | None, overlap: int) -> Iterator[tuple[Any, Any]]:
    """Yield rows and columns of every tile with what is around it, and of the tile alone."""
    sides = []
    for length in size:
        step = length if tile is None else tile
        starts = range(0, length, step)
        parts = [slice(start, min(start + step, length)) for start in starts]
        wider = [slice(max(0, part.start - overlap), min(length, part.stop + overlap)) for part in parts]
        sides.append(list(zip(wider, parts, strict=True)))
    for rows, columns in itertools.product(*sides):
        yield (rows[0], columns[0]), (rows[1], columns[1])


def _within(inner: Any, outer: Any) -> Iterator[slice]:
    """Yield where a tile lies in the window around it."""
    for part, whole in zip(inner, outer, strict=True):
        yield slice(part.start - whole.start, part.stop - whole.start)


def _scaled(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)


def _enlarged(model: Any, window: Tensor, plan: Plan, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """Return what a window becomes, with the channels of the image, and how many times as large."""
    kept = window.dtype
    window = window.to(device)
    colours = window[: plan.colours]
    if plan.colours == plan.takes:
        batch = colours[None]
    elif plan.takes == 1:
        batch = colours[:, None]
    else:
        batch = colours[None].expand(-1, plan.takes, -1, -1)
    found = model(batch.to(dtype))
    scale = _scale_of(found, batch)
    found = found.to(kept if kept.itemsize >= 4 else torch.float32)
    if plan.takes == 1:
        found = found[:, 0]
    elif plan.colours == plan.takes:
        found = found[0]
    elif plan.takes == COLOURS:
        found = (found[0] * found.new_tensor(LUMINANCE).reshape(3, 1, 1)).sum(0, keepdim=True)
    else:
        found = found[0].mean(0, keepdim=True)
    if plan.alpha:
        alpha = window[None, plan.colours :].to(found.dtype)
        larger = F.interpolate(alpha, scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)
        found = torch.cat([found, larger[0]])
    return found, scale


def _scale_of(found: Any, batch: Tensor) -> int:
    got = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[:2] == batch.shape[:2]:
        scale = found.shape[-1] // batch.shape[-1]
        if scale > 0 and tuple(found.shape[-2:]) == tuple(scale * length for length in batch.shape[-2:]):
            return scale
    raise HookError(
        f"the network gave {got} for images of {tuple(batch.shape)}; expected the same number of images and channels, "
        "and a whole multiple of height and width."
    )
