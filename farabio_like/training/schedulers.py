"""Schedulers that move per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import components
from ..checks import hooks
from ..duck_typing import attribute, has_methods
from ..errors import ConfigError
from .best import monitored

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def schedulers_of(trainer: ConvnetTrainer) -> list[Any]:
    """Return the schedulers of a trainer that can be stepped."""
    return [s for s in components.each(trainer.scheduler) if has_methods(s, "step")]


def position_of(scheduler: Any) -> int:
    """Return how often a scheduler was stepped."""
    return attribute(scheduler, "last_epoch", 0)


def step_schedulers(trainer: ConvnetTrainer, entry: dict[str, Any]) -> None:
    """Step the schedulers that move per epoch, unless the subclass steps them itself."""
    if trainer._scheduler_step != "epoch" or trainer.scheduler is None or hooks.steps_schedulers(trainer):
        return
    for scheduler, mark in zip(schedulers_of(trainer), trainer._run_state.progress.scheduler_marks, strict=False):
        if position_of(scheduler) != mark:
            continue
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            name, _, value = monitored(trainer, entry)
            if value is not None:
                scheduler.step(value)
            elif trainer._monitor is None and trainer._eval_interval == 1:
                raise ConfigError(f"ReduceLROnPlateau needs a metric, and there is no {name!r}; set self._monitor.")
        else:
            scheduler.step()
