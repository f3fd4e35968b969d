"""What the base does around the epochs: open and close a run, record, find the best, save, print.

These are functions of a trainer, not methods, so that no name of a subclass can meet theirs.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from . import (
    checkpoint,
    checks,
    components,
    compute,
    distributed,
    loop,
    meeting,
    nonfinite,
    pictures,
    resume,
    rundir,
    saving,
    shards,
    signals,
    stepping,
    whereabouts,
    workers,
)
from .callbacks import base as events
from .config import to_dict
from .errors import CheckpointError, ConfigError, HookError, closest
from .loggers import csv
from .loggers import run as loggers
from .loggers.console import number, seconds
from .metrics import improves, plain_metrics
from .rng import get_state
from .settings import SETTINGS

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer

LONGEST_ERROR = 2000  # characters of a message in metrics.jsonl


def open_run(trainer: ConvnetTrainer, resume_from: Any) -> None:
    """Check all that can be known, make the run folder or find the one that goes on, print the header."""
    state = trainer._run_state
    state.stop = state.leave = False
    state.resumed, state.phase = None, None
    state.item = loop.NOTHING
    state.console.verbose, state.console.use_tqdm = trainer._verbose, trainer._use_tqdm
    checks.before_training(trainer)
    for name in ("_num_epochs", "_start_epoch", "_eval_interval", "_save_epoch"):
        if type(getattr(trainer, name)) is not int:
            setattr(trainer, name, operator.index(getattr(trainer, name)))  # numpy's integers are not plain data
    state.console.monitor = trainer._monitor
    state.listeners = events.listeners(trainer.callbacks)
    if trainer._stages is not None:
        trainer._num_epochs = trainer._start_epoch - 1 + sum(stage.num_epochs for stage in trainer._stages)
    resume_from = resume_from or distributed.from_main(lambda: resume.of_this_job(trainer))
    if resume_from:
        _resume(trainer, resume_from)
    first = first_epoch(trainer)
    if state.resumed is None and state.done is not None and first > trainer._num_epochs and trainer._stages is None:
        trainer._num_epochs = state.done + max(0, trainer._num_epochs - trainer._start_epoch + 1)
    saving.plan(trainer)
    state.attributes_before = resume.attributes(trainer)
    while state.history and state.history[-1]["epoch"] >= first:
        state.history.pop()  # an epoch that was interrupted at its end, and is trained again
    if trainer._logdir is not None and state.run is None:
        state.run = rundir.RunDir(trainer._logdir, type(trainer))
        trainer.run_dir = state.run.path
        state.run.describe(to_dict(trainer.config), {name: getattr(trainer, name) for name in SETTINGS})
        if state.resumed is not None:
            _bring_along(trainer, state.run)
    if state.run is not None:
        distributed.from_main(state.run.hold)
    state.saved = False
    parameters = [p for module in components.modules_of(trainer) for p in module.parameters()]
    known = sum(p.numel() for p in parameters if not components.is_lazy(p))
    frozen = sum(p.numel() for p in parameters if not p.requires_grad and not components.is_lazy(p))
    size = f"{known:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")
    epochs = f"epochs {first} to {trainer._num_epochs}" if first <= trainer._num_epochs else "no epoch to train"
    state.console.line(f"{type(trainer).__name__}: {size} on {trainer.device}, {epochs}")
    if trainer.run_dir is not None:
        state.console.line(f"files in {trainer.run_dir}")
    stepping.bind(trainer)
    state.determinism = compute.make_deterministic() if trainer._deterministic else None
    state.running, state.epoch_started = "train", perf_counter()


def _resume(trainer: ConvnetTrainer, resume_from: Any) -> None:
    """Find the checkpoint to go on from, and the folder: its own, unless that run has come further since."""
    state = trainer._run_state
    found = distributed.from_main(lambda: resume.find(trainer, resume_from))
    if found is None:
        return
    saved, path = found
    saved = shards.filled(trainer, saved, path)
    resume.take_over(trainer, saved, path)
    folder = path.parent.parent

    def newest() -> bool:
        there = resume.checkpoints(folder) if path.parent.name == "checkpoints" else []
        whole_run = resume_from is True or Path(resume_from).expanduser().is_dir()
        return bool(there) and (whole_run or there[0].samefile(path))

    if trainer._logdir is not None and distributed.from_main(newest):
        state.run = rundir.RunDir.at(folder, type(trainer))
        trainer.run_dir = folder
        distributed.from_main(partial(_put_in_order, trainer, state.run, saved, path))
    state.saved_step = state.step
    if saved["run"]["epoch"] is None and first_epoch(trainer) > trainer._num_epochs:
        state.console.line(f"already at epoch {saved['epoch']} of {trainer._num_epochs}: nothing is left to train")
    elif saved["run"]["finished"] and resume_from is True and saved["run"]["num_epochs"] >= trainer._num_epochs:
        state.stop = True
        state.console.line(
            f"stop_train() ended this run in epoch {saved['epoch']}; train(resume={str(path)!r}) goes on nevertheless"
        )


def _put_in_order(trainer: ConvnetTrainer, run: rundir.RunDir, saved: dict[str, Any], path: Path) -> None:
    """Take out of the folder of a run that goes on what is half written, or later than its checkpoint."""
    state = trainer._run_state
    try:
        run.hold()
        for swept in (path.parent, run.path):
            checkpoint.sweep(swept)
        if path.name == resume.BEST:  # killed before it had its second name, or that file is damaged
            checkpoint.link_durably(path, run.last)
            resume.write_index(run.path, saved, [run.last, path])
        shards.sweep(path.parent)
        run.rewind(state.history, state.step, state.best[3] if state.best is not None else None)
        csv.rewind(run.path, max((entry["epoch"] for entry in state.history), default=0), state.step)
    except OSError as error:
        run.release()
        raise ConfigError(
            f"the run folder {run.path} cannot be written: {error.strerror or error}. Go on from a copy of it, by "
            "train(resume=path)."
        ) from error


def _bring_along(trainer: ConvnetTrainer, run: rundir.RunDir) -> None:
    """Give a run that goes on in a new folder its epochs, and its best one; without the file, it has no best one."""
    state = trainer._run_state
    assert state.resumed is not None
    path = Path(state.resumed["file"])
    if state.best is not None:
        best = list(state.best)
        found = distributed.from_main(lambda: resume.find_best(best, [path, path.with_name(resume.BEST)]))
        if found is None:
            state.console.line(
                f"  the file of epoch {best[3]}, the best so far, is not there: the next one is the best"
            )
            state.best = None
        else:
            distributed.from_main(partial(checkpoint.link_durably, found, run.best))
    distributed.from_main(partial(run.rewind, state.history, state.step, state.best[3] if state.best else None))
    if "shards" not in state.resumed:
        # Killed before its first save, the run goes on with this one, not with the best.
        distributed.from_main(partial(checkpoint.link_durably, path, run.last))


def first_epoch(trainer: ConvnetTrainer) -> int:
    """Return the number of the epoch that comes next."""
    done = trainer._run_state.done
    return trainer._start_epoch if done is None else max(done + 1, trainer._start_epoch)


def last_epoch(trainer: ConvnetTrainer) -> int:
    """Return the number of the last epoch, of the stage where there are stages."""
    end = trainer._run_state.stage_end
    return trainer._num_epochs if end is None else end


def stage_by_stage(trainer: ConvnetTrainer) -> Iterator[None]:
    """Yield once per stage that is left, once in a run without stages."""
    state = trainer._run_state
    if (
        trainer._evaluate_first
        and state.done is None
        and state.resumed is None
        and evaluation_is_due(trainer, first=True)
    ):
        trainer.evaluate_epoch()
        if state.run is not None:
            state.run.append({"epoch": trainer._start_epoch - 1, "valid": trainer.epoch_metrics.get("valid", {})})
        loggers.record_epoch(
            trainer, {"epoch": trainer._start_epoch - 1, "valid": trainer.epoch_metrics.get("valid", {})}
        )
        state.console.metrics("before the first step", trainer.epoch_metrics.get("valid", {}))
    resume.note_objects(trainer)
    if trainer._stages is None:
        resume.restore(trainer)
        yield
        return
    if state.stop or first_epoch(trainer) > trainer._num_epochs:
        resume.restore(trainer, weights_only=True)
    end = trainer._start_epoch - 1
    for stage in trainer._stages:
        end += stage.num_epochs
        # A stage that was resumed at its end has still to run its on_stage_end.
        goes_on = state.resumed is not None and state.resumed["run"]["stage"] == stage.name
        if state.stop or state.leave or (first_epoch(trainer) > end and not goes_on):
            continue
        state.stage, state.stage_end = stage, end
        state.before_stage = {f"_{name}": getattr(trainer, f"_{name}") for name in stage.settings}
        vars(trainer).update({f"_{name}": value for name, value in stage.settings.items()})
        if not goes_on:
            state.best = None  # another loss, maybe another metric
        state.console.line(f"\nstage {stage.name}: epochs {first_epoch(trainer)} to {end}")
        trainer.on_stage_start()
        loop.fire(trainer, "on_stage_start")
        resume.restore(trainer)
        yield
        trainer.on_stage_end()
        loop.fire(trainer, "on_stage_end")
        _leave_stage(trainer)


def _leave_stage(trainer: ConvnetTrainer) -> None:
    state = trainer._run_state
    vars(trainer).update(state.before_stage)
    state.stage, state.stage_end, state.before_stage = None, None, {}


def start_epoch(trainer: ConvnetTrainer) -> None:
    """Begin to count an epoch."""
    state = trainer._run_state
    state.epoch_started = perf_counter()
    state.left_early = False
    state.scheduler_marks = [_position(scheduler) for scheduler in _schedulers(trainer)]
    state.trained, state.loaded = True, None
    state.phase, state.batches, state.start, state.trained_step = "train", 0, None, 0
    resumed = state.resumed["run"]["epoch"] if state.resumed is not None else None
    state.epoch_step = state.step - (resumed["batches"] if resumed is not None else 0)
    state.epoch_rng = get_state(*resume.loaders(trainer))
    trainer.epoch_metrics = {}
    own_step = state.done is None and not checks.is_default(trainer, "training_step")
    state.weights_version = _weights_version(trainer) if own_step else None


def training_ends(trainer: ConvnetTrainer) -> bool:
    """Return whether the hooks at the end of the training batches are due; check the loss before."""
    if trainer._run_state.resumed is not None:
        return False
    nonfinite.check_loss(trainer)
    _check_learning(trainer)
    return True


def _check_learning(trainer: ConvnetTrainer) -> None:
    """Warn of a step of the subclass's own that does nothing that can be seen, in the first epoch."""
    state = trainer._run_state
    seen = trainer.epoch_metrics.get("train") or vars(trainer).get("loss") is not None or not state.batches
    if not seen and state.weights_version is not None and _weights_version(trainer) == state.weights_version:
        gathers = any(p.grad is not None for p in components.attribute_parameters(trainer).values())
        if not gathers and not any(getattr(part, "state", None) for part in components.each(trainer.optimizer)):
            warnings.warn(
                f"{type(trainer).__name__}.training_step has set no self.loss and changed no weights in epoch "
                f"{trainer._epoch}. What it returns is not used: call self.loss_backward() and self.optimizer_step() "
                "in it, or override compute_loss.",
                stacklevel=5,
            )


def _weights_version(trainer: ConvnetTrainer) -> int:
    """Return a number that changes when a weight is written to."""
    parameters = components.attribute_parameters(trainer).values()
    return sum(p._version for p in parameters if not p.is_inference())


def evaluation_is_due(trainer: ConvnetTrainer, first: bool = False) -> bool:
    """Return whether this epoch is evaluated."""
    state = trainer._run_state
    if not trainer._has_eval or state.leave or (trainer._epoch % trainer._eval_interval and not first):
        return False
    if trainer.valid_loader is None and trainer.valid_epoch_iter is None:
        if checks.is_default(trainer, "evaluate_epoch", "on_evaluate_epoch_start"):
            state.console.once(loop.NO_VALID_LOADER)
            return False
    return True


def record_epoch(trainer: ConvnetTrainer) -> None:
    """Add this epoch to the history, before on_epoch_end, which may still add to its dicts."""
    state = trainer._run_state
    state.history.append(
        {
            "epoch": trainer._epoch,
            "train": trainer.epoch_metrics.get("train", {}),
            "valid": trainer.epoch_metrics.get("valid", {}),
            "lr": components.learning_rates(trainer.optimizer),
            "seconds": perf_counter() - state.epoch_started,
        }
    )


def finish_epoch(trainer: ConvnetTrainer) -> None:
    """After on_epoch_end, once per epoch: find the best epoch, save, print and write the epoch's line."""
    state = trainer._run_state
    if state.done == trainer._epoch:
        return
    meeting.agree(trainer)
    if not state.history or state.history[-1]["epoch"] != trainer._epoch:
        record_epoch(trainer)  # a subclass with a train_epoch of its own
    state.done = trainer._epoch
    if state.phase is None:  # a subclass with a train_epoch of its own
        state.trained, state.loaded = True, None
    state.epoch_started = perf_counter()
    state.phase, state.means, state.objects = None, None, None
    entry = state.history[-1]
    for part in ("train", "valid"):
        entry[part].update(plain_metrics(entry[part]))  # what hooks and callbacks added
    _step_schedulers(trainer, entry)
    best = not state.left_early and _is_best(trainer, entry)
    last = trainer._epoch >= trainer._num_epochs or state.stop or state.leave
    if state.run is None and (last or "loss" not in entry["train"]):
        nonfinite.weights_are_finite(trainer)  # neither a save nor a loss of the next epoch would tell
    if state.run is not None:
        if best or last or state.asked or trainer._epoch % trainer._save_epoch == 0:
            # The best first: of a process that is killed between the two names, it is the newest to go on from.
            saving.write(trainer, [state.run.best, state.run.last] if best else [state.run.last])
            saving.plan(trainer)
        state.run.append({**entry, "best": best})
        if not last:
            pictures.draw_epoch(trainer)
    loggers.record_epoch(trainer, entry)
    state.console.epoch(entry, trainer._num_epochs, best)
    state.asked = [name for name in state.asked if name in ("SIGINT", "SIGTERM")]
    signals.obey(state)


def _schedulers(trainer: ConvnetTrainer) -> list[Any]:
    return [s for s in components.each(trainer.scheduler) if callable(getattr(s, "step", None))]


def _position(scheduler: Any) -> int:
    return getattr(scheduler, "last_epoch", 0)


def _step_schedulers(trainer: ConvnetTrainer, entry: dict[str, Any]) -> None:
    """Step the schedulers that move per epoch, unless the subclass steps them itself."""
    if trainer._scheduler_step != "epoch" or trainer.scheduler is None or checks.steps_schedulers(trainer):
        return
    for scheduler, mark in zip(_schedulers(trainer), trainer._run_state.scheduler_marks, strict=False):
        if _position(scheduler) != mark:
            continue
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            name, _, value = monitored(trainer, entry)
            if value is not None:
                scheduler.step(value)
            elif trainer._monitor is None and trainer._eval_interval == 1:
                raise ConfigError(f"ReduceLROnPlateau needs a metric, and there is no {name!r}; set self._monitor.")
        else:
            scheduler.step()


def monitored(trainer: ConvnetTrainer, entry: dict[str, Any]) -> tuple[str, str, float | None]:
    """Return name, part and value of the monitored metric in an epoch, None where it was not evaluated.

    Raises
    ------
    ConfigError
        If there is no such metric, or it is no number.
    """
    name = trainer._monitor or "loss"
    part = "valid" if name in entry["valid"] else "train"
    value = entry[part].get(name)
    if isinstance(value, (int, float)):
        return name, part, value
    there = list(dict.fromkeys([*entry["train"], *entry["valid"]]))
    waits = evaluation_is_due(trainer, first=True) and not evaluation_is_due(trainer)
    if trainer._monitor is not None and not waits:
        if value is not None:
            raise ConfigError(f"_monitor is {name!r}, which is {value!r}; only one number can be monitored.")
        raise ConfigError(
            f"_monitor is {name!r}, but no such metric was recorded in epoch {trainer._epoch}."
            f"{closest(name, there)} There are: {', '.join(there) or 'none'}."
        )
    return name, part, None


def _is_best(trainer: ConvnetTrainer, entry: dict[str, Any]) -> bool:
    state = trainer._run_state
    name, part, value = monitored(trainer, entry)
    if value is None or value != value or (state.best is not None and state.best[0] == "valid" and part == "train"):
        return False
    if state.best is None or state.best[0] != part or improves(name, value, state.best[2], trainer._monitor_mode):
        state.best = (part, name, value, trainer._epoch)
        return True
    return False


def end_run(trainer: ConvnetTrainer, error: BaseException | None = None) -> None:
    """Run every on_train_end and close, also when one raises; the first error wins."""
    state = trainer._run_state
    signals.take(state)
    lost: BaseException | None = workers.loss(trainer, error)
    ended = signals.ending(state)
    if lost is not None and ended is not None:
        error, lost = ended, ended  # a signal to all processes of the run: the workers end at once
    if error is not None:
        distributed.failed(error)
        whereabouts.note(trainer, error)
    state.exception = error
    state.running, state.stop, state.leave = None, False, False
    steps: list[Callable[[], Any]] = [trainer.on_train_end, state.pictures.join]
    steps += [partial(listener, trainer) for listener in state.listeners.get("on_train_end", ())]
    if error is not None:
        steps[:0] = [
            *(partial(listener, trainer) for listener in state.listeners.get("on_exception", ())),
            partial(saving.save_what_is_left, trainer, error),  # callbacks have given the model its own weights
        ]
    steps.append(state.writer.close)
    steps.append(partial(_close_run, trainer) if error is None else partial(_report_failure, trainer, error))
    first = error
    closes = [callback.close for callback in components.each(trainer.callbacks, list, tuple)]
    for step in [*steps, partial(loggers.finish, trainer, error), *closes]:
        try:
            step()
        except BaseException as further:  # a second interrupt ends one step of the cleaning up, not all of it
            if first is None:
                first = further
            else:
                print("another error, after the one that ends the run:", file=sys.stderr)
                traceback.print_exception(further)
    stepping.forget(trainer)
    if state.run is not None:
        state.run.release()
    if state.determinism is not None:
        compute.restore_determinism(state.determinism)
        state.determinism = None
    _leave_stage(trainer)  # not before: an exception belongs to its stage
    state.exception = None  # its traceback holds what the failed step worked on
    state.phase, state.means, state.objects, state.resumed, state.saves = None, None, None, None, []
    if error is None and first is not None:
        raise first
    if lost is not None:
        raise lost from (None if lost is error else error)
    if error is None:
        meeting.agree(trainer)
        signals.obey(state)


def _close_run(trainer: ConvnetTrainer) -> None:
    """Write the weights and the curves, print where everything is."""
    state = trainer._run_state
    if trainer._load_best and state.run is not None and distributed.from_main(state.run.best.is_file):
        load(trainer, state.run.best)
    if state.run is not None and state.history:
        if not state.saved and components.modules_of(trainer) and nonfinite.weights_are_finite(trainer):
            checkpoint.save(shards.whole_state(components.model_state(components.model_of(trainer))), state.run.weights)
        pictures.draw_run(trainer)
    closing = []
    if state.best is not None:
        part, name, value, epoch = state.best
        closing.append(f"best (*) {part} {name} {number(value)} in epoch {epoch}")
    elif trainer._num_epochs < trainer._start_epoch:
        closing.append("no epoch was asked for, no step was taken")
    closing.append(seconds(sum(entry["seconds"] for entry in state.history)))
    state.console.line("\n" + ", ".join(closing))
    if trainer.run_dir is not None:
        state.console.line(f"files in {trainer.run_dir}")


def _report_failure(trainer: ConvnetTrainer, error: BaseException) -> None:
    """Write down what has ended the run, draw what was recorded until then, and write the report."""
    state = trainer._run_state
    if state.run is None or signals.stops_at_once(state, error):
        return
    text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR].rstrip(": ")
    with contextlib.suppress(CheckpointError):  # no room, which may be what has ended the run
        state.run.append({"step": state.step, "error": text})
    pictures.draw_run(trainer)


def weights_to_test(trainer: ConvnetTrainer) -> Path | None:
    """Return the file that load_model() loads without a path, None for the weights in memory."""
    state = trainer._run_state
    if state.loaded is not None:
        return None
    if state.running == "test" and state.phase is not None:  # test() in a hook of an epoch: training goes on with these
        return None
    if state.run is not None and state.run.best.is_file():
        return state.run.best
    if state.trained:
        return None
    if trainer._model_path is not None:
        if not isinstance(trainer._model_path, (str, Path)):
            raise ConfigError(
                f"{type(trainer).__name__}: _model_path is {trainer._model_path!r}; expected the path of a file of "
                "weights, or None."
            )
        return Path(trainer._model_path)
    return rundir.newest_weights(trainer._logdir, type(trainer)) if trainer._logdir is not None else None


def load(trainer: ConvnetTrainer, path: str | Path | None) -> None:
    """Do what `ConvnetTrainer.load_model` says."""
    state = trainer._run_state
    chosen_by_user = path is not None
    path = Path(path) if path is not None else distributed.from_main(lambda: weights_to_test(trainer))
    if path is None:
        state.weights = state.loaded or "those in memory" + ("" if state.trained else ", as built: no run was found")
        return
    found = distributed.from_main(partial(_read, path))
    if "format" in found:
        found = shards.filled(trainer, {**found, "run": None}, path)
    try:
        components.load_model_state(components.model_of(trainer), checkpoint.weights_of(found), str(path))
    except CheckpointError as error:
        then = found.get("class") if "format" in found else None
        written = f"\nWritten by {then}, read by {type(trainer).__name__}." if then else ""
        raise CheckpointError(f"{error}{written}") from None
    averages = found.get("averages", {}) if "format" in found else {}
    for name, callback in resume.averaging(trainer).items():
        if name in averages:
            callback.load_model_state(trainer, averages[name])
    epoch = f", epoch {found['epoch']}" if "format" in found else ""
    state.weights = f"{path}{epoch}"
    if chosen_by_user:
        state.loaded = state.weights


def _read(path: Path) -> dict[str, Any]:
    found = checkpoint.read(path / "model.pth" if path.is_dir() else path)
    shards.check_folder(found, path)
    return found


def open_test(trainer: ConvnetTrainer) -> None:
    """Check that there is something to test on."""
    state = trainer._run_state
    if state.running is None:
        state.listeners = events.listeners(trainer.callbacks)
    state.weights = ""
    state.console.verbose, state.console.use_tqdm = trainer._verbose, trainer._use_tqdm
    if trainer.test_loader is None and trainer.test_loop_iter is None:
        if checks.is_default(trainer, "on_test_start", "test_loop"):
            raise HookError(
                f"{type(trainer).__name__} has no test loader. Write def get_testloader(self): "
                "self.test_loader = DataLoader(dataset, batch_size=32)."
            )
    checks.check_one_loader(trainer, "test")


def close_test(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Print and write the result of a test, and return it."""
    state = trainer._run_state
    metrics = plain_metrics(trainer.epoch_metrics.pop("test", {}))
    state.console.line()
    state.console.metrics("test", metrics)
    if state.weights:
        state.console.line(f"weights: {state.weights}")
    if state.run is not None:
        state.run.append({"test": metrics, "weights": state.weights})
        pictures.write_report(trainer)
    loggers.record_epoch(trainer, {"epoch": trainer._epoch, "test": metrics})
    return metrics
