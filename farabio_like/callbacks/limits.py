"""Runs on a part of the data: the first batches of a loader, the same few batches, a check of everything."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..checks.arguments import whole_number
from ..data.loaders import length_of
from ..state import run_state
from .base import LOADER_OF, Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

_PLAIN = (type(None), bool, int, float, str, Tensor)


class LimitBatches(Callback):
    """Reads no more than the first batches of a loader; the run goes on with the next one.

    Parameters
    ----------
    train, valid, test : int, optional
        Batches of each pass over that loader; None for all of them.

    Raises
    ------
    ConfigError
        For a number that is not allowed.

    Examples
    --------
    >>> shorter = LimitBatches(train=100, valid=10)
    """

    order = CallbackOrder.Other

    def __init__(self, train: int | None = None, valid: int | None = None, test: int | None = None) -> None:
        self.limits = {
            name: None if limit is None else whole_number(f"{type(self).__name__}({name})", limit)
            for name, limit in (("train", train), ("valid", valid), ("test", test))
        }
        self.read = {"train": 0, "valid": 0, "test": 0}

    def listens_to(self, event: str) -> bool:
        """Leave out the events of loaders without a limit."""
        return event not in LOADER_OF or self.limits[LOADER_OF[event]] is not None

    def _count(self, trainer: ConvnetTrainer, name: str) -> None:
        self.read[name] += 1
        if self.read[name] == self.limits[name]:
            trainer.stop_loader()

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Count anew."""
        self.read["train"] = 0

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Count a training batch."""
        self._count(trainer, "train")

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Count anew."""
        self.read["valid"] = 0

    def on_evaluate_batch_start(self, trainer: ConvnetTrainer) -> None:
        """Count a batch of the evaluation: here, for a skipped one has no end."""
        self._count(trainer, "valid")

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Count anew."""
        self.read["test"] = 0

    def on_end_test_batch(self, trainer: ConvnetTrainer) -> None:
        """Count a test batch."""
        self._count(trainer, "test")

    def state_dict(self) -> dict[str, Any]:
        """Return the batches read so far."""
        return {"read": dict(self.read)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.read = dict(state["read"])


class QuickCheck(LimitBatches):
    """Runs everything once on a few batches: one epoch, evaluated whatever its interval, then the run ends.

    `test` reads as few. In a run with stages it is one epoch of every stage.

    Parameters
    ----------
    batches : int
        Of every loader.

    Raises
    ------
    ConfigError
        For a number that is not allowed.

    Examples
    --------
    >>> check = QuickCheck()
    """

    def __init__(self, batches: int = 2) -> None:
        batches = whole_number("QuickCheck(batches)", batches)
        super().__init__(batches, batches, batches)
        self._interval: int | None = None

    def on_stage_start(self, trainer: ConvnetTrainer) -> None:
        """End the stage after its first epoch."""
        trainer._run_state.stage_end = run_state.first_epoch(trainer)

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Have the epoch evaluated."""
        super().on_train_epoch_start(trainer)
        self._interval, trainer._eval_interval = trainer._eval_interval, 1

    def on_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Give the setting back, and end the run unless it has stages."""
        self._give_back(trainer)
        if trainer.stage is None:
            trainer.stop_train()

    def on_exception(self, trainer: ConvnetTrainer) -> None:
        """Give the setting back."""
        self._give_back(trainer)

    def _give_back(self, trainer: ConvnetTrainer) -> None:
        if self._interval is not None:
            trainer._eval_interval, self._interval = self._interval, None


class OverfitBatches(Callback):
    """Trains on the same few batches again and again: a model that cannot learn these by heart has a bug.

    They are the first ones of the first epoch, kept in memory as the loader gave them, in that order.

    Parameters
    ----------
    batches : int

    Raises
    ------
    ConfigError
        For a number that is not allowed.

    Examples
    --------
    >>> overfit = OverfitBatches(1)
    """

    def __init__(self, batches: int = 1) -> None:
        self.batches = whole_number("OverfitBatches(batches)", batches)
        self.kept: list[Any] | None = None

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Forget the batches of another run."""
        if trainer.step == 0:
            self.kept = None

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Put the kept batches in place of the loader."""
        trainer.train_epoch_iter = _SameItems(self, trainer.train_epoch_iter)

    def state_dict(self) -> dict[str, Any]:
        """Return the batches, where they are tensors, numbers and text in lists, tuples and dicts."""
        return {"kept": self.kept} if _is_plain(self.kept) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.kept = state.get("kept")


class _SameItems:
    """The items to train on in one epoch."""

    def __init__(self, owner: OverfitBatches, items: Any) -> None:
        self.owner = owner
        self.items = items

    def __len__(self) -> int:
        if self.owner.kept is not None:
            return len(self.owner.kept)
        length = length_of(self.items)
        return self.owner.batches if length is None else min(self.owner.batches, length)

    def __iter__(self) -> Iterator[Any]:
        if self.owner.kept is None:
            self.owner.kept = list(islice(self.items, self.owner.batches))
        for item in self.owner.kept:
            yield copy.deepcopy(item)  # what a hook does to a batch in place is gone the next time


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(_is_plain(part) for part in value)
    if type(value) is dict:
        return all(_is_plain(part) for part in (*value, *value.values()))
    return type(value) in _PLAIN
