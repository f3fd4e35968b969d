"""Schedulers that move per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError
from .best import monitored

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def step_schedulers(trainer: ConvnetTrainer, entry: dict[str, Any]) -> None:
    """Step the schedulers that move per epoch, except those that the subclass steps itself, see `Schedules`."""
    state = trainer._run_state
    # In an epoch of the subclass's own (train_epoch), nobody knows where it was to step.
    if trainer._scheduler_step != "epoch" or trainer.scheduler is None or not state.schedules.counts:
        return
    for schedule in state.schedules.due(trainer):
        if isinstance(schedule.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            name, _, value = monitored(trainer, entry)
            if value is not None:
                schedule.step(value)
            elif trainer._monitor is None and trainer._eval_interval == 1:
                raise ConfigError(f"ReduceLROnPlateau needs a metric, and there is no {name!r}; set self._monitor.")
        else:
            schedule.step()
