"""The mean of ``self.loss``, which a step sets and nobody hands over: counted where it is new."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .running import FOLD_EVERY, Mean


class LossTracker:
    """Folds ``self.loss`` of every batch that gave a new one.

    Parameters
    ----------
    mean : Mean
    size_of : callable
        Returns the number of samples of a batch.
    loss : Any
        What ``self.loss`` is before the first batch.
    running : bool
        The hook that started the pass set it: it is a running value of the subclass, and no mean is made of it.
    """

    __slots__ = ("mean", "number", "running", "seen", "size_of", "version")

    def __init__(self, mean: Mean, size_of: Callable[[Any], int], loss: Any, running: bool) -> None:
        self.mean = mean
        self.size_of = size_of
        self.running = running
        self.seen: Callable[[], Any] = _nothing
        self.version: int | None = None
        self.number: Any = None
        self.pass_over(loss)

    def pass_over(self, loss: Any) -> None:
        """Know `loss` without counting it."""
        if isinstance(loss, Tensor):
            # Weakly: a strong reference would keep the last step's graph through the next step.
            self.seen, self.version = weakref.ref(loss), None if loss.requires_grad else _version(loss)
        else:
            self.number = loss

    def take(self, loss: Any, batch: Any) -> None:
        """Count `loss` for `batch`, if it is new."""
        if isinstance(loss, Tensor):
            known = self.seen() is loss and (loss.requires_grad or self.version == _version(loss))
        else:
            known = loss is self.number and type(loss) is not int
        if not known:
            self.pass_over(loss)
            self.count(loss, batch)

    def count(self, loss: Any, batch: Any) -> None:
        """Count `loss` for `batch`."""
        if self.running:
            return
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                return
            samples, mean = self.size_of(batch), self.mean
            if samples != mean.weight or len(mean.waiting) >= FOLD_EVERY:
                mean.fold(samples)
            # Without a graph it may be a buffer that the next batch writes over.
            mean.waiting.append(loss.detach() if loss.requires_grad else loss.clone())
        elif isinstance(loss, (int, float)):
            self.mean.add_number(loss, self.size_of(batch))


def _nothing() -> None:
    """Stand for a weak reference to nothing."""


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor without a graph was written to, None for one that does not count it."""
    return None if tensor.is_inference() else tensor._version
