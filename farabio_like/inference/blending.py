"""The weighted means of overlapping windows, slab by slab, and where they go.

Where windows lie and what they weigh is in `windows`; the model is called by `sliding_window`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import DataError, HookError
from .model import averaged_dtype, leaves, like, output_tensors
from .windows import Grid, native

MODEL = "the model"
REDUCE = "reduce"


class Blend:
    """Adds up windows and divides by their weights.

    A slab is what lies under one row of windows, those with the same start along the first axis. Where the next row
    begins, the slab is whole up to there. Then that part is divided by its weights and stored, and the rest moves up.

    NOTE: windows have to come in the order of `Grid.places`: a slab that was left does not come back.

    Parameters
    ----------
    grid : Grid
    importance : Tensor
        What every place of a window weighs.
    images : int
    device : torch.device
        Where slabs are added up.
    results : Results or None
        Takes every slab. None adds up in tensors of the whole size, which `finish` returns.
    """

    def __init__(
        self, grid: Grid, importance: Tensor, images: int, device: torch.device, results: Results | None
    ) -> None:
        self.grid = grid
        self.images = images
        self.device = device
        self.results = results
        self._importance = importance[grid.inner]
        self._under_way = (0, 0)  # image, and start of the row of windows
        self._structure: Any = None  # of an output, without its tensors
        self._channels: dict[str, int] = {}
        self._slabs: dict[str, Tensor] = {}
        self._whole: dict[str, Tensor] = {}
        self._weights = self._row_weights = torch.empty(0)  # of the windows so far, of one row of windows

    def add(self, places: Sequence[tuple[int, ...]], outputs: Any) -> None:
        """Add what the model gave for a batch of windows.

        Parameters
        ----------
        places : sequence of (image, start, start, ...)
        outputs : tensor of B x channels x window, or tuple, list or dict of such
        """
        tensors = output_tensors(outputs, MODEL)
        self._check(tensors, len(places))
        if not self._channels:
            self._open(outputs, tensors)
        for number, (image, row, *starts) in enumerate(places):
            if (image, row) != self._under_way:
                self._go_on(image, row)
            inner: Any = (number, slice(None), *self.grid.inner)
            region: Any = (0, slice(None), *self.grid.region((0, *starts)))
            for name, slab in self._slabs.items():
                slab[region].addcmul_(tensors[name][inner].to(slab), self._importance)

    def finish(self) -> Any:
        """Return everything: what `results` took, or the whole outputs."""
        self._settle(self.grid.extent[0])
        return like(self._structure, self._whole) if self.results is None else self.results.finish()

    def _check(self, tensors: dict[str, Tensor], batch: int) -> None:
        channels = {}
        for name, tensor in tensors.items():
            if tensor.ndim < 2 or (tensor.shape[0], *tensor.shape[2:]) != (batch, *self.grid.window):
                expected = ", ".join(map(str, (batch, "channels", *self.grid.window)))
                raise HookError(
                    f"{MODEL} gave an output{name} of the shape {tuple(tensor.shape)}; expected ({expected}): a value "
                    "for every pixel of every window. Bring it there in a function: sliding_window(lambda windows: "
                    "interpolate(model(windows), windows.shape[2:]), ...)."
                )
            channels[name] = tensor.shape[1]
        if self._channels and channels != self._channels:
            raise HookError(
                f"{MODEL} gave outputs with the channels {channels} after others with {self._channels}; expected the "
                "same for every batch of windows."
            )

    def _open(self, outputs: Any, tensors: dict[str, Tensor]) -> None:
        """Make room, now that the outputs are known."""
        self._structure = like(outputs, dict.fromkeys(tensors))
        self._channels = {name: tensor.shape[1] for name, tensor in tensors.items()}
        kind: Any = {"dtype": averaged_dtype(tensors, MODEL), "device": self.device}
        self._importance = self._importance.to(kind["dtype"]).to(self.device)  # not every device has float64
        slab = (self.grid.extent[0], *self.grid.size[1:])
        self._row_weights = torch.zeros(1, 1, *slab, **kind)
        for starts in itertools.product([0], *self.grid.starts[1:]):
            self._row_weights[0, 0][self.grid.region(starts)] += self._importance
        self._weights = self._row_weights.clone()
        for name, channels in self._channels.items():
            if self.results is None:
                self._whole[name] = torch.zeros(self.images, channels, *self.grid.size, **kind)
                self._slabs[name] = self._whole[name][:1, :, : slab[0]]
            else:
                self._slabs[name] = torch.zeros(1, channels, *slab, **kind)

    def _go_on(self, image: int, row: int) -> None:
        """Settle what no further window reaches, and move on to the row of windows at `row`."""
        same = image == self._under_way[0]
        rows = row - self._under_way[1] if same else self.grid.extent[0]
        self._settle(rows)
        _move_up(self._weights, rows)
        self._weights += self._row_weights
        for name, slab in self._slabs.items():
            if self.results is None:
                self._slabs[name] = self._whole[name][image : image + 1, :, row : row + slab.shape[2]]
            else:
                _move_up(slab, rows)
        self._under_way = (image, row)

    def _settle(self, rows: int) -> None:
        """Divide the first rows of the slabs by their weights, and hand them on."""
        settled = {name: slab[:, :, :rows] for name, slab in self._slabs.items()}
        for part in settled.values():
            part /= self._weights[:, :, :rows]
        if self.results is not None:
            self.results.store(self._under_way, like(self._structure, settled), rows)


def _move_up(slab: Tensor, rows: int) -> None:
    """Move what comes after the first rows to the front, and clear the rest."""
    kept = slab.shape[2] - rows
    for start in range(0, kept, rows):  # by parts that do not overlap: no copy of the slab
        end = min(start + rows, kept)
        slab[:, :, start:end] = slab[:, :, start + rows : end + rows]
    slab[:, :, kept:] = 0


class Results:
    """What becomes of whole slabs: reduced, and written to tensors or arrays.

    Parameters
    ----------
    grid : Grid
    images : int
    reduce : "argmax", "threshold", callable or None
    out : array, or tuple, list or dict of arrays, or None
        None makes tensors.
    device : torch.device
        Of the tensors.
    """

    def __init__(self, grid: Grid, images: int, reduce: Any, out: Any, device: torch.device) -> None:
        self.grid = grid
        self.images = images
        self.reduce = reduce
        self.out = out
        self.device = device
        self._structure: Any = None  # of what was reduced, without its tensors
        self._kinds: dict[str, Any] = {}  # type and channels of what was reduced
        self._targets: dict[str, Any] = {}
        self._like_probabilities = True  # so far
        if out is not None:
            _check_arrays(leaves(out), images, grid.size)

    def store(self, place: tuple[int, int], outputs: Any, rows: int) -> None:
        """Reduce the first rows of a slab and write them to their place.

        Parameters
        ----------
        place : (int, int)
            Image, and where the rows begin.
        outputs : tensor of 1 x channels x rows x rest, or a structure of such
        rows : int
        """
        reduced = self._reduced(outputs)
        tensors = output_tensors(reduced, REDUCE)
        size = (rows, *self.grid.size[1:])
        for name, tensor in tensors.items():
            if tensor.ndim <= len(size) or tensor.shape[0] != 1 or tensor.shape[-len(size) :] != size:
                raise HookError(
                    f"{REDUCE} gave a result{name} of the shape {tuple(tensor.shape)} for a slab of the size {size}; "
                    f"expected (1, {', '.join(map(str, size))}), or the same with channels after the 1."
                )
        kinds = {name: (tensor.dtype, tuple(tensor.shape[1 : -len(size)])) for name, tensor in tensors.items()}
        if not self._targets:
            self._kinds = kinds
            self._open(reduced, tensors, outputs)
        if kinds != self._kinds:
            raise HookError(
                f"{REDUCE} gave types and channels {kinds} for a slab after {self._kinds} for the first one; expected "
                "the same for every slab."
            )
        image, row = place
        for name, tensor in tensors.items():
            region = (image, ..., slice(row, row + rows), *(slice(None) for _ in size[1:]))
            target = self._targets[name]
            target[region] = tensor[0] if isinstance(target, Tensor) else tensor[0].cpu().numpy()

    def finish(self) -> Any:
        """Return `out`, or the tensors."""
        if self.reduce == "threshold" and self._like_probabilities:
            warnings.warn(
                "reduce='threshold' asks whether logits are positive, but all values are between 0 and 1, as those of "
                "probabilities are. For these, write reduce=lambda p: p > 0.5.",
                UserWarning,
                stacklevel=4,  # the line that calls sliding_window
            )
        return like(self._structure, self._targets) if self.out is None else self.out

    def _reduced(self, outputs: Any) -> Any:
        if self.reduce is None:
            return outputs
        if callable(self.reduce):
            return self.reduce(outputs)
        function = _argmax if self.reduce == "argmax" else self._threshold
        return like(outputs, {name: function(tensor, name) for name, tensor in leaves(outputs).items()})

    def _threshold(self, logits: Tensor, name: str) -> Tensor:
        self._like_probabilities = self._like_probabilities and bool((logits.min() >= 0) & (logits.max() <= 1))
        return logits > 0

    def _open(self, reduced: Any, tensors: dict[str, Tensor], outputs: Any) -> None:
        """Make room, or check that there is, now that the results are known."""
        self._structure = like(reduced, dict.fromkeys(tensors))
        shapes = {name: (self.images, *channels, *self.grid.size) for name, (_, channels) in self._kinds.items()}
        if self.out is None:
            for name, tensor in tensors.items():
                self._targets[name] = torch.empty(shapes[name], dtype=tensor.dtype, device=self.device)
            return
        arrays = leaves(self.out)
        if set(arrays) != set(tensors):
            got, expected = (", ".join(f"out{name}" for name in names) for names in (arrays, tensors))
            raise DataError(f"got arrays at {got}; expected one for each result: {expected}")
        # Numbers of classes may go into any type that has room for them.
        classes = {name: tensor.shape[1] for name, tensor in leaves(outputs).items()} if self.reduce == "argmax" else {}
        for name, tensor in tensors.items():
            _check_target(name, arrays[name], shapes[name], tensor.dtype, classes.get(name))
        self._targets = arrays


def _argmax(logits: Tensor, name: str) -> Tensor:
    if logits.shape[1] < 2:
        raise HookError(
            f"reduce='argmax' needs two channels or more, and output{name} has one: its largest channel is always 0. "
            "Write reduce='threshold'."
        )
    return logits.argmax(1)


def _check_arrays(arrays: dict[str, Any], images: int, size: tuple[int, ...]) -> None:
    """Find before the first window what cannot take the results."""
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise DataError(
                f"out{name} is a {type(array).__name__}; expected a NumPy array or memory map, or a tuple, list or "
                "dict of such. The array of a tensor is tensor.numpy()."
            )
        if array.ndim <= len(size) or array.shape[0] != images or array.shape[-len(size) :] != size:
            expected = ", ".join(map(str, (images, "channels", *size)))
            raise DataError(
                f"out{name} has the shape {array.shape}; expected ({expected}), or without the channels where "
                "reduce leaves none."
            )
        if not array.flags.writeable:
            raise DataError(f"out{name} cannot be written. Open the memory map with mode='r+' or 'w+'.")


def _check_target(
    name: str, array: npt.NDArray[Any], shape: tuple[int, ...], dtype: torch.dtype, classes: int | None
) -> None:
    if array.shape != shape:
        raise DataError(f"out{name} has the shape {array.shape}; the result has {shape}.")
    if classes is not None and array.dtype.kind in "iu":
        fits = classes - 1 <= np.iinfo(array.dtype).max
    else:
        try:
            fits = np.can_cast(torch.empty(0, dtype=dtype).numpy().dtype, native(array.dtype), "same_kind")
        except TypeError:  # numpy has no bfloat16
            fits = False
    if not fits:
        results = f"{classes} classes" if classes is not None else f"results of {dtype}"
        raise DataError(
            f"out{name} is an array of {array.dtype}, which has no room for {results}. Make it of another type, or "
            "give the type in reduce: reduce=lambda p: p.argmax(1).to(torch.uint8)."
        )
