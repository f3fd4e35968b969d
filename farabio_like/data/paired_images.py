"""`PairedImages`: images and the same in low resolution as a data set, aligned to the pixel.

How a file becomes pixels is in `image_files`; what pairs of files share is in `paired_folders`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from . import image_files
from .paired_folders import PairedFolders, image_paths, names
from .resizing import check_scale, downscale

Box = tuple[slice, slice]

REACH = 2  # pixels of the low resolution: further away no pixel of the high one counts


class PairedImages(PairedFolders):
    """Pairs of an image in low resolution and the same image in high resolution, the input and the target.

    Both are float32 of channels x height x width, from 0 to 1 for files of integers. The high one is `scale` times as
    high and wide, and covers the same part of the picture: its first pixel is `scale` times as far from the upper left
    corner. What is left over at the lower and right side of an image whose size the scale does not divide is cut off.

    Patches and their flips are drawn by torch's random numbers. In a trainer with a ``_seed`` these depend on the seed,
    the epoch and the position in the data alone: a run that goes on sees the patches that it would have seen, with any
    number of workers.

    Parameters
    ----------
    high : path
        The folder of the images, and those within it; any names. Or the folder of DIV2K or Flickr2K, if it has one
        folder ``..._HR``; their ``..._LR_bicubic/X4`` beside it is then `low`, where it is there.
    low : path, optional
        The folder of the images in low resolution: of the same names, or with the scale behind, ``0001x4.png`` for
        ``0001.png``; or one with folders ``X2``, ``X3``, ... in it. Default: they are made by `downscale`.
    scale : int
        How many times as high and wide the high resolution is.
    patch : int, optional
        Height and width of what is cut out of the high resolution, in its pixels, a multiple of the scale: a new place
        each time. None for whole images.
    patches : int
        Samples of each image, with a patch.
    flips : bool
        Whether patches are mirrored and turned by quarters at random, both alike.
    channels : int
        Of every image. Grey images are repeated; 1 makes colours grey.
    ids : iterable of str, optional
        Those to read, in this order: the names of files without suffix. Default: all, sorted.

    Attributes
    ----------
    ids : list of str
    scale : int

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        If there is no image or no pair, and for an image smaller than a patch; of a sample: for a damaged file, and
        for two files whose sizes do not fit. It names the file.

    Examples
    --------
    ``train = PairedImages("DIV2K/DIV2K_train_HR", scale=4, patch=128)``

    ``valid = PairedImages("DIV2K/DIV2K_valid_HR", "DIV2K/DIV2K_valid_LR_bicubic", scale=4, patch=None)``
    """

    CHANGES = (*PairedFolders.CHANGES, "flips")
    PAIR = "image"

    def __init__(
        self,
        high: str | Path,
        low: str | Path | None = None,
        scale: int = 4,
        patch: int | None = 128,
        *,
        patches: int = 1,
        flips: bool = True,
        channels: int = 3,
        ids: Iterable[str] | None = None,
    ) -> None:
        check_scale("PairedImages", scale)
        if type(channels) is not int or channels < 1:
            raise ConfigError(f"PairedImages(channels={channels!r}): expected a whole number, 1 or more.")
        self._check_patches(patches, patch)
        self.scale = scale
        self.patch = self._checked_patch(patch)
        self.patches = patches
        self.flips = flips
        self.channels = channels
        self._files = _pairs(*_layout(Path(high), None if low is None else Path(low), scale), scale)
        self.ids = self._chosen(self._files if ids is None else ids)
        self._check_sizes()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        high_path, low_path = self.files(self.id_of(index))
        if low_path is None:
            high, low = self._made(high_path)
        else:
            high, low = self._read(high_path, low_path)
        if self.patch is not None and self.flips:
            mirrored, upside_down, turned = torch.randint(2, (3,)).tolist()
            axes = [axis for axis, flipped in ((-1, mirrored), (-2, upside_down)) if flipped]
            high, low = high.flip(axes), low.flip(axes)
            if turned:
                high, low = high.mT, low.mT
        return low.contiguous(), high.contiguous()

    def changed(self, **changes: Any) -> PairedImages:
        """Return the same folders with other arguments: ``patch``, ``patches``, ``flips`` or ``ids``.

        Raises
        ------
        ConfigError
            For another argument, and for a value that is not allowed.
        DataError
            For images smaller than the patch.
        """
        other = super().changed(**changes)
        if "patch" in changes or "ids" in changes:
            other._check_sizes()
        return other

    def _checked_patch(self, patch: Any) -> tuple[int, int] | None:
        if patch is not None and type(patch) is not int:
            raise ConfigError(f"patch={patch!r}: expected pixels of the high resolution, or None. Write patch=128.")
        if patch is not None and patch % self.scale:
            nearest = max(1, round(patch / self.scale)) * self.scale
            raise ConfigError(f"patch={patch}: expected a multiple of scale={self.scale}. Write patch={nearest}.")
        return super()._checked_patch(patch)

    def _check_sizes(self) -> None:
        """Raise for an image that is smaller than a patch, before any is read."""
        least = self.scale if self.patch is None else self.patch[0]
        for id in self.ids:
            path, _ = self.files(id)
            if image_files.shorter_side(path) < least:
                height, width = image_files.size_of(path)
                what = f"a patch has {least} x {least}" if self.patch is not None else f"the scale is {self.scale}"
                raise DataError(
                    f"{path} has {height} x {width} pixels (height x width), and {what}. Write a smaller patch, or "
                    "leave the image out: ids=[...]."
                )

    def _made(self, path: Path) -> tuple[Tensor, Tensor]:
        """Return a patch, and its low resolution, made as of the whole image."""
        box: Box

        def around(size: tuple[int, int]) -> Box:
            nonlocal box
            low = size[0] // self.scale, size[1] // self.scale
            box = self._box(low)
            return _wider(box[0], low[0], self.scale), _wider(box[1], low[1], self.scale)

        array = image_files.pixels_within(path, around)
        whole = image_files.with_channels(image_files.image_tensor(array, path), self.channels, path)
        rows, columns = (slice(min(side.start, REACH), min(side.start, REACH) + _length(side)) for side in box)
        low = downscale(whole, self.scale)[:, rows, columns]
        high = whole[:, _times(rows, self.scale), _times(columns, self.scale)]
        return high, low.clamp(0, 1) if array.dtype.kind != "f" else low

    def _read(self, high_path: Path, low_path: Path) -> tuple[Tensor, Tensor]:
        """Return a patch of each file."""
        array = image_files.pixels(low_path)
        box: Box

        def partner(size: tuple[int, int]) -> Box:
            nonlocal box
            self._check_fit(high_path, low_path, size, array.shape[:2])
            # A low resolution that was rounded up has a row or column more, which has no partner.
            box = self._box((size[0] // self.scale, size[1] // self.scale))
            return _times(box[0], self.scale), _times(box[1], self.scale)

        high = image_files.image_tensor(image_files.pixels_within(high_path, partner), high_path)
        low = image_files.image_tensor(array[box], low_path)
        with_channels = image_files.with_channels
        return with_channels(high, self.channels, high_path), with_channels(low, self.channels, low_path)

    def _check_fit(self, high_path: Path, low_path: Path, high: tuple[int, int], low: tuple[int, int]) -> None:
        rounded = [(length // self.scale, -(-length // self.scale)) for length in high]
        if any(length not in both for length, both in zip(low, rounded, strict=True)):
            expected = " x ".join(str(down) for down, _ in rounded)
            raise DataError(
                f"{high_path} has {high[0]} x {high[1]} pixels (height x width), {low_path} has {low[0]} x {low[1]}; "
                f"expected {expected} for scale={self.scale}."
            )

    def _box(self, low: tuple[int, int]) -> Box:
        """Return rows and columns of a patch in the low resolution, all of them without a patch."""
        if self.patch is None:
            return slice(0, low[0]), slice(0, low[1])
        side = self.patch[0] // self.scale
        rows, columns = (int(torch.randint(length - side + 1, ())) for length in low)
        return slice(rows, rows + side), slice(columns, columns + side)


def _length(side: slice) -> int:
    return side.stop - side.start


def _times(side: slice, scale: int) -> slice:
    return slice(side.start * scale, side.stop * scale)


def _wider(side: slice, length: int, scale: int) -> slice:
    """Return the pixels of the high resolution that those of the low one are made of."""
    return slice(max(0, side.start - REACH) * scale, min(length, side.stop + REACH) * scale)


def _layout(high: Path, low: Path | None, scale: int) -> tuple[Path, Path | None]:
    """Return the folders of both resolutions: as they are given, or as DIV2K and Flickr2K have them."""
    if low is None and high.is_dir():
        inside = sorted(folder for folder in high.iterdir() if folder.is_dir() and folder.name.endswith("_HR"))
        if len(inside) > 1:
            raise DataError(
                f"{high} has {len(inside)} folders of images: {names(inside)}. Write one of them: "
                f"PairedImages({str(inside[0])!r}, ...)."
            )
        if inside:
            high = inside[0]
            beside = high.with_name(f"{high.name.removesuffix('_HR')}_LR_bicubic")
            low = beside if (beside / f"X{scale}").is_dir() else None
    if low is not None and low.is_dir():
        scales = sorted(folder for folder in low.iterdir() if folder.is_dir() and folder.name[:1] == "X")
        if low / f"X{scale}" in scales:
            low = low / f"X{scale}"
        elif scales:
            raise DataError(f"{low} has no folder X{scale}; there are {names(scales)}.")
    return high, low


def _pairs(high: Path, low: Path | None, scale: int) -> dict[str, tuple[Path, Path | None]]:
    """Return the two files of every id, the second None where it is made; those without a partner are named."""
    found = image_paths(high)
    if low is None:
        return {id: (path, None) for id, path in found.items()}
    partners = image_paths(low)
    named = {id: partners.get(id, partners.get(f"{id}x{scale}")) for id in found}
    pairs: dict[str, tuple[Path, Path | None]] = {
        id: (path, named[id]) for id, path in found.items() if named[id] is not None
    }
    if not pairs:
        raise DataError(
            f"no image in {high} has the name of one in {low}: there are {names(found.values())} and "
            f"{names(partners.values())}. Expected the same names, or {next(iter(found))}x{scale}."
        )
    used = {path for _, path in pairs.values()}
    alone = [path for id, path in found.items() if id not in pairs]
    alone += [path for path in partners.values() if path not in used]
    if alone:
        warnings.warn(f"{len(alone)} files have no partner and are left out: {names(alone)}", stacklevel=3)
    return pairs
