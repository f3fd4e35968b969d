"""Schedulers that move per epoch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from ..checks import hooks

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def step_schedulers(trainer: ConvnetTrainer, value: float | None) -> None:
    """Step the schedulers that move per epoch, except those that the subclass steps itself, see `Schedules`.

    Parameters
    ----------
    trainer : ConvnetTrainer
    value : float or None
        Of the monitored metric; without it, in an epoch without an evaluation, one that follows it stays.
    """
    if trainer._scheduler_step == "step":
        _check_moved(trainer)
    # In an epoch of the subclass's own (train_epoch), nobody knows where it was to step.
    if trainer._scheduler_step != "epoch" or trainer.scheduler is None or not trainer._run_state.schedules.counts:
        return
    for schedule in trainer._run_state.schedules.due(trainer):
        if not follows_metric(schedule.scheduler):
            schedule.step()
        elif value is not None:
            schedule.step(value)


def follows_metric(scheduler: Any) -> bool:
    """Return whether a scheduler is stepped with the monitored metric."""
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


def _check_moved(trainer: ConvnetTrainer) -> None:
    """Warn of schedules that are to move per step, and that no step of the subclass's own has moved in an epoch."""
    state = trainer._run_state
    own = not hooks.is_default(trainer, "training_step", "optimizer_step")
    # Where there are other settings that such a step ignores, it is told of those.
    if own and state.stepping is None and state.progress.batches and (still := state.schedules.standing(trainer)):
        warnings.warn(
            f"{hooks.owner(trainer)}: no step of epoch {trainer._epoch} has moved {', '.join(still)}, though "
            "self._scheduler_step = 'step'. Write self.optimizer_step() in place of self.optimizer.step(), or step it "
            "yourself.",
            stacklevel=5,
        )
