"""Files of images and of masks as arrays: PNG, TIFF, JPEG and others through Pillow, NPY through NumPy.

What the numbers of a mask mean, and which image a mask belongs to, is in `image_masks`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError

Array = np.ndarray[Any, Any]  # without numpy.typing, which is slow to load

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy")
LOSSY = (".jpg", ".jpeg")

# Of Pillow's modes: those of one channel and of colours, each with the mode that its pixels are read in.
_READ_AS = {
    **{"1": "L", "L": "L", "LA": "L", "La": "L", "I": "I", "I;16": "I;16", "I;16B": "I;16B", "I;16L": "I;16L"},
    **{"F": "F", "RGB": "RGB", "RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB", "P": "RGB", "PA": "RGB"},
    **{"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"},
}
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow takes them


def read_image(path: str | Path) -> Tensor:
    """Return the image of a file.

    An alpha channel is left out, colours of a palette are looked up, and a photograph is turned as its camera says.
    Where Pillow knows 8 bits only, as of colours in 16 bits, the image has 8 bits.

    Parameters
    ----------
    path : path
        PNG, TIFF, JPEG, BMP, or NPY of height x width or height x width x channels.

    Returns
    -------
    Tensor
        float32, channels x height x width. Integers are divided by the largest of their type, which makes them 0 to 1:
        by 255 for 8 bits, by 65535 for 16 bits. Floating-point numbers stay what they are.

    Raises
    ------
    DataError
        For a file that is damaged, or holds no image; it names the file.
    FileNotFoundError
        If there is none.
    """
    return image_tensor(pixels(path), path)


def pixels(path: str | Path, box: tuple[slice, slice] | None = None) -> Array:
    """Return the pixels of an image as they are in the file, height x width, or height x width x channels.

    Parameters
    ----------
    path : path
    box : pair of slices, optional
        The rows and columns to read. Of an NPY file no others are.
    """
    path = Path(path)
    found = _array(path, (2, 3)) if path.suffix.lower() == ".npy" else _decoded(path, of_mask=False)
    return np.ascontiguousarray(found if box is None else found[box])


def mask_pixels(path: str | Path, box: tuple[slice, slice] | None = None) -> Array:
    """Return the numbers in a mask as they are in the file, height x width; of colours height x width x 3.

    Of a palette these are its numbers, not its colours. Three channels that are all the same are one.
    """
    path = Path(path)
    found = _array(path, (2, 3)) if path.suffix.lower() == ".npy" else _decoded(path, of_mask=True)
    found = np.ascontiguousarray(found if box is None else found[box])
    if found.ndim == 3 and (found == found[..., :1]).all():
        return found[..., 0]
    return found


def size_of(path: str | Path) -> tuple[int, int]:
    """Return height and width of an image, without its pixels where the file tells them."""
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _array(path, (2, 3)).shape[:2]
    with open_image(path) as image:
        width, height = image.size
        try:  # of a PNG this reads the whole file
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # "Orientation": on its side
        except Exception as error:
            raise DataError(damaged(path, error)) from error
    return (width, height) if turned else (height, width)


def pixels_within(path: str | Path, choose: Callable[[tuple[int, int]], tuple[slice, slice]]) -> Array:
    """Return a part of an image as `pixels` does; what it is, `choose` says of height and width.

    A file is decoded once, where `size_of` would have to decode a PNG to know how it is turned.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return pixels(path, choose(size_of(path)))
    found = pixels(path)
    return np.ascontiguousarray(found[choose((found.shape[0], found.shape[1]))])


def shorter_side(path: str | Path) -> int:
    """Return the shorter of height and width of an image, by its header alone."""
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return min(_array(path, (2, 3)).shape[:2])
    with open_image(path) as image:
        return min(image.size)


def image_tensor(array: Array, path: str | Path) -> Tensor:
    """Return an array of pixels as a float32 tensor of channels x height x width, integers from 0 to 1."""
    if array.dtype == np.bool_:
        scaled = array.astype(np.float32)
    elif array.dtype.kind == "u":
        scaled = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    elif array.dtype.kind == "i":
        scaled = _signed(array, path)
    elif array.dtype.kind == "f":
        scaled = array.astype(np.float32)
        if not np.isfinite(scaled).all():
            wrong = int((~np.isfinite(scaled)).sum())
            raise DataError(f"{path} has {wrong} pixels that are NaN or infinite; expected finite numbers.")
    else:
        raise DataError(f"{path} has pixels of {array.dtype}; expected integers or floating-point numbers.")
    return channels_first(scaled)


def channels_first(array: Array) -> Tensor:
    """Return pixels, height x width or height x width x channels, as a tensor of channels x height x width."""
    image = torch.from_numpy(array)
    return image.unsqueeze(0) if image.ndim == 2 else image.permute(2, 0, 1).contiguous()


def with_channels(image: Tensor, channels: int, path: str | Path) -> Tensor:
    """Return an image with so many channels: a grey one repeated, one of colours made grey for 1.

    Raises
    ------
    DataError
        For other numbers; it names the file.
    """
    found = image.shape[0]
    if found == channels:
        return image
    if found == 1:
        return image.expand(channels, -1, -1).contiguous()
    if channels == 1 and found == 3:
        return (image * torch.tensor(LUMINANCE).reshape(3, 1, 1)).sum(0, keepdim=True)
    raise DataError(f"{path} has {found} channels; expected {channels}. Write channels={found}, say.")


def _signed(array: Array, path: str | Path) -> Array:
    """Return signed integers from 0 to 1: some readers give 16 bits without a sign as 32 bits with one."""
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or high > 65535:
        raise DataError(
            f"{path} has pixels from {low} to {high} of {array.dtype}, and no range that could be made 0 to 1. "
            "Save it as uint16, or as float32 in the range that the network is to see."
        )
    return array.astype(np.float32) / np.float32(65535)


def _array(path: Path, dimensions: tuple[int, ...]) -> Array:
    """Return the array of an NPY file as a memory map; nothing in it is run."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged header raises whatever its bytes lead to
        raise DataError(damaged(path, error)) from error
    if found.ndim not in dimensions or 0 in found.shape:
        raise DataError(
            f"{path} has the shape {found.shape}; expected height x width, or height x width x channels. "
            "An array with the channels first is array.transpose(1, 2, 0)."
        )
    if found.ndim == 3 and found.shape[0] <= 4 < found.shape[2]:
        raise DataError(
            f"{path} has the shape {found.shape}, which looks like channels x height x width; expected the channels "
            "last. Write numpy.save(path, array.transpose(1, 2, 0))."
        )
    return found


def pixels_of(image: Any, name: str, most_pixels: int | None = None) -> Array:
    """Return the pixels of a picture: of a path, the bytes of a file, an open one, an image of Pillow, an array.

    Parameters
    ----------
    image : path, bytes, binary file, PIL.Image.Image or array
    name : str
        What a message calls it.
    most_pixels : int, optional
        A picture of more is refused before it is decoded.

    Raises
    ------
    DataError
        For anything else, and for what is damaged.
    """
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or 0 in image.shape or image.dtype.kind not in "buif":
            raise DataError(
                f"{name} is an array of {image.dtype} and the shape {image.shape}; expected numbers of height x width, "
                "or height x width x channels."
            )
        found = image
    elif isinstance(image, (str, Path)) and Path(image).suffix.lower() == ".npy":
        found = _array(Path(image), (2, 3))
    elif isinstance(image, (str, Path)):
        return _decoded(Path(image), of_mask=False, most_pixels=most_pixels)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(image), of_mask=False, name=name, most_pixels=most_pixels)
    elif hasattr(image, "read") and not hasattr(image, "getbands"):
        return _decoded(image, of_mask=False, name=name, most_pixels=most_pixels)
    elif hasattr(image, "getbands"):  # Pillow's
        _check_pixels(image.size[0] * image.size[1], name, most_pixels)
        return _as_array(image, name, of_mask=False)
    else:
        raise DataError(
            f"{name} is a {type(image).__name__}; expected a path, the bytes of a file, an image of Pillow or an array."
        )
    _check_pixels(found.shape[0] * found.shape[1], name, most_pixels)
    return np.ascontiguousarray(found)


def _check_pixels(there: int, name: str, most: int | None) -> None:
    if most is not None and there > most:
        raise DataError(f"{name} has {there:,} pixels; expected {most:,} at most.")


def pillow() -> Any:
    """Return ``PIL.Image``, or say why it cannot be imported."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            f"Files of images need Pillow, and it cannot be imported: {error}. Install it: pip install pillow"
        ) from error
    return Image


def open_image(path: Any, name: str | None = None) -> Any:
    """Return the file opened by Pillow, which reads the pixels when they are asked for."""
    Image = pillow()
    name = str(path) if name is None else name
    try:
        image = Image.open(path)
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: {error}. If it is really that large, write PIL.Image.MAX_IMAGE_PIXELS = None before, or save it "
            "as NPY, of which a patch alone is read."
        ) from error
    except Exception as error:  # Pillow raises SyntaxError, ValueError, OSError, struct.error and others
        raise DataError(damaged(path, error, name)) from error
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # of a telephone: the further ones are previews
        image.close()
        raise DataError(f"{name} has {frames} pages; expected one image. Save each page in a file of its own.")
    return image


def _decoded(path: Any, of_mask: bool, name: str | None = None, most_pixels: int | None = None) -> Array:
    name = str(path) if name is None else name
    with open_image(path, name) as image:
        _check_pixels(image.size[0] * image.size[1], name, most_pixels)
        try:
            return _as_array(image, name, of_mask)
        except DataError:
            raise
        except Exception as error:
            raise DataError(damaged(path, error, name)) from error


def _as_array(image: Any, name: str, of_mask: bool) -> Array:
    """Return the pixels of an image of Pillow, upright."""
    from PIL import ImageOps

    if image.mode not in _READ_AS:
        raise DataError(f"{name} has pixels of Pillow's mode {image.mode!r}; expected one of {tuple(_READ_AS)}.")
    image.load()
    upright = ImageOps.exif_transpose(image)
    return _mask_array(upright, name) if of_mask else np.asarray(upright.convert(_READ_AS[image.mode]))


def _mask_array(image: Any, path: str) -> Array:
    if image.mode in ("1", "L", "I", "I;16", "I;16B", "I;16L", "F", "P", "RGB"):
        return np.asarray(image).astype(np.uint8) if image.mode == "1" else np.asarray(image)
    if image.mode in ("LA", "PA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() != alpha.max():
            raise DataError(
                f"the mask {path} is partly transparent, so its classes may be in the colours or in the transparency. "
                "Save it with one channel: image.getchannel('A') or image.convert('L')."
            )
        return np.asarray(image.convert({"LA": "L", "PA": "P", "RGBA": "RGB"}[image.mode]))
    return np.asarray(image.convert("RGB"))


def damaged(path: Any, error: BaseException, name: str | None = None) -> str:
    """Return what is said of a file that cannot be read."""
    if isinstance(path, io.BytesIO):
        size = path.getbuffer().nbytes
    else:
        size = path.stat().st_size if isinstance(path, Path) and path.exists() else 0
    reason = str(error).partition("\n")[0] or type(error).__name__
    if not isinstance(path, Path):
        reason = reason.partition(" <")[0]  # without what Python calls the open file
    kinds = ", ".join(suffix[1:].upper() for suffix in SUFFIXES if suffix not in (".tiff", ".jpeg"))
    return f"{name or path} ({size:,} bytes) cannot be read as an image: {reason}. Expected a whole file of {kinds}."
