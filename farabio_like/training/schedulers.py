"""Schedulers that move per epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import components
from ..checks import hooks
from ..duck_typing import attribute, has_methods

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def schedulers_of(trainer: ConvnetTrainer) -> list[Any]:
    """Return the schedulers of a trainer that can be stepped."""
    return [s for s in components.each(trainer.scheduler) if has_methods(s, "step")]


def position_of(scheduler: Any) -> int:
    """Return how often a scheduler was stepped."""
    return attribute(scheduler, "last_epoch", 0)


def step_schedulers(trainer: ConvnetTrainer, value: float | None) -> None:
    """Step the schedulers that move per epoch, unless the subclass steps them itself.

    Parameters
    ----------
    trainer : ConvnetTrainer
    value : float or None
        Of the monitored metric; without it, in an epoch without an evaluation, one that follows it stays.
    """
    if trainer._scheduler_step != "epoch" or trainer.scheduler is None or hooks.steps_schedulers(trainer):
        return
    for scheduler, mark in zip(schedulers_of(trainer), trainer._run_state.progress.scheduler_marks, strict=False):
        if position_of(scheduler) != mark:
            continue
        if not follows_metric(scheduler):
            scheduler.step()
        elif value is not None:
            scheduler.step(value)


def follows_metric(scheduler: Any) -> bool:
    """Return whether a scheduler is stepped with the monitored metric."""
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
