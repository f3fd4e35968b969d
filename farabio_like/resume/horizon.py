"""Schedules that were made for as many epochs as a run had, which goes on for more; what a schedule does is torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LRScheduler

from ..components import inventory
from ..data import length_of
from ..duck_typing import attribute, is_a

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

_LENGTHS = ("T_max", "total_steps", "total_iters", "max_iters")  # of torch's schedules that come to an end


def say_ends(trainer: ConvnetTrainer, then: int, steps: int) -> None:
    """Say which schedules end where the run was to end when they were made, and what one for all epochs would be.

    Parameters
    ----------
    trainer : ConvnetTrainer
        With the schedules as they go on.
    then : int
        The number of epochs that the run was to have.
    steps : int
        Steps of an epoch, 0 where that is not known: for schedules that move per step.
    """
    first, now = trainer._start_epoch - 1, trainer._num_epochs
    if now <= then or then <= first:
        return
    held, done = inventory.take(trainer), trainer._run_state.progress.last_epoch_done
    units = (steps,) if trainer._scheduler_step == "step" else (1, steps)  # a hook may step after every batch
    schedules = [part for part in inventory.once(held.schedulers) if is_a(part.value, LRScheduler)]
    for part in schedules:
        length = _length(part.value)
        if length is None:
            continue
        name, count = length
        for each in units:
            if each and abs(count - (then - first) * each) <= max(1, each // 2):
                longer = count + (now - then) * each
                kind, position = type(part.value).__name__, attribute(part.value, "last_epoch", 0)
                ends = ", and raises an error after that" if name == "total_steps" else ""
                trainer._run_state.console.line(
                    f"  self.{part.where}, a {kind}, was made for {then} epochs ({name}={count}), and the run now has "
                    f"{now}: it goes on as it was made{ends}. For all of them it would be {name}={longer}. To have "
                    f"that, write in on_train_epoch_start: if self.epoch == {(done or first) + 1}: self.{part.where} = "
                    f"{kind}(..., {name}={longer}, last_epoch={position})."
                )
                break


def steps_of_epoch(trainer: ConvnetTrainer) -> int:
    """Return how often the optimizers move in an epoch, 0 where the loader has no length."""
    batches = length_of(trainer.train_loader) or 0
    return -(-batches // trainer._accumulation_steps)


def _length(schedule: Any) -> tuple[str, int] | None:
    """Return the setting that says after how many of its steps a schedule ends, and its value."""
    inner = attribute(schedule, "_schedulers")
    if is_a(inner, (list, tuple)) and inner:  # the last one begins at the last milestone
        last = _length(inner[-1])
        begins = (attribute(schedule, "_milestones") or [0])[-1]
        return None if last is None else (last[0], last[1] + begins)
    for name in _LENGTHS:
        value = attribute(schedule, name)
        if type(value) in (int, float) and value > 0:
            return name, int(value)
    return None
