"""Which metric is monitored, whether an evaluation is due, which epoch is best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..checks import hooks
from ..errors import ConfigError, closest
from ..metrics.values import improves
from ..state import run_state

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def evaluation_is_due(trainer: ConvnetTrainer, first: bool = False) -> bool:
    """Return whether this epoch is evaluated."""
    state = trainer._run_state
    if not trainer._has_eval or state.requests.exit_asked or (trainer._epoch % trainer._eval_interval and not first):
        return False
    if trainer.valid_loader is None and trainer.valid_epoch_iter is None:
        if hooks.is_default(trainer, "evaluate_epoch", "on_evaluate_epoch_start"):
            state.console.once(run_state.NO_VALID_LOADER)
            return False
    return True


def monitored(trainer: ConvnetTrainer, entry: dict[str, Any]) -> tuple[str, str, float | None]:
    """Return name, part and value of the monitored metric in an epoch, None where it was not evaluated.

    Raises
    ------
    ConfigError
        If there is no such metric, or it is no number.
    """
    name = trainer._monitor or "loss"
    part = "valid" if name in entry["valid"] else "train"
    value = entry[part].get(name)
    if isinstance(value, (int, float)):
        return name, part, value
    there = list(dict.fromkeys([*entry["train"], *entry["valid"]]))
    waits = evaluation_is_due(trainer, first=True) and not evaluation_is_due(trainer)
    if trainer._monitor is not None and not waits:
        if value is not None:
            raise ConfigError(f"_monitor is {name!r}, which is {value!r}; only one number can be monitored.")
        raise ConfigError(
            f"_monitor is {name!r}, but no such metric was recorded in epoch {trainer._epoch}."
            f"{closest(name, there)} There are: {', '.join(there) or 'none'}."
        )
    return name, part, None


def note_best(trainer: ConvnetTrainer, entry: dict[str, Any]) -> bool:
    """Return whether this epoch is the best so far, and note it then."""
    state = trainer._run_state
    name, part, value = monitored(trainer, entry)
    if value is None or value != value or (state.best is not None and state.best[0] == "valid" and part == "train"):
        return False
    if state.best is None or state.best[0] != part or improves(name, value, state.best[2], trainer._monitor_mode):
        state.best = (part, name, value, trainer._epoch)
        return True
    return False
