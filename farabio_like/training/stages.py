"""Stage after stage of a run; one where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..callbacks import dispatch
from ..checks import hooks
from ..components import inventory
from ..loggers import run as loggers
from ..loop import evaluation
from ..optim import nonfinite
from ..resume import attributes, capture, inside, optimizers
from ..state.run_state import first_epoch
from .monitor import check_monitors, evaluation_is_due

if TYPE_CHECKING:
    from ..config.stages import Stage
    from ..trainer import ConvnetTrainer


def stage_by_stage(trainer: ConvnetTrainer) -> Iterator[None]:
    """Yield once per stage that is left, once in a run without stages."""
    state = trainer._run_state
    if not hooks.is_default(trainer, "on_train_start", "start_logger"):
        check_monitors(trainer)
    _evaluate_before_first_step(trainer)
    if state.noted != id(trainer):  # once: what the first run has changed, a later one's checkpoints hold too
        attributes.note_objects(trainer)
        inside.note(trainer, inventory.take(trainer))
        state.noted = id(trainer)
    optimizers.note_built(trainer)
    nonfinite.note_buffers(trainer)
    capture.note_hooks(trainer)
    if trainer._stages is None:
        state.resumption.parts(trainer)
        yield
        return
    if state.requests.stop or first_epoch(trainer) > trainer._num_epochs:
        state.resumption.parts(trainer, weights_only=True)
    end = trainer._start_epoch - 1
    for stage in trainer._stages:
        end += stage.num_epochs
        # A stage that was resumed at its end has still to run its on_stage_end.
        goes_on = state.resumption.is_of_stage(stage.name)
        if state.requests.ends_run or (first_epoch(trainer) > end and not goes_on):
            continue
        if not goes_on:
            state.best = None  # another loss, maybe another metric
        _enter_stage(trainer, stage, end)
        optimizers.note_built(trainer)
        state.resumption.parts(trainer)
        yield
        trainer.on_stage_end()
        dispatch.fire(trainer, "on_stage_end")
        leave_stage(trainer)


def _evaluate_before_first_step(trainer: ConvnetTrainer) -> None:
    """Evaluate what nothing was trained of, where the run asks for it."""
    state = trainer._run_state
    begins_anew = state.progress.last_epoch_done is None and state.resumption.ended
    if not (trainer._evaluate_first and begins_anew and evaluation_is_due(trainer, first=True)):
        return
    with evaluation.of_epoch(trainer):
        trainer.evaluate_epoch()
    metrics = trainer.epoch_metrics.get("valid", {})
    if state.folder is not None:
        state.folder.append({"epoch": trainer._start_epoch - 1, "valid": metrics})
    loggers.log_epoch(trainer, {"epoch": trainer._start_epoch - 1, "valid": metrics})
    state.console.metrics("before the first step", metrics)


def _enter_stage(trainer: ConvnetTrainer, stage: Stage, end: int) -> None:
    """Give a trainer the settings of a stage, whose last epoch is `end`, and call the hooks that begin it."""
    state = trainer._run_state
    state.stage, state.stage_end = stage, end
    state.schedules.rest()
    state.before_stage = {f"_{name}": getattr(trainer, f"_{name}") for name in stage.settings}
    vars(trainer).update({f"_{name}": value for name, value in stage.settings.items()})
    state.console.line(f"\nstage {stage.name}: epochs {first_epoch(trainer)} to {end}")
    trainer.on_stage_start()
    dispatch.fire(trainer, "on_stage_start")


def leave_stage(trainer: ConvnetTrainer) -> None:
    """Give the settings back that a stage has changed."""
    state = trainer._run_state
    vars(trainer).update(state.before_stage)
    state.stage, state.stage_end, state.before_stage = None, None, {}
