"""Where the windows lie, what they weigh, and how they are read; no model is called here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIGMA_SCALE = 0.125  # standard deviation of the weights, as a part of the window
SMALLEST_WEIGHT = 1e-3  # of the largest: far corners would vanish in float32


@dataclass(frozen=True)
class Grid:
    """The windows over one image.

    Attributes
    ----------
    size : tuple of int
        Of the image, without batch and channels.
    window : tuple of int
    starts : tuple of lists of int
        Where windows start, along every axis.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    starts: tuple[list[int], ...]

    @classmethod
    def over(cls, size: Sequence[int], window: Sequence[int], overlap: float) -> Grid:
        """Return the grid of windows that begins at 0 and ends with the image.

        Windows are ``int(window * (1 - overlap))`` apart, and the last one along an axis is moved back into the
        image. Both, and the weights below, are what MONAI does (Cardoso et al. 2022, https://arxiv.org/abs/2211.02701),
        so values can be compared.
        """
        starts = []
        for length, extent in zip(size, window, strict=True):
            last = max(length - extent, 0)
            starts.append([*range(0, last, max(int(extent * (1 - overlap)), 1)), last])
        return cls(tuple(size), tuple(window), tuple(starts))

    @cached_property
    def extent(self) -> tuple[int, ...]:
        """Return how much of a window lies in the image: less than the window where the image is smaller."""
        return tuple(map(min, self.window, self.size))

    @cached_property
    def inner(self) -> tuple[slice, ...]:
        """Return the part of a window that lies in the image; what is missing is added on both sides."""
        before = [(whole - part) // 2 for whole, part in zip(self.window, self.extent, strict=True)]
        return tuple(slice(start, start + part) for start, part in zip(before, self.extent, strict=True))

    @property
    def windows(self) -> int:
        """Return the number of windows over one image."""
        return math.prod(map(len, self.starts))

    def places(self, images: int) -> Iterator[tuple[int, ...]]:
        """Yield image and starts of every window; the last axis changes fastest."""
        return itertools.product(range(images), *self.starts)

    def region(self, starts: Sequence[int]) -> tuple[slice, ...]:
        """Return the part of the image under a window."""
        return tuple(slice(start, start + part) for start, part in zip(starts, self.extent, strict=True))

    def read(self, image: Tensor | npt.NDArray[Any], places: Sequence[tuple[int, ...]]) -> Tensor:
        """Copy windows out of an image, with zeros around an image that is smaller.

        Parameters
        ----------
        image : tensor or array of N x C x size
        places : sequence of (image, start, start, ...)

        Returns
        -------
        Tensor
            B x C x window, of the image's type, on its device.
        """
        shape = (len(places), image.shape[1], *self.window)
        # An array in a file may have the bytes of its numbers in the other order, which torch does not take.
        batch: Any = image.new_empty(shape) if isinstance(image, Tensor) else np.empty(shape, native(image.dtype))
        if self.extent != self.window:
            batch[...] = 0
        source: Any = image
        for number, (index, *starts) in enumerate(places):
            batch[(number, slice(None), *self.inner)] = source[(index, slice(None), *self.region(starts))]
        return batch if isinstance(batch, Tensor) else torch.from_numpy(batch)


def native(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a type of numbers with their bytes in this machine's order."""
    return np.dtype(dtype).newbyteorder("=")


def importance_map(window: Sequence[int], blend: str) -> Tensor:
    """Return what every place of a window weighs, before the weights of all windows are made to sum to one.

    Parameters
    ----------
    window : sequence of int
    blend : "gaussian" or "constant"
        ``"gaussian"`` is a Gaussian of the distance from the middle, 1/8 of the window wide along every axis
        (Isensee et al. 2021, nnU-Net, https://doi.org/10.1038/s41592-020-01008-z), and 0.001 at least.

    Returns
    -------
    Tensor
        float64, of the window's shape.
    """
    weights = torch.ones(tuple(window), dtype=torch.float64)
    if blend == "constant":
        return weights
    for axis, extent in enumerate(window):
        distance = torch.arange(extent, dtype=torch.float64) - (extent - 1) / 2
        shape = [-1 if other == axis else 1 for other in range(len(window))]
        weights *= torch.exp(-((distance / (SIGMA_SCALE * extent)) ** 2) / 2).reshape(shape)
    return weights.clamp_(min=SMALLEST_WEIGHT)
