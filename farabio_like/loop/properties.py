"""What is read of a trainer and not set: ``trainer.step``, ``.stage``, ``.loggers``, the parts of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..loggers import run as loggers
from . import batch as loop_batch
from . import loader_pass

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class Read:
    """A value that is read from what the base remembers; a subclass that sets the name has its own.

    It has no ``__set__``, so an instance's attribute of the same name comes first.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, trainer: ConvnetTrainer | None, owner: type) -> Any:
        return self if trainer is None else getattr(trainer._run_state, self.name)


class ReadStep(Read):
    """The number of the current training batch."""

    def __get__(self, trainer: ConvnetTrainer | None, owner: type) -> Any:
        return self if trainer is None else trainer._run_state.progress.step


class ReadEpoch(Read):
    """The number of the current epoch."""

    def __get__(self, trainer: ConvnetTrainer | None, owner: type) -> Any:
        return self if trainer is None else trainer._epoch


class ReadLoggers(Read):
    """The loggers of the run, with the step that a record belongs to."""

    def __get__(self, trainer: ConvnetTrainer | None, owner: type) -> Any:
        if trainer is None:
            return self
        state = trainer._run_state
        return loggers.Loggers(state.recording.workers if state.recording is not None else (), state.progress.step)


class Lent(Read):
    """A part of the batch under way, made when no hook has set it: so a hook that takes it may be overridden."""

    def __get__(self, trainer: ConvnetTrainer | None, owner: type) -> Any:
        if trainer is None:
            return self
        if trainer._run_state.item is loader_pass.NOTHING:
            raise AttributeError(f"{owner.__name__} has no {self.name}: no batch is under way.")
        return loop_batch.lend(trainer, self.name)
