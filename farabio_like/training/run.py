"""Opening and ending a run: what `train` does before its first hook and after its last.

These are functions of a trainer, not methods, so that no name of a subclass can meet theirs.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import traceback
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .. import checkpoint, components, compute, distributed, rundir
from ..callbacks import dispatch
from ..checkpoint import sharded
from ..checks import hooks
from ..checks import run as run_checks
from ..config.config import to_dict
from ..config.secrets import Secrets
from ..config.settings import SETTINGS
from ..data import worker_processes
from ..data.output_spec import Description
from ..errors import CheckpointError
from ..loggers import run as loggers
from ..loggers.console import number, seconds, write_line
from ..loop import error_notes, evaluation, loader_pass
from ..optim import nonfinite
from ..optim import steps as optim_steps
from ..plots.figure import printable
from ..resume import attributes, find, horizon, saving
from ..resume.open import bring_along, resume_run
from ..rundir import index, layout
from ..state import rank_requests, signals
from ..state.put_off import PutOff
from ..state.run_state import first_epoch
from . import drawing
from .epochs import settle_evaluations
from .monitor import check_monitors, of_settings
from .stages import leave_stage
from .testing import load_weights

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


LONGEST_ERROR = 2000  # characters of a message in metrics.jsonl


def open_run(trainer: ConvnetTrainer, resume_from: Any, other_data: bool = False) -> None:
    """Check all that can be known, make the run folder or find the one that goes on, print the header."""
    state = trainer._run_state
    _begin_afresh(trainer)
    state.console.verbose, state.console.use_tqdm = trainer._verbose, trainer._use_tqdm
    run_checks.before_training(trainer)
    Description.of(trainer.input_spec)
    _plain_integers(trainer)
    state.console.monitor = of_settings(trainer).metric
    state.listeners = dispatch.listeners(trainer.callbacks)
    if hooks.is_default(trainer, "on_train_start", "start_logger"):  # which may make the metrics
        check_monitors(trainer)
    if trainer._stages is not None:
        trainer._num_epochs = trainer._start_epoch - 1 + sum(stage.num_epochs for stage in trainer._stages)
    resume_from = resume_from or distributed.from_main(lambda: find.of_this_job(trainer))
    if resume_from:
        resume_run(trainer, resume_from, other_data)
    _count_epochs(trainer)
    state.put_off = PutOff()
    saving.schedule_next(trainer)
    if state.noted != id(trainer):
        state.attributes_before = attributes.attributes(trainer)
    _open_folder(trainer)
    _announce(trainer)
    optim_steps.bind(trainer)
    state.determinism = compute.make_deterministic() if trainer._deterministic else None
    state.running, state.progress.epoch_started = "train", perf_counter()


def _begin_afresh(trainer: ConvnetTrainer) -> None:
    """Begin with nothing asked, nothing under way and nothing to restore, whatever ended the run before."""
    state = trainer._run_state
    state.requests.stop = state.requests.exit_asked = False
    state.resumption.end()
    state.rewind_to, state.progress.phase = None, None
    state.item = loader_pass.NOTHING
    state.progress.evaluations, state.unsettled, state.settle = [], [], None
    state.saved = False
    state.schedules.rest()


def _plain_integers(trainer: ConvnetTrainer) -> None:
    """Turn NumPy's integers, which are no plain data, into Python's."""
    for name in ("_num_epochs", "_start_epoch", "_eval_interval", "_save_epoch"):
        if not isinstance(getattr(trainer, name), int):
            setattr(trainer, name, operator.index(getattr(trainer, name)))


def _count_epochs(trainer: ConvnetTrainer) -> None:
    """Ask a trained trainer that trains again for as many epochs more; drop from the history what comes again."""
    state = trainer._run_state
    first, done = first_epoch(trainer), state.progress.last_epoch_done
    alone = trainer._stages is None and state.resumption.ended
    if alone and done is not None and first > trainer._num_epochs:
        before, trainer._num_epochs = trainer._num_epochs, done + max(0, trainer._num_epochs - trainer._start_epoch + 1)
        horizon.say_ends(trainer, before, horizon.steps_of_epoch(trainer))
    while state.history and state.history[-1]["epoch"] >= first:
        state.history.pop()  # an epoch that was interrupted at its end, and is trained again


def _open_folder(trainer: ConvnetTrainer) -> None:
    """Make the folder of a run that has none, with what a resumed one had done elsewhere; hold it."""
    state = trainer._run_state
    if trainer._logdir is not None and state.folder is None:
        state.folder = rundir.RunDir(trainer._logdir, type(trainer), state.launched.name)
        trainer.run_dir = state.folder.path
        settings = {name: getattr(trainer, name) for name in SETTINGS}
        state.folder.describe(to_dict(trainer.config), settings, code=not state.launched.keeps_code)
        if distributed.is_main():
            state.launched.describe(state.folder.path)
        if not state.resumption.ended:
            bring_along(trainer, state.folder)
    if state.folder is not None:
        distributed.from_main(state.folder.hold)
        if trainer.input_spec is not None:
            state.folder.describe_input(Description.of(trainer.input_spec).to_dict())


def _announce(trainer: ConvnetTrainer) -> None:
    """Print what is trained, for how long, and where its files are."""
    console, first = trainer._run_state.console, first_epoch(trainer)
    parameters = [p for module in components.modules_of(trainer) for p in module.parameters()]
    known = sum(p.numel() for p in parameters if not components.is_lazy(p))
    frozen = sum(p.numel() for p in parameters if not p.requires_grad and not components.is_lazy(p))
    size = f"{known:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")
    epochs = f"epochs {first} to {trainer._num_epochs}" if first <= trainer._num_epochs else "no epoch to train"
    console.line(f"{type(trainer).__name__}: {size} on {trainer.device}, {epochs}")
    if trainer.run_dir is not None:
        console.line(f"files in {layout.shown(trainer.run_dir)}")
    trainer._run_state.note_lost_output()


def end_run(trainer: ConvnetTrainer, error: BaseException | None = None) -> None:
    """Run every on_train_end and close, also when one raises; the first error wins."""
    state = trainer._run_state
    signals.collect(state.requests)
    lost = _lost_worker(trainer, error)
    ended = signals.ending(state.requests)
    if lost is not None and ended is not None:
        error, lost = ended, ended  # a signal to all processes of the run: the workers end at once
    if error is not None:
        distributed.failed(error)
        error_notes.add_note(trainer, error)
    state.exception = error
    state.running, state.requests.stop, state.requests.exit_asked = None, False, False
    first = _run_all(_closing_steps(trainer, error), error)
    _forget_run(trainer)
    if error is None and first is not None:
        raise first
    if lost is not None:
        raise lost from (None if lost is error else error)
    if error is None:
        rank_requests.agree(trainer)
        signals.obey(state.requests)


def _lost_worker(trainer: ConvnetTrainer, error: BaseException | None) -> BaseException | None:
    """Return the error that names the worker whose death has ended the run, None where none has."""
    progress = trainer._run_state.progress
    # The news of a worker's death may have come anywhere, in a training step say.
    loader = {"train": "train", "evaluate": "valid"}.get(progress.phase or "")
    where = f"in epoch {trainer._epoch}, after step {progress.epoch_step + progress.batches}"
    return worker_processes.lost_worker(error, loader, where)


def _closing_steps(trainer: ConvnetTrainer, error: BaseException | None) -> list[Callable[[], Any]]:
    """Return what is done at the end of a run, in its order; no step may keep the next one from being done."""
    state = trainer._run_state
    steps: list[Callable[[], Any]] = [partial(_settle, trainer, error)]
    if error is not None:
        steps += [partial(listener, trainer) for listener in state.listeners.get("on_exception", ())]
        # Not before: callbacks have given the model its own weights.
        steps.append(partial(saving.save_what_is_left, trainer, error))
    else:
        steps.append(partial(saving.catch_up, trainer))  # before hooks that end the run change the weights
    steps += [trainer.on_train_end, state.pictures.join]
    steps += [partial(listener, trainer) for listener in state.listeners.get("on_train_end", ())]
    steps.append(state.writer.close)
    steps.append(partial(_close_run, trainer) if error is None else partial(_report_failure, trainer, error))
    steps.append(partial(loggers.finish, trainer, error))
    steps += [callback.close for callback in components.each(trainer.callbacks, list, tuple)]
    steps.append(state.note_lost_output)
    if error is None and state.folder is not None and distributed.is_main():
        steps.append(partial(index.close, state.folder.path))
    return steps


def _settle(trainer: ConvnetTrainer, error: BaseException | None) -> None:
    """Write the lines of evaluations that the end of a batch, an epoch or a stage has not written yet."""
    state = trainer._run_state
    if settle_evaluations(trainer, can_be_best=error is None) and state.folder is not None:
        saving.write(trainer, [state.folder.best])


def _run_all(steps: list[Callable[[], Any]], first: BaseException | None) -> BaseException | None:
    """Do all steps, whatever they raise; return the first error, which is `first` where there is one already.

    A second interrupt ends one step of the cleaning up, not all of it. Further errors are printed.
    """
    for step in steps:
        try:
            step()
        except BaseException as further:
            if first is None:
                first = further
            else:
                write_line("another error, after the one that ends the run:", sys.stderr)
                write_line("".join(traceback.format_exception(further)).rstrip(), sys.stderr)
    return first


def _forget_run(trainer: ConvnetTrainer) -> None:
    """Let go of what belongs to the run that has ended: its folder, its settings and what it had under way."""
    state = trainer._run_state
    optim_steps.forget(trainer)
    if state.folder is not None:
        state.folder.release()
    if state.determinism is not None:
        compute.restore_determinism(state.determinism)
        state.determinism = None
    leave_stage(trainer)  # not before: an exception belongs to its stage
    state.exception = None  # its traceback holds what the failed step worked on
    state.progress.phase = None
    state.means = None
    state.metric_objects = None
    state.resumption.end()
    state.progress.evaluation_records = state.progress.began = state.progress.layouts = None
    state.evaluation_copies.forget()
    state.requests.saves = []
    state.put_off = PutOff()


def _close_run(trainer: ConvnetTrainer) -> None:
    """Write the weights and the curves, print where everything is."""
    state = trainer._run_state
    if trainer._load_best and state.folder is not None and distributed.from_main(state.folder.best.is_file):
        load_weights(trainer, state.folder.best)
    if state.folder is not None and state.history:
        if not state.saved and components.modules_of(trainer) and nonfinite.weights_are_finite(trainer):
            checkpoint.save(sharded.whole_state(evaluation.weights_to_save(trainer)), state.folder.weights)
        drawing.draw_run(trainer)
    closing = []
    if state.best is not None:
        closing.append(
            f"best (*) {state.best.part} {printable(state.best.metric)} {number(state.best.value)} {state.best.place}"
        )
    elif trainer._num_epochs < trainer._start_epoch:
        closing.append("no epoch was asked for, no step was taken")
    closing.append(seconds(sum(entry["seconds"] for entry in state.history)))
    state.console.line("\n" + ", ".join(closing))
    if trainer.run_dir is not None:
        state.console.line(f"files in {layout.shown(trainer.run_dir)}")


def _report_failure(trainer: ConvnetTrainer, error: BaseException) -> None:
    """Write down what has ended the run, draw what was recorded until then, and write the report."""
    state = trainer._run_state
    if state.folder is None or signals.stops_at_once(state.requests, error):
        return
    secrets = Secrets(to_dict(trainer.config), arguments=sys.argv)
    text = secrets.text(f"{type(error).__name__}: {error}")[:LONGEST_ERROR].rstrip(": ")
    with contextlib.suppress(CheckpointError):  # no room, which may be what has ended the run
        state.folder.append({"step": state.progress.step, "error": text})
    drawing.draw_run(trainer)
