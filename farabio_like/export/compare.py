"""What an exported file gives, compared with what its model gives, for batches of several sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .calls import SEED, Call, output_leaves
from .formats import Program, run

SIZES = (1, 2, 7)  # of the batches, beside that of the batch that was traced


@dataclass
class Differences:
    """What was compared.

    Attributes
    ----------
    by_size : dict of int to float
        For each batch size the largest difference of two numbers, relative to the largest number of the output; NaN
        where the file and the model do not give outputs of the same shapes and kinds.
    problems : dict of int to str
        What the file says to a batch of this size that the model takes.
    left_out : dict of int to str
        What the model itself says to a batch of this size, which therefore is not compared.
    """

    by_size: dict[int, float] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """The largest difference; infinite where the file does not run, or gives something else."""
        values = [math.inf if math.isnan(value) else value for value in self.by_size.values()]
        return max([*values, *([math.inf] if self.problems else [])], default=math.inf)

    def lines(self) -> list[str]:
        """Return a line for each batch size."""
        found = [(size, f"{value:.3g}") for size, value in self.by_size.items()]
        found += [(size, f"the file does not take it: {said}") for size, said in self.problems.items()]
        found += [(size, f"left out, the model does not take it: {said}") for size, said in self.left_out.items()]
        return [f"batch of {size}: {said}" for size, said in sorted(found)]


def compare(call: Call, program: Program, sizes: Sequence[int] = SIZES) -> Differences:
    """Compare a program with a call, by the batch that was traced and by others of its samples."""
    found = Differences()
    for size in sorted({*sizes, call.batch}):
        tensors = call.of_size(size)
        try:
            expected = list(output_leaves(call.run(tensors), call).values())
        except Exception as error:  # of batch norm, say, that has no statistics of one sample
            found.left_out[size] = _first_line(error)
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                given = run(program, tensors)
        except Exception as error:
            found.problems[size] = _first_line(error)
            continue
        found.by_size[size] = difference(given, expected)
    return found


def difference(given: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of numbers, relative to the largest number of their tensor.

    NaN where shapes or kinds differ. Where both are NaN or the same infinity, they do not differ.
    """
    if [tensor.shape for tensor in given] != [tensor.shape for tensor in expected]:
        return math.nan
    largest = 0.0
    for one, other in zip(given, expected, strict=True):
        if one.is_floating_point() != other.is_floating_point() or one.is_complex() != other.is_complex():
            return math.nan
        kind = torch.complex128 if one.is_complex() else torch.float64
        one, other = one.detach().cpu().to(kind), other.detach().cpu().to(kind)
        same = (one == other) | (one.isnan() & other.isnan())
        if same.all():
            continue
        finite = other.isfinite()
        scale = other[finite].abs().max().item() if finite.any() else 0.0
        gap = (one - other)[~same].abs()
        if not gap.isfinite().all():
            return math.inf
        largest = max(largest, gap.max().item() / scale if scale else math.inf)
    return largest


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
