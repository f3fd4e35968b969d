"""Stage after stage of a run; one where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..callbacks import dispatch
from ..loggers import run as loggers
from ..resume import attributes
from ..state.run_state import first_epoch
from .best import evaluation_is_due

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def stage_by_stage(trainer: ConvnetTrainer) -> Iterator[None]:
    """Yield once per stage that is left, once in a run without stages."""
    state = trainer._run_state
    if (
        trainer._evaluate_first
        and state.progress.last_epoch_done is None
        and state.resumption.ended
        and evaluation_is_due(trainer, first=True)
    ):
        trainer.evaluate_epoch()
        if state.folder is not None:
            state.folder.append({"epoch": trainer._start_epoch - 1, "valid": trainer.epoch_metrics.get("valid", {})})
        loggers.record_epoch(
            trainer, {"epoch": trainer._start_epoch - 1, "valid": trainer.epoch_metrics.get("valid", {})}
        )
        state.console.metrics("before the first step", trainer.epoch_metrics.get("valid", {}))
    attributes.note_objects(trainer)
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
        state.stage, state.stage_end = stage, end
        state.before_stage = {f"_{name}": getattr(trainer, f"_{name}") for name in stage.settings}
        vars(trainer).update({f"_{name}": value for name, value in stage.settings.items()})
        if not goes_on:
            state.best = None  # another loss, maybe another metric
        state.console.line(f"\nstage {stage.name}: epochs {first_epoch(trainer)} to {end}")
        trainer.on_stage_start()
        dispatch.fire(trainer, "on_stage_start")
        state.resumption.parts(trainer)
        yield
        trainer.on_stage_end()
        dispatch.fire(trainer, "on_stage_end")
        leave_stage(trainer)


def leave_stage(trainer: ConvnetTrainer) -> None:
    """Give the settings back that a stage has changed."""
    state = trainer._run_state
    vars(trainer).update(state.before_stage)
    state.stage, state.stage_end, state.before_stage = None, None, {}
