"""Files of images as arrays with all that they hold, transparency and 16 bits too, and arrays as such files.

What a data set makes of a file is in `data.image_files`.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ..components.pretrained import import_torchvision
from ..data import image_files
from ..data.image_files import Array
from ..errors import DataError

JPEG_QUALITY = 95
PNG = b"\x89PNG\r\n\x1a\n"
ROWS_AT_ONCE = 64  # of a PNG of 16 bits, while it is packed


@dataclass
class Picture:
    """The pixels of a file.

    Attributes
    ----------
    pixels : array
        Height x width, or height x width x channels: uint8, uint16 or float32. Of 2 or 4 channels the last one is the
        transparency.
    profile : bytes or None
        What the colours mean: an ICC profile.
    """

    pixels: Array
    profile: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Return the picture in a file, turned as its camera says; the colours of a palette are looked up.

    Raises
    ------
    DataError
        For a file that is damaged, or holds something else; it names the file.
    """
    if path.suffix.lower() == ".npy":
        return Picture(_checked(image_files.pixels(path), path))
    with image_files.open_image(path) as image:
        from PIL import ImageOps

        try:
            image.load()
            profile = image.info.get("icc_profile")
            if _bits_of_png(path) == 16 and image.mode not in ("I;16", "I"):
                return Picture(_colours_of_16_bits(path), profile)
            return Picture(_checked(_array(ImageOps.exif_transpose(image)), path), profile)
        except DataError:
            raise
        except Exception as error:  # a damaged file raises whatever its bytes lead to
            raise DataError(image_files.damaged(path, error)) from error


def is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Return whether a file holds a whole picture of a height and width."""
    try:
        return read_picture(path).pixels.shape[:2] == size
    except (DataError, OSError):
        return False


def write_picture(file: IO[bytes], picture: Picture, suffix: str) -> None:
    """Write a picture to an open file, in the format of a suffix.

    Raises
    ------
    DataError
        For a format that cannot hold it.
    """
    from PIL import Image

    pixels, suffix = picture.pixels, suffix.lower()
    if suffix == ".npy":
        np.save(file, pixels)
        return
    if suffix == ".png" and pixels.dtype == np.uint16 and pixels.ndim == 3:
        _write_png_of_16_bits(file, picture)
        return
    image_format = Image.registered_extensions()[suffix]
    options: dict[str, Any] = {"icc_profile": picture.profile} if picture.profile else {}
    if image_format == "JPEG":
        options.update(quality=JPEG_QUALITY, subsampling=0)
    try:
        Image.fromarray(pixels).save(file, format=image_format, **options)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the format
            raise
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        raise DataError(
            f"a {suffix} file cannot hold {pixels.shape[0]} x {pixels.shape[1]} pixels of {channels} channels of "
            f"{pixels.dtype}: {error}. Write a PNG file."
        ) from error


def _array(image: Any) -> Array:
    """Return the pixels of an image of Pillow."""
    transparent = "transparency" in image.info
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F", "RGB", "RGBA", "L", "LA") and not transparent:
        return np.asarray(image)
    if image.mode in ("1", "L", "La"):
        return np.asarray(image.convert("LA" if transparent or image.mode == "La" else "L"))
    if image.mode in ("P", "PA"):
        return np.asarray(image.convert("RGBA" if transparent or image.mode == "PA" else "RGB"))
    if image.mode in ("RGB", "RGBa"):
        return np.asarray(image.convert("RGBA"))
    if image.mode in ("RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        return np.asarray(image.convert("RGB"))
    raise ValueError(f"pixels of Pillow's mode {image.mode!r}")


def _checked(pixels: Array, path: Path) -> Array:
    """Return pixels of a kind that can be made larger."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        return pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.dtype.kind == "f" and np.isfinite(pixels).all():
        return pixels.astype(np.float32)
    if pixels.dtype.kind == "i" and 0 <= pixels.min() and pixels.max() <= 65535:
        return pixels.astype(np.uint16)  # some readers give 16 bits as 32
    raise DataError(
        f"{path} has pixels of {pixels.dtype} from {pixels.min()} to {pixels.max()}; expected uint8, uint16, or finite "
        "floating-point numbers."
    )


def _bits_of_png(path: Path) -> int:
    """Return the bits of each channel of a PNG file, 0 for another file."""
    with open(path, "rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(PNG) and len(head) == 25 else 0


def _colours_of_16_bits(path: Path) -> Array:
    """Return a PNG file of colours, or of grey and transparency, in 16 bits, of which Pillow gives 8."""
    io = import_torchvision("A PNG file of 16 bits").io
    if not hasattr(io, "decode_png"):
        raise DataError(f"{path} has colours of 16 bits, which this torchvision does not read. Save it as NPY, uint16.")
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it may be gone one day, see above
        found = io.decode_png(data, io.ImageReadMode.UNCHANGED, apply_exif_orientation=True)
    return found.permute(1, 2, 0).numpy()


def _write_png_of_16_bits(file: IO[bytes], picture: Picture) -> None:
    """Write 2, 3 or 4 channels of 16 bits, which Pillow does not (PNG specification, 3rd edition)."""
    pixels = picture.pixels
    height, width, channels = pixels.shape
    colour_type = {2: 4, 3: 2, 4: 6}.get(channels)
    if colour_type is None:
        raise DataError(f"a PNG file cannot hold {channels} channels. Write an NPY file.")
    packer = zlib.compressobj(6)
    packed = []
    for start in range(0, height, ROWS_AT_ONCE):
        part = pixels[start : start + ROWS_AT_ONCE].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        packed.append(packer.compress(np.pad(part, ((0, 0), (1, 0))).tobytes()))  # each row begins with "no filter"
    packed.append(packer.flush())
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if picture.profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.profile)))
    file.write(PNG)
    for name, data in (*chunks, (b"IDAT", b"".join(packed)), (b"IEND", b"")):
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
