"""The mean of what a model gives for an image and its mirror images; windows are in `sliding_window`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import ConfigError, DataError, HookError
from .model import averaged_dtype, evaluation_mode, like, output_tensors

MODEL = "the model"


def flips(
    model_or_function: Callable[[Tensor], Any],
    image: Tensor,
    axes: int | Sequence[int],
    quarter_turns: bool = False,
) -> Any:
    """Return the mean of what a model gives for every combination of flips, each flipped back.

    A module runs in eval mode without gradients, and gets the training flags of all its parts back. The images go
    through the model one after the other.

    Parameters
    ----------
    model_or_function : module or callable
        Gets the flipped image; gives a tensor, or a tuple, list or dict of such. Those with as many axes as the image
        are flipped back, those of N x classes are averaged as they are.
    image : Tensor
        N x C x height x width, or N x C x depth x height x width.
    axes : int or sequence of int
        Axes to flip, numbered as those of `image`: -1 is the width, -2 the height. For k axes the model is called
        2**k times.
    quarter_turns : bool
        Also turn by a quarter, a half and three quarters of a circle in the plane of the last two axes. With both of
        these in `axes` that makes the 8 symmetries of a square, for any image twice as many calls. The model has to
        take the height for the width.

    Returns
    -------
    Tensor, or a structure of such
        In float32, or float64 where the model gives that.

    Raises
    ------
    ConfigError
        For axes that are not those of height, width or depth.
    DataError
        For an image of another kind or shape.
    HookError
        For outputs of another kind, or of shapes that differ between the flips.

    Examples
    --------
    >>> model = torch.nn.Conv2d(3, 2, kernel_size=3, padding=1)
    >>> flips(model, torch.rand(4, 3, 64, 64), axes=(-2, -1), quarter_turns=True).shape
    torch.Size([4, 2, 64, 64])
    """
    if not isinstance(image, Tensor) or image.ndim not in (4, 5):
        got = f"of the shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise DataError(f"the image is {got}; expected a tensor of N x C x height x width, or with a depth before it.")
    symmetries = _symmetries(_axes(axes, image.ndim), quarter_turns, image.ndim)
    structure: Any = None
    sums: dict[str, Tensor] = {}
    with evaluation_mode(model_or_function):
        for flipped, turns in symmetries:
            outputs = model_or_function(image.flip(flipped).rot90(turns, (-2, -1)))
            tensors = output_tensors(outputs, MODEL)
            dtype = averaged_dtype(tensors, MODEL)
            found = {name: _undone(tensor, name, image.ndim, flipped, turns) for name, tensor in tensors.items()}
            if not sums:
                structure = like(outputs, dict.fromkeys(found))
                sums = {name: tensor.to(dtype, copy=True) for name, tensor in found.items()}
                continue
            _check_same(found, sums)
            for name, tensor in found.items():
                sums[name] += tensor
    return like(structure, {name: total.div_(len(symmetries)) for name, total in sums.items()})


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes as numbers from 0 on."""
    given = list(axes) if isinstance(axes, Sequence) else [axes]
    spatial = {number: axis for axis in range(2, ndim) for number in (axis, axis - ndim)}
    numbers = tuple(spatial[int(axis)] for axis in given if isinstance(axis, (int, np.integer)) and axis in spatial)
    if len(numbers) != len(given) or len(set(numbers)) != len(numbers):
        raise ConfigError(
            f"axes={axes!r}; expected different axes of height, width or depth of an image with {ndim} axes, "
            f"of {tuple(range(2, ndim))} or {tuple(range(2 - ndim, 0))}: axes=(-2, -1)."
        )
    return numbers


def _symmetries(axes: tuple[int, ...], quarter_turns: bool, ndim: int) -> list[tuple[tuple[int, ...], int]]:
    """Return every symmetry once, as the axes to flip and the quarter turns that follow."""
    subsets = [part for count in range(len(axes) + 1) for part in itertools.combinations(axes, count)]
    # A half turn is both flips of its plane.
    half = {ndim - 2, ndim - 1} <= set(axes)
    turns = (0,) if not quarter_turns else (0, 1) if half else (0, 1, 2, 3)
    return list(itertools.product(subsets, turns))


def _undone(output: Tensor, name: str, ndim: int, flipped: tuple[int, ...], turns: int) -> Tensor:
    if output.ndim == ndim:
        return output.rot90(-turns, (-2, -1)).flip(flipped)
    if output.ndim != 2:
        raise HookError(
            f"{MODEL} gave an output{name} of the shape {tuple(output.shape)}; expected {ndim} axes as the image has, "
            "which are flipped back, or N x classes."
        )
    return output


def _check_same(found: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    """Raise where a flip gave another shape: adding it would broadcast, or fail without a reason."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    first = {name: tuple(tensor.shape) for name, tensor in sums.items()}
    if shapes != first:
        raise HookError(
            f"{MODEL} gave {shapes} for a flipped or turned image, and {first} for the image itself; expected the same."
        )
