"""The metric that a callback watches: which number it is, and which of two is the better one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..checks import hooks
from ..errors import ConfigError, closest
from ..metrics.values import improves, plain_metrics

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

PARTS = ("train", "valid")


class Monitor:
    """A metric by its name, read at the end of an epoch.

    Parameters
    ----------
    name : str
        ``"accuracy"`` is the one of the evaluation where it has it, else of training; ``"train/loss"`` and
        ``"valid/loss"`` say which.
    mode : "min", "max" or None
        None decides by the name, see `farabio_like.metrics.values.improves`.
    min_delta : float
        A smaller change is no improvement.

    Raises
    ------
    ConfigError
        For a name, mode or `min_delta` that is not allowed.

    Examples
    --------
    >>> Monitor("valid/accuracy").better(0.9, 0.8), Monitor("loss").better(float("nan"), None)
    (True, False)
    """

    def __init__(self, name: str, mode: str | None = None, min_delta: float = 0.0) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"monitor is {name!r}; expected the name of a metric, 'loss' or 'valid/accuracy' say.")
        if mode not in (None, "min", "max"):
            raise ConfigError(f"mode is {mode!r}; expected 'min', 'max', or None for the metric's own.")
        if not isinstance(min_delta, (int, float)) or not 0 <= min_delta < math.inf:
            raise ConfigError(f"min_delta is {min_delta!r}; expected a number, 0 or more.")
        self.name = name
        self.mode = mode
        self.min_delta = min_delta

    @property
    def higher(self) -> bool:
        """Whether higher is better."""
        return improves(self.name, 1.0, 0.0, self.mode)

    def better(self, value: float, best: float | None) -> bool:
        """Return whether `value` improves on `best`; NaN never does, and a first number does."""
        if best is None:
            return not math.isnan(value)
        return improves(self.name, value, best, self.mode, self.min_delta)

    def read(self, trainer: ConvnetTrainer) -> float | None:
        """Return the metric of the epoch that ends, None where the epoch was not evaluated.

        Raises
        ------
        ConfigError
            If there is no such metric, or it is no single number.
        """
        metrics = trainer.epoch_metrics
        valid = metrics.get("valid", {})
        part, _, name = self.name.partition("/")
        if part not in PARTS or not name:
            part, name = "valid" if self.name in valid else "train", self.name
            waits = _was_left(trainer) or (name not in valid and _is_between(trainer))
        else:
            waits = part == "valid" and (_was_left(trainer) or (name not in valid and _is_between(trainer)))
        value = plain_metrics(metrics.get(part, {})).get(name)
        if waits or (value is None and any(name in entry.get(part, {}) for entry in trainer.history[:-1])):
            return None
        if isinstance(value, (int, float)):
            return float(value)
        raise ConfigError(self._problem(value, metrics))

    def _problem(self, value: Any, metrics: dict[str, dict[str, Any]]) -> str:
        if value is not None:
            return f"monitor is {self.name!r}, which is {value!r}; expected the name of a single number."
        there = [f"{part}/{name}" for part in PARTS for name in metrics.get(part, {})]
        guess = closest(self.name, [*there, *dict.fromkeys(name.partition("/")[2] for name in there)])
        return f"monitor is {self.name!r}, but there is no such metric.{guess} There are: {', '.join(there) or 'none'}."


def _was_left(trainer: ConvnetTrainer) -> bool:
    """Return whether the epoch or its evaluation was left early, so that its metrics are of a part."""
    return trainer._run_state.requests.exit_asked or trainer._run_state.progress.left_early


def _is_between(trainer: ConvnetTrainer) -> bool:
    """Return whether the interval leaves this epoch without an evaluation, in a run that has them."""
    if not trainer._has_eval or trainer._epoch % trainer._eval_interval == 0:
        return False
    there = trainer.valid_loader is not None or trainer.valid_epoch_iter is not None
    return there or not hooks.is_default(trainer, "evaluate_epoch", "on_evaluate_epoch_start")
