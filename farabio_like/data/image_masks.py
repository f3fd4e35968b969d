"""`ImageMaskFolder`: a folder of images and a folder of their masks as a data set.

How a file becomes pixels is in `image_files`; what pairs of files share is in `paired_folders`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from . import image_files
from .image_files import LOSSY, Array
from .paired_folders import PairedFolders, image_paths, names, random_box


class ImageMaskFolder(PairedFolders):
    """Pairs of an image and its mask, of which the files have the same name in two folders.

    The mask of ``images/a/cell_7.jpg`` is ``masks/a/cell_7.png``, the id of both is ``a/cell_7``. A file that has no
    partner is named in a warning, and left out.

    A sample is an image, float32 of channels x height x width from 0 to 1, and a mask, int64 of height x width: the
    class of every pixel. Patches are drawn by torch's random numbers. In a trainer with a ``_seed`` these depend on the
    seed, the epoch and the position in the data alone: a run that goes on sees the patches that it would have seen,
    with any number of workers.

    Parameters
    ----------
    images, masks : path
        The folders; folders within them are read too. PNG, TIFF, JPEG, BMP and NPY.
    classes : int
        1: masks of 0 and 1, or 0 and 255. More: masks of the numbers of the classes, from 0 on; for 2 classes
        0 and 255 will do.
    values : sequence, optional
        What stands in the mask for each class, class 0 first: ``[0, 128, 255]``, or colours
        ``[(0, 0, 0), (255, 0, 0)]``. It replaces `classes`.
    ignore_index : int, optional
        Pixels with this value in the file keep it.
    channels : int, optional
        Of every image; default: those of the first one. Grey images are repeated; 1 makes colours grey.
    patch : int or pair of int, optional
        Height and width in pixels. A sample is a patch of this size at a random place of the image, a new one each
        time. A smaller image gets zeros at its lower and right side, its mask `ignore_index`, or class 0 without one.
    patches : int
        Samples of each image, with `patch`.
    transform : callable, optional
        Gets image and mask, and returns both: transforms of ``torchvision.transforms.v2``, which never interpolate
        the mask. Here it comes after the patch.
    mask_suffix : str
        What the names of the masks have more: ``"_mask"`` for ``cell_7_mask.png``.
        Masks may lie in the folder of the images then.
    ids : iterable of str, optional
        Those to read, in this order; default: all, sorted.

    Attributes
    ----------
    ids : list of str

    Raises
    ------
    ConfigError
        For an argument that is not allowed, and where Pillow or torchvision is missing.
    DataError
        If there is no pair, or an id twice; of a sample: for a damaged file, for an image and a mask of different
        sizes, and for a mask with other values. It names the file.

    Examples
    --------
    ``train, test = ImageMaskFolder("images", "masks").split(0.8, 0.2)``

    ``train = train.changed(patch=256, transform=v2.RandomHorizontalFlip())``
    """

    CHANGES = (*PairedFolders.CHANGES, "transform")
    PAIR = "image and mask"

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        *,
        classes: int = 1,
        values: Sequence[Any] | None = None,
        ignore_index: int | None = None,
        channels: int | None = None,
        patch: int | Sequence[int] | None = None,
        patches: int = 1,
        transform: Callable[..., Any] | None = None,
        mask_suffix: str = "",
        ids: Iterable[str] | None = None,
    ) -> None:
        if type(classes) is not int or classes < 1:
            raise ConfigError(f"ImageMaskFolder(classes={classes!r}): expected a whole number, 1 or more.")
        if channels is not None and (type(channels) is not int or channels < 1):
            raise ConfigError(f"ImageMaskFolder(channels={channels!r}): expected a whole number, 1 or more, or None.")
        if ignore_index is not None and type(ignore_index) is not int:
            raise ConfigError(f"ImageMaskFolder(ignore_index={ignore_index!r}): expected a whole number, or None.")
        self._check_patches(patches, patch)
        _check_transform(transform)
        self.classes = classes if values is None else len(values)
        self.values = None if values is None else _checked_values(values)
        self.ignore_index = ignore_index
        self.patch = self._checked_patch(patch)
        self.patches = patches
        self.transform = transform
        self._files = _pairs(Path(images), Path(masks), mask_suffix)
        self.ids = list(self._files) if ids is None else self._chosen(ids)
        self.channels = channels if channels is not None else self._channels_of_first()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.files(self.id_of(index))
        size = image_files.size_of(image_path)
        self._check_sizes(image_path, mask_path, size)
        box = None if self.patch is None else random_box(size, self.patch)
        image = image_files.image_tensor(image_files.pixels(image_path, box), image_path)
        image = image_files.with_channels(image, self.channels, image_path)
        mask = self._numbered(image_files.mask_pixels(mask_path, box), mask_path)
        if self.patch is not None:
            image = _filled(image, self.patch, 0)
            mask = _filled(mask, self.patch, 0 if self.ignore_index is None else self.ignore_index)
        return (image, mask) if self.transform is None else self._transformed(image, mask)

    def changed(self, **changes: Any) -> ImageMaskFolder:
        """Do what `PairedFolders.changed` says, with ``transform`` too."""
        if "transform" in changes:
            _check_transform(changes["transform"])
        return super().changed(**changes)

    def _check_sizes(self, image: Path, mask: Path, size: tuple[int, int]) -> None:
        of_mask = image_files.size_of(mask)
        if size != of_mask:
            raise DataError(
                f"the image {image} has {size[0]} x {size[1]} pixels (height x width), its mask {mask} has "
                f"{of_mask[0]} x {of_mask[1]}; expected the same."
            )

    def _numbered(self, mask: Array, path: Path) -> Tensor:
        """Return the classes of a mask's pixels, int64."""
        if mask.dtype.kind == "f":
            if not np.isfinite(mask).all() or (mask != np.round(mask)).any():
                raise DataError(f"the mask {path} has numbers that are not whole; expected the classes of its pixels.")
            mask = mask.astype(np.int64)
        if self.values is not None:
            return torch.from_numpy(self._looked_up(mask, path))
        if mask.ndim == 3:
            raise DataError(
                f"the mask {path} has colours; expected one number for every pixel. Say which colour is which class: "
                "values=[(0, 0, 0), (255, 0, 0)]."
            )
        return torch.from_numpy(self._classes(mask, path))

    def _classes(self, mask: Array, path: Path) -> Array:
        numbers = mask.astype(np.int64)
        if path.suffix.lower() in LOSSY and max(self.classes, 2) == 2:
            numbers = (numbers > 127).astype(np.int64)  # JPEG changes the values around every border
        ignored = np.zeros(numbers.shape, bool) if self.ignore_index is None else numbers == self.ignore_index
        counted = np.unique(numbers[~ignored])
        highest = max(self.classes, 2) - 1
        if highest == 1 and np.isin(counted, (0, 255)).all():
            return np.where(ignored, numbers, (numbers == 255).astype(np.int64))
        if len(counted) and (counted[0] < 0 or counted[-1] > highest):
            expected = "0 and 1, or 0 and 255" if highest == 1 else f"0 to {highest}"
            lossy = " JPEG changes the values of pixels: save masks as PNG." if path.suffix.lower() in LOSSY else ""
            raise DataError(
                f"the mask {path} has the values {_some(counted)}; expected {expected}.{lossy} Write "
                f"ImageMaskFolder(classes={int(counted[-1]) + 1}), values=[...] with that of each class, or "
                f"ignore_index={int(counted[-1])} for pixels without one."
            )
        return numbers

    def _looked_up(self, mask: Array, path: Path) -> Array:
        assert self.values is not None
        if (mask.ndim == 3) != isinstance(self.values[0], tuple):
            if mask.ndim == 3:
                raise DataError(f"the mask {path} has colours, and values has numbers; expected colours: (255, 0, 0).")
            mask = np.repeat(mask[..., None], 3, -1)  # a colour mask that is grey: black, say
        numbers = np.full(mask.shape[:2], -1, np.int64)
        for number, value in enumerate(self.values):
            numbers[(mask == value).all(-1) if mask.ndim == 3 else mask == value] = number
        missing = numbers < 0
        if missing.any():
            if self.ignore_index is not None and (mask.ndim == 2) and (mask[missing] == self.ignore_index).all():
                return np.where(missing, self.ignore_index, numbers)
            others = np.unique(mask[missing].reshape(int(missing.sum()), -1), axis=0)
            raise DataError(f"the mask {path} has {_some(others)}, which is not in values={list(self.values)}.")
        return numbers

    def _transformed(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        assert self.transform is not None
        tensors = import_tv_tensors()
        found = self.transform(tensors.Image(image), tensors.Mask(mask))
        if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(f, Tensor) for f in found):
            raise DataError(
                f"transform returned {_described(found)}; expected an image and a mask. Write "
                "transform=v2.Compose([...]), or a function that returns both."
            )
        image, mask = (part.as_subclass(Tensor) for part in found)
        if image.shape[-2:] != mask.shape[-2:]:
            raise DataError(
                f"transform made an image of {tuple(image.shape)} and a mask of {tuple(mask.shape)}; expected the same "
                "height and width. Take a transform of torchvision.transforms.v2, which changes both."
            )
        return image, mask.long()


def import_tv_tensors() -> Any:
    """Return ``torchvision.tv_tensors``, or say why it cannot be imported."""
    try:
        from torchvision import tv_tensors
    except (ImportError, RuntimeError, OSError) as error:
        # A torchvision that was built for another torch raises a RuntimeError about a missing operator.
        raise ConfigError(
            f"A transform of image and mask needs torchvision, and it cannot be imported with torch "
            f"{torch.__version__}: {error}. Each torchvision fits one torch; install the two together: "
            "pip install --upgrade torch torchvision"
        ) from error
    return tv_tensors


def _pairs(images: Path, masks: Path, mask_suffix: str) -> dict[str, tuple[Path, Path]]:
    """Return the files of images and masks by their id; those that have no partner are named."""
    found, of_masks = image_paths(images), image_paths(masks)
    own = {id.removesuffix(mask_suffix): path for id, path in of_masks.items() if id.endswith(mask_suffix)}
    no_images = set(own.values())  # where masks lie in the folder of the images, or within it
    pairs = {id: (path, own[id]) for id, path in found.items() if id in own and path not in no_images}
    alone = [path for id, path in found.items() if id not in pairs and path not in no_images]
    alone += [own[id] for id in own if id not in pairs]
    if not pairs:
        raise DataError(
            f"no image in {images} has the name of a mask in {masks}: there are {names(found.values())} and "
            f"{names(of_masks.values())}.{_suffix_hint(found, of_masks)}"
        )
    if alone:
        warnings.warn(f"{len(alone)} files have no partner and are left out: {names(alone)}", stacklevel=3)
    return pairs


def _suffix_hint(images: Iterable[str], masks: Iterable[str]) -> str:
    """Return the line to write where all names of masks are those of images with something behind."""
    known = set(images)
    for mask in masks:
        for id in known:
            if mask.startswith(id) and re.fullmatch(r"[_\-. ]?[A-Za-z_]+", mask[len(id) :]):
                return f" Write mask_suffix={mask[len(id) :]!r}."
    return ""


def _checked_values(values: Sequence[Any]) -> tuple[Any, ...]:
    checked = tuple(tuple(value) if isinstance(value, (list, tuple)) else value for value in values)
    colours = {isinstance(value, tuple) for value in checked}
    good = all(len(v) == 3 if isinstance(v, tuple) else isinstance(v, (int, np.integer)) for v in checked)
    if len(checked) < 2 or len(colours) != 1 or not good or len(set(checked)) != len(checked):
        raise ConfigError(
            f"ImageMaskFolder(values={list(values)!r}): expected a number for each class, class 0 first, or a colour "
            "of three numbers for each. Write values=[0, 255]."
        )
    return checked


def _check_transform(transform: Any) -> None:
    if transform is not None and not callable(transform):
        raise ConfigError(
            f"ImageMaskFolder(transform=...) is a {type(transform).__name__}; expected a function of image and "
            "mask. Write transform=v2.Compose([v2.RandomHorizontalFlip()])."
        )


def _filled(tensor: Tensor, patch: tuple[int, int], value: int) -> Tensor:
    missing = [whole - there for whole, there in zip(patch, tensor.shape[-2:], strict=True)]
    return torch.nn.functional.pad(tensor, (0, missing[1], 0, missing[0]), value=value) if any(missing) else tensor


def _some(values: Array) -> str:
    shown = ", ".join(str(value.tolist()) for value in values[:8])
    return shown if len(values) <= 8 else f"{shown} and {len(values) - 8} more"


def _described(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{len(value)} values ({', '.join(type(part).__name__ for part in value)})"
    return f"a {type(value).__name__}"
