"""A model over an image of any size: windows in batches, blended where they overlap.

The windows are in `windows`, the blending in `blending`; nothing here knows what the outputs mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .blending import Blend, Results
from .model import device_of, evaluation_mode
from .progress import progress_bar
from .windows import Grid, importance_map, native


def sliding_window(
    model_or_function: Callable[[Tensor], Any],
    image: Tensor | npt.NDArray[Any],
    window: int | Sequence[int],
    overlap: float = 0.25,
    blend: Literal["gaussian", "constant"] = "gaussian",
    batch_size: int = 4,
    reduce: Literal["argmax", "threshold"] | Callable[[Any], Any] | None = None,
    out: Any = None,
    device: torch.device | str | None = None,
) -> Any:
    """Run a model over an image in overlapping windows, and return the weighted mean of what it gives.

    A module runs in eval mode without gradients, and gets the training flags of all its parts back. Memory holds the
    output and a batch of windows, and the weights of one row of windows. With `reduce` or `out` it holds one slab, the
    rows of the image under one row of windows, instead of the whole means.

    Parameters
    ----------
    model_or_function : module or callable
        Gets windows of B x C x window, of the type of `image`; gives a tensor of B x channels x window, or a tuple,
        list or dict of such, each with channels of its own. Means are taken of what it gives: logits, mostly.
    image : Tensor or array
        N x C x height x width, or N x C x depth x height x width. A NumPy memory map is read window by window.
        Where it is smaller than the window, zeros are added on both sides.
    window : int or sequence of int
        Size of the windows, in pixels along every axis.
    overlap : float
        Of neighbouring windows, as a part of the window; 0 to below 1. Windows are ``int(window * (1 - overlap))``
        apart; the last one along an axis ends with the image.
    blend : "gaussian" or "constant"
        Weights of a window: a Gaussian around its middle, 1/8 of the window wide, or all the same. Everywhere the
        weights of the windows are made to sum to one.
    batch_size : int
        Windows per call of the model. A batch holds windows of several rows and images, so only the last is smaller.
    reduce : "argmax", "threshold", callable or None
        What is done with the means, slab by slab. ``"argmax"``: the number of the largest channel, int64 of
        N x height x width. ``"threshold"``: whether a logit is positive, which is a probability above one half, bool
        of N x channels x height x width. A function gets what the model gives, with 1 x channels x rows x width of
        one image instead of windows, and returns a tensor of 1 x rows x width, of 1 x anything x rows x width, or a
        structure of such.
    out : array, or tuple, list or dict of arrays, optional
        NumPy arrays or memory maps which the results are written to, of the structure and the shape of the results.
        Real numbers are rounded to the type of the array; classes of ``"argmax"`` may have any integer type with room.
    device : torch.device or str, optional
        Where the model computes and slabs are added up: the device of the module, by default; for a function, that of
        the image.

    Returns
    -------
    Tensor, or a structure of such, or `out`
        On the device of the image; in float32, or float64 where the model gives that, if nothing is reduced.

    Raises
    ------
    ConfigError
        For a window, an overlap or another setting that is not allowed, and a model on another device.
    DataError
        For an image or an `out` of another kind or shape.
    HookError
        For outputs or results of `reduce` of another kind or shape.

    Examples
    --------
    >>> model = torch.nn.Conv2d(3, 2, kernel_size=1)
    >>> sliding_window(model, torch.rand(1, 3, 500, 333), window=128).shape
    torch.Size([1, 2, 500, 333])
    >>> sliding_window(model, torch.rand(1, 3, 500, 333), window=128, reduce="argmax").shape
    torch.Size([1, 500, 333])
    """
    _check_image(image)
    size = tuple(image.shape[2:])
    _check_settings(overlap, blend, batch_size, reduce)
    grid = Grid.over(size, _window(window, len(size)), overlap)
    images = image.shape[0]
    home = image.device if isinstance(image, Tensor) else torch.device("cpu")
    device = device_of(model_or_function, image, device)
    in_place = reduce is None and out is None and home == device
    results = None if in_place else Results(grid, images, reduce, out, home)
    blended = Blend(grid, importance_map(grid.window, blend), images, device, results)
    places = grid.places(images)
    with evaluation_mode(model_or_function), progress_bar(images * grid.windows, "sliding_window", "window") as advance:
        while batch := list(itertools.islice(places, batch_size)):
            # No names: windows and outputs of the last batch are gone before the next one is made.
            blended.add(batch, model_or_function(grid.read(image, batch).to(device)))
            advance(len(batch))
        return blended.finish()


def _check_image(image: Any) -> None:
    if not isinstance(image, (Tensor, np.ndarray)):
        raise DataError(f"the image is a {type(image).__name__}; expected a tensor or a NumPy array or memory map.")
    shape = tuple(image.shape)
    if len(shape) not in (4, 5):
        raise DataError(
            f"the image has the shape {shape}; expected N x C x height x width, or N x C x depth x height x width. "
            "An image without a batch is image[None], a volume without channels is volume[None, None]."
        )
    if 0 in shape:
        raise DataError(f"the image has the shape {shape}, and so no pixel; expected at least one along every axis.")
    if isinstance(image, np.ndarray):
        try:
            torch.from_numpy(np.empty(0, native(image.dtype)))
        except TypeError as error:
            raise DataError(f"the image is an array of {image.dtype}; expected numbers that torch has.") from error


def _window(window: Any, axes: int) -> tuple[int, ...]:
    """Return the size of the window along every axis."""
    sizes = [window] * axes if isinstance(window, (int, np.integer)) else window
    if (
        not isinstance(sizes, Sequence)
        or isinstance(sizes, str)
        or len(sizes) != axes
        or not all(_is_positive(size) for size in sizes)
    ):
        raise ConfigError(
            f"window={window!r}; expected a positive int, or one for each of the {axes} axes of the image: "
            f"window={(128,) * axes if axes == 2 else (96,) * axes}."
        )
    return tuple(map(int, sizes))


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) > 0


def _check_settings(overlap: Any, blend: Any, batch_size: Any, reduce: Any) -> None:
    if isinstance(overlap, bool) or not isinstance(overlap, (int, float)) or not 0 <= overlap < 1:
        raise ConfigError(f"overlap={overlap!r}; expected a part of the window, 0 to below 1: overlap=0.25.")
    if blend not in ("gaussian", "constant"):
        raise ConfigError(f"blend={blend!r}; expected 'gaussian' or 'constant'.")
    if not _is_positive(batch_size):
        raise ConfigError(f"batch_size={batch_size!r}; expected a positive int, the windows per call of the model.")
    if not (reduce is None or callable(reduce) or reduce in ("argmax", "threshold")):
        raise ConfigError(f"reduce={reduce!r}; expected 'argmax', 'threshold', a function or None.")
