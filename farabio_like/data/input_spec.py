"""`InputSpec`: how a picture becomes the input of a network, said in plain data, so that a run folder can hold it.

How a file becomes pixels is in `image_files`, what the outputs mean in `output_spec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError, closest
from . import image_files
from .image_files import LUMINANCE, Array

MODES = {"L": 1, "F": 1, "RGB": 3}  # channels
FITS = ("resize", "pad", "crop")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
SCALINGS = ("divide", "multiply")
EXAMPLE = 'self.input_spec = {"size": [28, 28], "mode": "L"}'
LARGEST_SIDE = 1 << 16  # pixels


@dataclass(frozen=True)
class InputSpec:
    """How a picture becomes an input: a float32 tensor of channels x height x width.

    The picture is turned as its camera says, read in a mode, brought to a size, scaled, and normalised, in this order.

    Parameters
    ----------
    mode : {"L", "F", "RGB"}
        ``"L"``: one grey channel, of colours the luminance in whole numbers, as Pillow rounds it; ``"F"``: the same
        without rounding; ``"RGB"``: three channels, of grey pictures three times the same. Without alpha.
    size : int or pair of int, optional
        Height and width of the input, in pixels; default: those of the picture.
    fit : {"resize", "pad", "crop"}
        How a picture of another size is brought to `size`. ``"resize"``: stretched. ``"pad"``: made to fit in, in its
        proportions, with black at the lower and right side. ``"crop"``: its shorter side is made `shorter` long, and
        the middle is cut out.
    shorter : int, optional
        For ``"crop"``, in pixels; default: so that the picture just covers `size`.
    interpolation : {"bilinear", "nearest", "bicubic", "lanczos", "box", "hamming"}
        Pillow's filter where the size changes.
    scale : float, optional
        Pixels are divided by it. Default: integers by the largest of their type, 255 for 8 bits, which makes them 0 to
        1; floating-point numbers stay what they are.
    scaling : {"divide", "multiply"}
        ``"multiply"``: by 1 / `scale`, as torchvision's transforms of version 2 do; the last bit may differ.
    mean, std : float or sequence of float, optional
        Of every channel, after the scaling: ``(pixel - mean) / std``.

    Raises
    ------
    ConfigError
        For a value that is not allowed.

    Examples
    --------
    >>> spec = InputSpec(mode="L", size=8)
    >>> spec.prepare(np.full((16, 16), 255, np.uint8)).shape
    torch.Size([1, 8, 8])
    """

    mode: str
    size: tuple[int, int] | None = None
    fit: str = "resize"
    shorter: int | None = None
    interpolation: str = "bilinear"
    scale: float | None = None
    scaling: str = "divide"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("mode", MODES), ("fit", FITS), ("interpolation", FILTERS), ("scaling", SCALINGS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                hint = closest(str(value), allowed)
                raise ConfigError(f"input_spec: {name}={value!r}; expected one of {', '.join(allowed)}.{hint}")
        put = object.__setattr__  # a frozen dataclass takes its own values in the form that it keeps
        put(self, "size", _size(self.size))
        if self.shorter is not None:
            if self.fit != "crop" or not _is_side(self.shorter) or self.size is None or self.shorter < max(self.size):
                raise ConfigError(
                    f"input_spec: shorter={self.shorter!r}; expected pixels of the shorter side, no fewer than size "
                    'has, together with fit="crop".'
                )
        if self.fit != "resize" and self.size is None:
            raise ConfigError(f'input_spec: fit={self.fit!r} needs a size. Write "size": [224, 224].')
        put(self, "scale", _scale(self.scale))
        for name in ("mean", "std"):
            put(self, name, _per_channel(name, getattr(self, name), self.channels))
        if self.std is not None and not all(self.std):
            raise ConfigError(f"input_spec: std={list(self.std)}; expected numbers other than 0.")

    @classmethod
    def from_dict(cls, values: Any) -> InputSpec:
        """Return what plain data say: a dict with the names of the parameters.

        Raises
        ------
        ConfigError
            For a key that is not known, and for a value that is not allowed.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"input_spec is a {type(values).__name__}; expected a dict. Write {EXAMPLE}.")
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(
                    f"input_spec has {name!r}; expected some of {', '.join(names)}.{closest(str(name), names)}"
                )
        if "mode" not in values:
            raise ConfigError(f'input_spec has no mode: "L" for grey pictures, "RGB" for colours. Write {EXAMPLE}.')
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` takes."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        default = {field.name: field.default for field in fields(self)}
        known = {name: value for name, value in given.items() if value is not None and value != default[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}

    @property
    def channels(self) -> int:
        """The channels of an input."""
        return MODES[self.mode]

    def prepare(self, image: Any, most_pixels: int | None = None, name: str | None = None) -> Tensor:
        """Return a picture as an input.

        Parameters
        ----------
        image : path, bytes of a file, open binary file, PIL.Image.Image, or array
            Of an array height x width, or height x width x channels.
        most_pixels : int, optional
            A picture of more is refused before it is decoded.
        name : str, optional
            What a message calls it; default: its path.

        Returns
        -------
        Tensor
            float32, channels x height x width.

        Raises
        ------
        DataError
            For what is no picture, is damaged, or has channels that the mode does not say how to read.
        FileNotFoundError
            For a path that is not there.
        """
        name = name_of(image) if name is None else name
        array = image_files.pixels_of(image, name, most_pixels)
        array = self._fitted(self._in_mode(array, name))
        if self.scale is None and (self.scaling == "divide" or array.dtype.kind != "u"):
            tensor = image_files.image_tensor(array, name)
        else:
            tensor = image_files.channels_first(self._scaled(array))
        tensor = image_files.with_channels(tensor, self.channels, name)
        if not torch.isfinite(tensor).all():
            raise DataError(f"{name} has pixels that are NaN or infinite; expected finite numbers.")
        if self.mean is not None:
            tensor = tensor - torch.tensor(self.mean).reshape(-1, 1, 1)
        return tensor if self.std is None else tensor / torch.tensor(self.std).reshape(-1, 1, 1)

    def _scaled(self, array: Array) -> Array:
        scale = np.iinfo(array.dtype).max if self.scale is None else self.scale
        numbers = array.astype(np.float32)
        return numbers * np.float32(1.0 / scale) if self.scaling == "multiply" else numbers / np.float32(scale)

    def restore(self, mask: Array, size: tuple[int, int]) -> Array:
        """Return a mask of an input as one of its picture, by the nearest pixels; of what was cut out, as it is.

        Parameters
        ----------
        mask : array
            Integers, height x width of the input.
        size : pair of int
            Height and width of the picture.
        """
        if self.size is None or self.fit == "crop" or mask.shape != self.size:
            return mask
        if self.fit == "pad":
            height, width = _inside(size, self.size)
            mask = mask[:height, :width]
        return mask if mask.shape == tuple(size) else _resized(mask, size, "nearest")

    def _in_mode(self, array: Array, name: str) -> Array:
        """Return pixels with one channel or three, of which "F" takes colours as they are and makes them grey later."""
        if array.ndim == 3 and array.shape[2] in (1, 2, 4):  # grey, and with an alpha channel
            array = array[..., 0] if array.shape[2] < 3 else array[..., :3]
        if array.ndim == 3 and array.shape[2] != 3:
            raise DataError(f"{name} has {array.shape[2]} channels; expected 1 or 3, for mode={self.mode!r}.")
        if self.mode == "L" and array.ndim == 3:
            if array.dtype == np.uint8:
                return np.asarray(_pillow().fromarray(np.ascontiguousarray(array)).convert("L"))
            return (array * np.array(LUMINANCE, np.float64)).sum(-1).astype(array.dtype)
        return array

    def _fitted(self, array: Array) -> Array:
        size = (array.shape[0], array.shape[1])
        if self.size is None or size == self.size and self.shorter is None:
            return array
        if self.fit == "resize":
            return _resized(array, self.size, self.interpolation)
        if self.fit == "pad":
            inner = _resized(array, _inside(size, self.size), self.interpolation)
            missing = [(0, whole - there) for whole, there in zip(self.size, inner.shape[:2], strict=True)]
            return np.pad(inner, [*missing, (0, 0)][: array.ndim])
        array = _resized(array, _covering(size, self.size, self.shorter), self.interpolation)
        # As torchvision's CenterCrop rounds.
        top, left = (int(round((array.shape[axis] - self.size[axis]) / 2)) for axis in (0, 1))
        return array[top : top + self.size[0], left : left + self.size[1]]


def name_of(image: Any) -> str:
    """Return what a message calls a picture: its path, or what it is."""
    if isinstance(image, (str, Path)):
        return str(image)
    name = getattr(image, "filename", None) or getattr(image, "name", None)
    return name if isinstance(name, str) else "the picture"


def _pillow() -> Any:
    return image_files.pillow()


def _resized(array: Array, size: tuple[int, int], interpolation: str) -> Array:
    """Return pixels in another size, by Pillow: 8 bits as 8 bits, anything else in floating point."""
    if array.shape[:2] == tuple(size):
        return array
    image, method = _pillow(), getattr(_pillow().Resampling, interpolation.upper())
    if array.dtype == np.uint8:
        return np.asarray(image.fromarray(np.ascontiguousarray(array)).resize(size[::-1], method))
    planes = [array] if array.ndim == 2 else [array[..., channel] for channel in range(array.shape[2])]
    whole = array.dtype.kind in "ui"
    done = []
    for plane in planes:
        found = np.asarray(image.fromarray(plane.astype(np.float32)).resize(size[::-1], method))
        # Back in the type, by which the scaling goes.
        limits = np.iinfo(array.dtype) if whole else None
        done.append(found if limits is None else found.round().clip(limits.min, limits.max).astype(array.dtype))
    return done[0] if array.ndim == 2 else np.stack(done, -1)


def _inside(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a picture that is made to fit into a room, in its proportions."""
    factor = min(room[0] / size[0], room[1] / size[1])
    height, width = (min(whole, max(1, round(side * factor))) for whole, side in zip(room, size, strict=True))
    return height, width


def _covering(size: tuple[int, int], room: tuple[int, int], shorter: int | None) -> tuple[int, int]:
    """Return height and width of a picture that is made to cover a room; of a shorter side as torchvision's Resize."""
    if shorter is None:
        factor = max(room[0] / size[0], room[1] / size[1])
        return max(room[0], round(size[0] * factor)), max(room[1], round(size[1] * factor))
    longer = int(shorter * max(size) / min(size))
    return (shorter, longer) if size[0] <= size[1] else (longer, shorter)


# ---------------------------------------------------------------- values


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIDE


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _size(value: Any) -> tuple[int, int] | None:
    sides = (value, value) if isinstance(value, int) else value
    if sides is None:
        return None
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(map(_is_side, sides)):
        raise ConfigError(f'input_spec: size={value!r}; expected height and width in pixels: "size": [224, 224].')
    return (sides[0], sides[1])


def _scale(value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or value <= 0:
        raise ConfigError(f"input_spec: scale={value!r}; expected a number above 0, by which pixels are divided: 255.")
    if value < 1:
        raise ConfigError(
            f"input_spec: scale={value!r}; pixels are divided by it, so a number below 1 makes them larger. Write "
            f'"scale": {1 / value:.6g}.'
        )
    return value


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    given = [value] if _is_number(value) else value
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(map(_is_number, given)):
        raise ConfigError(f"input_spec: {name}={value!r}; expected a number, or one for each channel.")
    if len(given) not in (1, channels):
        raise ConfigError(f"input_spec: {name} has {len(given)} numbers; expected {channels}, one for each channel.")
    return tuple(float(number) for number in given) * (channels if len(given) == 1 else 1)
