"""Evaluation on a further loader in the course of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..checks.arguments import whole_number
from ..errors import ConfigError
from ..training.epochs import note_evaluation
from .base import Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class PeriodicEvaluation(Callback):
    """Evaluates on a further loader every so many epochs or steps, by `ConvnetTrainer.evaluate_loader`.

    Its metrics are added to the valid ones of the epoch as ``<name>_<metric>``: of several evaluations in one
    epoch the last. With `every_steps` each one is also a line of ``metrics.jsonl`` and a record of the loggers, with
    its step, and a point of the curves, and it may be the best. Training goes on as if there had been none, with the
    same random numbers.

    Parameters
    ----------
    loader : iterable of batches
        One that can be read again and again.
    name : str
        Put before the names of its metrics.
    every_epochs, every_steps : int, optional
        One of them; without any it is every epoch.

    Attributes
    ----------
    results : list of dict
        Every evaluation: ``epoch``, ``step``, and the metrics.

    Raises
    ------
    ConfigError
        For arguments that are not allowed.

    Examples
    --------
    ``self.callbacks = [PeriodicEvaluation(night_loader, "night", every_epochs=5)]``
    """

    order = CallbackOrder.Metric  # before those that watch a metric

    def __init__(self, loader: Any, name: str, every_epochs: int | None = None, every_steps: int | None = None) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"PeriodicEvaluation(name) is {name!r}; expected a name, 'night' say.")
        if isinstance(loader, Iterator):
            raise ConfigError(
                f"PeriodicEvaluation(loader) is a {type(loader).__name__}, which can be read only once; give a "
                "DataLoader or a list."
            )
        if every_epochs is not None and every_steps is not None:
            raise ConfigError("PeriodicEvaluation got every_epochs and every_steps; give one of them.")
        self.loader = loader
        self.name = name
        self.every_steps = None if every_steps is None else whole_number("PeriodicEvaluation(every_steps)", every_steps)
        self.every_epochs = whole_number(
            "PeriodicEvaluation(every_epochs)", 1 if every_epochs is None else every_epochs
        )
        self.results: list[dict[str, Any]] = []

    def listens_to(self, event: str) -> bool:
        """Leave out the batches where steps are not counted."""
        return event != "on_end_training_batch" or self.every_steps is not None

    def announces(self) -> dict[str, bool | None] | None:
        """Return the beginning of the names: when they come depends on the steps."""
        return {f"{self.name}_*": None}

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Forget the results of another run."""
        if trainer.step == 0:
            self.results = []

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Evaluate when a number of steps is full."""
        if trainer._run_state.progress.step % self.every_steps == 0:  # type: ignore[operator]
            self._evaluate(trainer)

    def on_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Evaluate when a number of epochs is full, and add the last result to the epoch's metrics."""
        if self.every_steps is None and trainer.epoch % self.every_epochs == 0:
            self._evaluate(trainer)
        if self.results and self.results[-1]["epoch"] == trainer.epoch:
            found = {name: value for name, value in self.results[-1].items() if name not in ("epoch", "step")}
            trainer.history[-1]["valid"].update(found)
            trainer.epoch_metrics["valid"] = trainer.history[-1]["valid"]

    def _evaluate(self, trainer: ConvnetTrainer) -> None:
        metrics = trainer.evaluate_loader(self.loader)
        found = {f"{self.name}_{name}": value for name, value in metrics.items()}
        self.results.append({"epoch": trainer.epoch, "step": trainer.step, **found})
        if self.every_steps is not None:  # else they are in the epoch's line
            note_evaluation(trainer, found, of_other_loader=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the results."""
        return {"results": [dict(result) for result in self.results]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.results = [dict(result) for result in state["results"]]
