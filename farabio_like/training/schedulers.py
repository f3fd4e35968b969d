"""Schedulers that move per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

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
