"""`upscale_folder`: every image in a folder made larger, as often as it takes. How one is, is in `inference`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import write_durably
from ..data.image_files import SUFFIXES
from ..errors import ConfigError, DataError, FarabioError, printable
from ..inference import upscale
from ..inference.progress import progress_bar
from ..inference.upscaling import channels_of, check_settings
from .pictures import Picture, is_whole, read_picture, write_picture


@dataclass
class Summary:
    """What became of the images.

    Attributes
    ----------
    done, there : int
        Made; and left, as they were there already.
    failed : dict of Path to str
        The files that could not be made larger, and why.
    """

    done: int = 0
    there: int = 0
    failed: dict[Path, str] = field(default_factory=dict)


def upscale_folder(
    model: nn.Module | Callable[[torch.Tensor], torch.Tensor],
    source: str | Path,
    target: str | Path,
    tile: int | None = 256,
    overlap: int = 16,
    device: torch.device | str | None = None,
    newer_than: float = 0.0,
    again: bool = False,
) -> Summary:
    """Make an image, or every image in a folder and those within it, larger, under the same names.

    An image is written under a temporary name, and renamed when it is whole. One that is there already is left, if it
    is whole, as large as it is to be, and newer than the image that it is made of: so a call that was killed goes on. A
    file that cannot be made larger is named on stderr, and the others are done.

    Parameters
    ----------
    model : module or callable
        As `farabio_like.inference.upscale` takes it.
    source : path
        A file or a folder: PNG, TIFF, JPEG, BMP and NPY.
    target : path
        A folder, made where there is none; for a file also a file.
    tile, overlap, device
        As `farabio_like.inference.upscale` takes them.
    newer_than : float
        Images that are older than this are made again: the time of the weights, in seconds since 1970.
    again : bool
        Make again what is there already.

    Returns
    -------
    Summary

    Raises
    ------
    ConfigError
        If the target is the source, and for a tile, an overlap or a device that are not allowed.
    DataError
        If there is no image.
    """
    check_settings(tile, overlap)
    source, target = Path(source).expanduser(), Path(target).expanduser()
    pairs = _pairs(source, target)
    found = Summary()
    scale = scale_of(model, device)
    with progress_bar(len(pairs), "upscale", "image") as advance:
        for before, after in pairs:
            try:
                _sweep(after)
                if not again and _is_done(before, after, scale, newer_than):
                    found.there += 1
                else:
                    picture = read_picture(before)
                    pixels = upscale(model, picture.pixels, tile, overlap, device=device)
                    larger = Picture(pixels, picture.profile)
                    write_durably(after, partial(_write, larger, after.suffix))
                    found.done += 1
            except (FarabioError, OSError, MemoryError, RuntimeError) as error:
                reason = printable(
                    f"{type(error).__name__}: {error}" if not isinstance(error, FarabioError) else str(error)
                )
                found.failed[before] = reason
                named = reason if str(before) in reason else f"{before}: {reason}"
                print(named, file=sys.stderr, flush=True)
            advance(1)
    return found


def scale_of(model: Any, device: torch.device | str | None = None) -> int:
    """Return how many times as large a network makes images, by one of a few pixels."""
    return upscale(model, torch.zeros(channels_of(model), 8, 8), tile=None, device=device).shape[-1] // 8


def _pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return every image and the file that it is made into."""
    if source.is_file():
        to_file = target.suffix.lower() in SUFFIXES and not target.is_dir()
        after = target if to_file else target / source.name
        if source.suffix.lower() not in SUFFIXES:
            raise DataError(f"{source} is no image; expected {', '.join(SUFFIXES)}.")
        if _same(source, after):
            raise ConfigError(f"{source} would be replaced by its larger image. Write it to another folder.")
        return [(source, after)]
    if not source.is_dir():
        raise DataError(f"there is no file or folder {source}.")
    if _same(source, target):
        raise ConfigError(f"the images in {source} would be replaced by larger ones. Write them to another folder.")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file; expected a folder for the images in {source}.")
    inside = target.resolve()
    images = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and path.is_file()
        and not path.resolve().is_relative_to(inside)
    ]
    if not images:
        raise DataError(f"no image in {source}: expected {', '.join(SUFFIXES)}.")
    return [(path, target / path.relative_to(source)) for path in images]


def _same(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samefile(one, other)


def _is_done(before: Path, after: Path, scale: int, newer_than: float) -> bool:
    """Return whether the larger image is there: whole, of this image, and as these weights make it."""
    if not after.is_file() or after.stat().st_mtime < max(before.stat().st_mtime, newer_than):
        return False
    height, width = read_picture(before).pixels.shape[:2]
    return is_whole(after, (scale * height, scale * width))


def _sweep(path: Path) -> None:
    """Remove what a killed call has left of a file."""
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.name.startswith(f".{path.name}.") and left.name.endswith(".tmp"):
            number = left.name.removesuffix(".tmp").rpartition(".")[2]
            if number.isdecimal() and not _is_alive(int(number)):
                left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is somebody else's
        return True
    return True


def _write(picture: Picture, suffix: str, file: Any) -> None:
    write_picture(file, picture, suffix)
