"""Which epoch, or which evaluation within one, is the best so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..metrics.direction import Best

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer
    from .monitor import Monitor


def note_best(
    trainer: ConvnetTrainer, monitor: Monitor, part: str, value: float | None, step: int | None = None
) -> bool:
    """Return whether a value of the monitored metric is the best so far, and note it then.

    Parameters
    ----------
    trainer : ConvnetTrainer
    monitor : Monitor
    part : "train" or "valid"
    value : float or None
        None and NaN never are.
    step : int, optional
        After which it was measured, where that was within the epoch.
    """
    state, best = trainer._run_state, trainer._run_state.best
    if value is None or value != value:
        return False
    if best is not None and (best.part, best.metric) == ("valid", monitor.metric) and part == "train":
        return False
    # Another metric cannot be compared.
    if best is None or (best.part, best.metric) != (part, monitor.metric) or monitor.better(value, best.value):
        state.best = Best(part, monitor.metric, value, trainer._epoch, step)
        return True
    return False
