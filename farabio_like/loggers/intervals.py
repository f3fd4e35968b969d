"""The running loss between the epochs: taken every so many steps, read back on the threads of the loggers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import components
from ..callbacks.base import Callback

if TYPE_CHECKING:
    from ..metrics.running import Mean
    from ..trainer import ConvnetTrainer


class Intervals(Callback):
    """Records the mean loss over the last steps, weighted by samples, and the learning rate, every so many steps.

    An interval ends with its epoch.

    Parameters
    ----------
    every : int
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.mean: Mean | None = None
        self.before = Sums()

    def on_start_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Record the steps before this one, whose own loss is not there yet."""
        if (trainer.step - 1) % self.every == 0 and trainer.step > 1:
            self.record(trainer, trainer.step - 1)

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Record the last steps of the epoch, if they fill an interval."""
        if trainer.step % self.every == 0:
            self.record(trainer, trainer.step)

    def record(self, trainer: ConvnetTrainer, step: int) -> None:
        """Record the steps up to `step`, if there are any."""
        means = trainer._run_state.means
        if means is None:
            return
        mean = means["loss"]
        if mean is not self.mean:  # another epoch
            self.mean, self.before = mean, Sums()
        sums = Sums(mean)
        if sums.count > self.before.count:
            values = {"running/loss": Difference(sums, self.before)}
            values.update(flat("running/lr", components.learning_rates(trainer.optimizer)))
            trainer.loggers.scalars(values, step)
            self.before = sums


class Sums:
    """What a mean is made of at one moment; nothing is computed.

    Parameters
    ----------
    mean : Mean, optional
        Without one: nothing.
    """

    __slots__ = ("count", "number", "tensor", "waiting", "weight")

    def __init__(self, mean: Mean | None = None) -> None:
        self.number: float = 0.0
        self.tensor: Tensor | None = None
        self.waiting: tuple[Tensor, ...] = ()
        self.weight = self.count = 0
        if mean is not None:
            self.number, self.tensor, self.weight = mean.number, mean.tensor, mean.weight
            self.waiting = tuple(mean.waiting)
            self.count = mean.count + mean.weight * len(mean.waiting)

    def since(self, before: Sums) -> float:
        """Return the sum of what came after `before`, read back."""
        total, first = self.number - before.number, len(before.waiting)
        if self.tensor is not before.tensor or self.weight != before.weight:  # folded in the meantime
            total += self._folded() - before._folded() - before._sum(before.waiting)
            first = 0
        return total + self._sum(self.waiting[first:])

    def _folded(self) -> float:
        return 0.0 if self.tensor is None else self.tensor.item()

    def _sum(self, values: tuple[Tensor, ...]) -> float:
        if not values:
            return 0.0
        stacked = torch.stack([value.reshape(()) for value in values]) if len(values) > 1 else values[0]
        return self.weight * stacked.sum(dtype=torch.float32 if stacked.device.type == "mps" else torch.float64).item()


class Difference:
    """The mean of what came between two moments, computed by ``float``: on the thread of a logger."""

    __slots__ = ("after", "before")

    def __init__(self, after: Sums, before: Sums) -> None:
        self.after = after
        self.before = before

    def __float__(self) -> float:
        return self.after.since(self.before) / (self.after.count - self.before.count)


def flat(name: str, value: Any) -> dict[str, Any]:
    """Return a learning rate, or several in lists and dicts, as numbers with names."""
    if isinstance(value, Mapping):
        parts = {f"{name}/{key}": part for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        parts = {f"{name}/{index}": part for index, part in enumerate(value)} if len(value) != 1 else {name: value[0]}
    else:
        return {} if value is None else {name: value}
    return {key: number for inner, part in parts.items() for key, number in flat(inner, part).items()}
