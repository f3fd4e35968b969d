"""`PairedFolders`: what data sets share whose samples are a file in one folder and its partner in another one.

Which partner a file has, and what a sample is made of, is in `image_masks` and `paired_images`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import ConfigError, DataError, closest
from . import image_files
from .image_files import SUFFIXES

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_NAMED = 5  # files in a message


class PairedFolders(Dataset[tuple[Tensor, Tensor]]):
    """Base of data sets of two files each: a subclass sets the attributes, and overrides ``__getitem__``.

    Attributes
    ----------
    ids : list of str
        Of the samples: the names of their files, without suffix.
    patch : pair of int or None
        Height and width of what is cut out of an image.
    patches : int
        Samples of each image.
    channels : int
        Of every image.
    """

    CHANGES: ClassVar[tuple[str, ...]] = ("patch", "patches", "ids")
    PAIR: ClassVar[str]  # what has an id, in a message

    ids: list[str]
    patch: tuple[int, int] | None
    patches: int
    channels: int
    _files: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids) * self.patches

    def id_of(self, index: int) -> str:
        """Return the id of a sample by its index; several patches are of one image."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.ids[index % len(self) // self.patches]

    def files(self, id: str) -> tuple[Path, Any]:
        """Return the two files of an id."""
        return self._files[id]

    def changed(self, **changes: Any) -> Self:
        """Return the same folders with other arguments: ``patch``, ``patches``, ``ids``, and those of the class.

        Raises
        ------
        ConfigError
            For another argument, and for a value that is not allowed.
        """
        for name in changes:
            if name not in self.CHANGES:
                raise ConfigError(
                    f"changed() got {name}; expected some of {self.CHANGES}.{closest(name, self.CHANGES)} "
                    f"Others are given to {type(self).__name__} itself."
                )
        other = copy.copy(self)
        if "patch" in changes:
            other.patch = other._checked_patch(changes["patch"])
            other.patches = self.patches if other.patch is not None else 1
        if "patches" in changes:
            if type(changes["patches"]) is not int or changes["patches"] < 1 or other.patch is None:
                raise ConfigError(f"changed(patches={changes['patches']!r}): expected 1 or more, and a patch.")
            other.patches = changes["patches"]
        for name, value in changes.items():
            if name not in PairedFolders.CHANGES:
                setattr(other, name, value)
        if "ids" in changes:
            other.ids = other._chosen(changes["ids"])
        return other

    def split(self, *fractions: float, seed: int = 0) -> list[Self]:
        """Return parts without an image in common, chosen at random: ``train, valid, test = data.split(.7, .15, .15)``.

        Parameters
        ----------
        *fractions : float
            They sum to 1, or to less where some images are to be left out. Each part gets one image at least.
        seed : int
            The same seed, the same parts.

        Raises
        ------
        ConfigError
            For other fractions, and for more parts than images.
        """
        numbers = all(isinstance(part, (int, float)) and part > 0 for part in fractions)
        if not fractions or not numbers or sum(fractions) > 1 + 1e-6:
            raise ConfigError(f"split{fractions}: expected fractions above 0 that sum to 1. Write split(0.8, 0.2).")
        if len(fractions) > len(self.ids):
            raise ConfigError(f"split{fractions}: {len(fractions)} parts of {len(self.ids)} images.")
        order = torch.randperm(len(self.ids), generator=torch.Generator().manual_seed(seed)).tolist()
        bounds = [round(len(order) * sum(fractions[:k])) for k in range(len(fractions) + 1)]
        for k in range(1, len(bounds)):  # one image each at least, without taking that of a later part
            least, most = bounds[k - 1] + 1, len(order) - (len(bounds) - 1 - k)
            bounds[k] = min(max(bounds[k], least), most)
        parts = [order[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        return [self.changed(ids=[self.ids[number] for number in sorted(part)]) for part in parts]

    def __repr__(self) -> str:
        patch = "" if self.patch is None else f", {self.patches} patches of {self.patch[0]} x {self.patch[1]} each"
        return f"{type(self).__name__} of {len(self.ids)} images{patch}"

    def _check_patches(self, patches: Any, patch: Any) -> None:
        """Raise a ConfigError for a number of patches that is none, or comes without a patch."""
        owner = type(self).__name__
        if type(patches) is not int or patches < 1:
            raise ConfigError(f"{owner}(patches={patches!r}): expected a whole number, 1 or more.")
        if patches > 1 and patch is None:
            raise ConfigError(f"{owner}(patches={patches}) has no patch. Write patch=256 with it.")

    def _checked_patch(self, patch: Any) -> tuple[int, int] | None:
        """Return height and width of a patch, None for whole images."""
        if patch is None:
            return None
        sizes = patch if isinstance(patch, (tuple, list)) else (patch, patch)
        if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
            raise ConfigError(f"patch={patch!r}: expected pixels, or height and width. Write patch=256.")
        return sizes[0], sizes[1]

    def _chosen(self, ids: Iterable[str]) -> list[str]:
        chosen = [str(id) for id in ids]
        for id in chosen:
            if id not in self._files:
                raise DataError(f"there is no {self.PAIR} with the id {id!r}.{closest(id, self._files)}")
        if not chosen:
            raise DataError("ids is empty; expected one id at least.")
        return chosen

    def _channels_of_first(self) -> int:
        path, _ = self.files(self.ids[0])
        shape = image_files.pixels(path, (slice(0, 1), slice(0, 1))).shape
        return shape[2] if len(shape) == 3 else 1


def image_paths(folder: Path) -> dict[str, Path]:
    """Return the files of images in a folder and those within it, by their ids, sorted.

    Raises
    ------
    DataError
        If there is no folder, none in it, or an id twice.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; here are {names(Path.cwd().iterdir())}.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        id = path.relative_to(folder).with_suffix("").as_posix()
        if id in found:
            raise DataError(f"{found[id]} and {path} have the same name. Keep one of them.")
        found[id] = path
    if not found:
        raise DataError(f"no image in {folder}: expected {', '.join(SUFFIXES)}, found {names(folder.iterdir())}.")
    return found


def random_box(size: tuple[int, int], patch: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of a patch at a random place, all of them where the image is smaller."""
    starts = [int(torch.randint(max(whole - part, 0) + 1, ())) for whole, part in zip(size, patch, strict=True)]
    return slice(starts[0], starts[0] + patch[0]), slice(starts[1], starts[1] + patch[1])


def names(paths: Iterable[Path]) -> str:
    """Return the names of some files, for a message."""
    found = sorted(path.name for path in paths)
    shown = ", ".join(found[:MOST_NAMED]) or "nothing"
    return shown if len(found) <= MOST_NAMED else f"{shown} and {len(found) - MOST_NAMED} more"
