"""Around an epoch: its beginning, its place in the history, its save and its line on the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import components
from ..checks import hooks
from ..components import dtensor, inventory
from ..data.loaders import NOTHING
from ..duck_typing import attribute
from ..errors import ConfigError
from ..loggers import run as loggers
from ..metrics.values import plain_metrics
from ..optim import nonfinite, schedules
from ..resume import attributes, capture, inside, optimizers, saving
from ..rng import get_state
from ..rundir.folder import epoch_line
from ..state import rank_requests, signals
from ..state.run_state import is_last_epoch, last_epoch
from . import drawing
from .best import note_best
from .monitor import evaluation_is_due, of_settings
from .schedulers import follows_metric, step_schedulers

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def start_epoch(trainer: ConvnetTrainer) -> None:
    """Begin to count an epoch."""
    state = trainer._run_state
    state.progress.began = state.progress.layouts = None
    if state.watched[0]:  # or nothing differs before and after the hooks that begin the epoch
        held = inventory.take(trainer)
        state.progress.began, state.progress.layouts = inside.changed(trainer, held), optimizers.layouts(trainer, held)
    state.schedules.begin_epoch(trainer)
    nonfinite.note_buffers(trainer)
    state.progress.begin_epoch(get_state(*attributes.loaders(trainer)), state.resumption.batches)
    state.trained, state.loaded = True, None
    trainer.epoch_metrics = {}
    own_step = state.progress.last_epoch_done is None and not hooks.is_default(trainer, "training_step")
    state.weights_before = _weights(trainer) if own_step else None


def training_ends(trainer: ConvnetTrainer) -> bool:
    """Return whether the hooks at the end of the training batches are due; check the loss before."""
    if not trainer._run_state.resumption.ended:
        return False
    nonfinite.check_loss(trainer)
    _check_learning(trainer)
    return True


def begin_evaluation(trainer: ConvnetTrainer) -> None:
    """Note that the training of an epoch is complete, for a save while it is evaluated."""
    state = trainer._run_state
    state.resumption.ready(trainer)
    if state.folder is not None or state.watched[2]:
        capture.note_evaluation(trainer)
    state.progress.phase = "evaluate"
    state.progress.trained_evaluations = len(state.progress.evaluations)
    state.progress.evaluation_rng = get_state(*attributes.loaders(trainer))
    saving.after_training(trainer)


def _check_learning(trainer: ConvnetTrainer) -> None:
    """Warn of a step of the subclass's own that changes no weights, in the first epoch."""
    state = trainer._run_state
    before, state.weights_before = state.weights_before, None
    if before is None or not state.progress.batches or state.skipped or _weights(trainer) != before:
        return
    held = inventory.take(trainer)
    # Steps may have come to nothing: of a rate of 0, of gradients that overflow in fp16.
    if any(attribute(part.value, "state") for part in held.optimizers) or (state.stepping and state.stepping.overflows):
        return
    name = f"{type(trainer).__name__}.training_step"
    if any(p.grad is not None for p in held.named_parameters().values()):
        # A step that gathers over a whole epoch has no optimizer that could be forgotten.
        if held.optimizers:
            warnings.warn(
                f"{name} has gathered gradients and changed no weights in epoch {trainer._epoch}. Call "
                "self.optimizer_step() in it.",
                stacklevel=5,
            )
    elif not (trainer.epoch_metrics.get("train") or vars(trainer).get("loss") is not None):
        warnings.warn(
            f"{name} has set no self.loss and changed no weights in epoch {trainer._epoch}. What it returns is not "
            "used: call self.loss_backward() and self.optimizer_step() in it, or override compute_loss.",
            stacklevel=5,
        )
    elif held.optimizers:
        warnings.warn(
            f"{name} has changed no weights in epoch {trainer._epoch}. Call self.loss_backward() and "
            "self.optimizer_step() in it.",
            stacklevel=5,
        )


def _weights(trainer: ConvnetTrainer) -> tuple[int, tuple[float, ...]]:
    """Return what changes when a weight is written to, also past its count of writes, as by ``parameter.data``."""
    parameters = [p for p in inventory.take(trainer).named_parameters().values() if not p.is_inference()]
    sums = tuple(dtensor.local(p.detach()).sum(dtype=torch.float64).item() for p in parameters)
    return sum(p._version for p in parameters), sums


def add_to_history(trainer: ConvnetTrainer) -> None:
    """Add this epoch to the history, before on_epoch_end, which may still add to its dicts."""
    state = trainer._run_state
    entry = {
        "epoch": trainer._epoch,
        "train": trainer.epoch_metrics.get("train", {}),
        "valid": trainer.epoch_metrics.get("valid", {}),
        "lr": components.learning_rates(trainer.optimizer),
        "seconds": perf_counter() - state.progress.epoch_started,
    }
    state.history.append(entry)
    if state.progress.evaluations:
        _add_evaluations(trainer, entry, state.progress.evaluations)


def _add_evaluations(trainer: ConvnetTrainer, entry: dict[str, Any], records: list[dict[str, Any]]) -> None:
    entry["batches"] = trainer._run_state.progress.batches
    entry["evaluations"] = [*entry.get("evaluations", ()), *records]


def note_evaluation(trainer: ConvnetTrainer, metrics: Mapping[str, Any], of_other_loader: bool = False) -> None:
    """Record an evaluation in a hook of a run, at the step after which it was made; the epoch's own is in the epoch.

    Parameters
    ----------
    trainer : ConvnetTrainer
    metrics : mapping
    of_other_loader : bool
        They are those of `evaluate_loader`, with names of their own.
    """
    state, progress = trainer._run_state, trainer._run_state.progress
    if state.running != "train" or state.requests.exit_asked or (state.of_other_loader and not of_other_loader):
        return
    within = state.item is not NOTHING or bool(state.evaluating)
    if not of_other_loader and not within and (state.own_evaluation or _stands_for_own(trainer)):
        progress.own_metrics = tuple(metrics)
        return
    done = progress.batches + (state.loader == "train" and progress.trained_step == progress.step)
    record = {"epoch": trainer._epoch, "step": progress.step, "batch": done, "valid": plain_metrics(metrics)}
    if progress.phase != "train" and state.history and state.history[-1]["epoch"] == trainer._epoch:
        _add_evaluations(trainer, state.history[-1], [record])
    else:
        progress.evaluations.append(record)
    state.unsettled.append((record, _evaluated_version(trainer)))
    loggers.log_evaluation(trainer, record)
    if state.loader == "train" and state.item is not NOTHING:  # its line is written after the batch
        state.settle = partial(settle_evaluations, trainer)
        state.requests.asked.append("evaluated")


def _stands_for_own(trainer: ConvnetTrainer) -> bool:
    """Return whether an evaluation in a hook after the training batches is the only one of the epoch.

    So is that of a subclass with epochs of its own.
    """
    progress = trainer._run_state.progress
    if not hooks.is_default(trainer, "train_loop", "train_epoch"):
        return True
    ended = progress.phase == "train" and progress.batches > 0 and trainer._run_state.loader is None
    return ended and not evaluation_is_due(trainer)


def _evaluated_version(trainer: ConvnetTrainer) -> int:
    """Return a number that changes when a weight, or an average of the weights, is written to."""
    averages = [attribute(callback, "_averages") for callback in components.each(trainer.callbacks, list, tuple)]
    found = [average for held in averages if isinstance(held, dict) for average in held.values()]
    tensors = [*inventory.take(trainer).named_parameters().values(), *(t for t in found if isinstance(t, Tensor))]
    return sum(tensor._version for tensor in tensors if not tensor.is_inference())


def settle_evaluations(trainer: ConvnetTrainer, can_be_best: bool = True) -> bool:
    """Write the lines of evaluations within an epoch; return whether one of them is the best, which is to be saved.

    Not before the batch is complete: only then its weights can be saved; and they must be those that were evaluated.
    After an error none `can_be_best`.
    """
    state = trainer._run_state
    waiting, state.unsettled, state.settle = state.unsettled, [], None
    if not waiting:
        return False
    monitor, version, found = of_settings(trainer), _evaluated_version(trainer), False
    monitor.settle(trainer)
    for record, evaluated in waiting:
        value = record["valid"].get(monitor.metric) if monitor.part != "train" else None
        can_be = can_be_best and evaluated == version and isinstance(value, (int, float)) and monitor.higher is not None
        best = can_be and note_best(trainer, monitor, "valid", value, record["step"])
        found = found or best
        if state.folder is not None:
            state.folder.append({**record, "best": best})
    return found


def finish_epoch(trainer: ConvnetTrainer) -> None:
    """After on_epoch_end, once per epoch: find the best epoch, save, print and write the epoch's line."""
    state = trainer._run_state
    if state.progress.last_epoch_done == trainer._epoch:
        return
    rank_requests.agree(trainer)
    if not state.history or state.history[-1]["epoch"] != trainer._epoch:
        add_to_history(trainer)  # a subclass with a train_epoch of its own
    state.progress.last_epoch_done = trainer._epoch
    if state.progress.phase is None:  # a subclass with a train_epoch of its own
        state.trained, state.loaded = True, None
    state.progress.epoch_started = perf_counter()
    state.progress.phase, state.progress.evaluation_records = None, None
    state.means, state.metric_objects = None, None
    entry = state.history[-1]
    for part in ("train", "valid"):
        entry[part].update(plain_metrics(entry[part]))  # what hooks and callbacks added
    monitor, problem = of_settings(trainer), None
    try:
        part, value = monitor.part_of(trainer, entry), monitor.read(trainer, entry)
        monitor.check_direction()
    except ConfigError as error:  # told when the epoch is saved
        part, value, problem = "valid", None, error
    step_schedulers(trainer, value)
    problem = problem and _to_tell(trainer, problem)
    within = settle_evaluations(trainer)
    best = not _is_of_earlier_step(trainer, entry, monitor.metric, part) and note_best(trainer, monitor, part, value)
    last = is_last_epoch(trainer) or problem is not None
    if state.folder is None and (last or "loss" not in entry["train"]):
        nonfinite.weights_are_finite(trainer)  # neither a save nor a loss of the next epoch would tell
    if state.folder is not None:
        # The last one of a stage too: what comes between two stages may rebuild all that is saved.
        saving.after_epoch(trainer, best or within, last or trainer._epoch >= last_epoch(trainer))
        state.folder.append({**epoch_line(entry), "best": best})
        if not last:
            drawing.draw_epoch(trainer)
    state.progress.evaluations = []
    loggers.log_epoch(trainer, entry)
    state.console.epoch(entry, trainer._num_epochs, best)
    state.note_lost_output()
    if problem is not None:
        raise problem
    state.requests.asked = [name for name in state.requests.asked if name in ("SIGINT", "SIGTERM")]
    signals.obey(state.requests)


def _is_of_earlier_step(trainer: ConvnetTrainer, entry: dict[str, Any], metric: str, part: str) -> bool:
    """Return whether the epoch has the value of an evaluation within it, after which the weights have moved."""
    progress = trainer._run_state.progress
    steps = [record["step"] for record in entry.get("evaluations", ()) if metric in record["valid"]]
    return part == "valid" and metric not in progress.own_metrics and bool(steps) and max(steps) < progress.step


def _to_tell(trainer: ConvnetTrainer, problem: ConfigError) -> ConfigError | None:
    """Return what is wrong with the monitored metric, where anything asked for it: a loss may be missing."""
    if trainer._monitor is not None:
        return problem
    own = trainer._run_state.schedules.steppers(trainer)
    plateaus = [where for where, scheduler in schedules.named(trainer) if follows_metric(scheduler)]
    if trainer._scheduler_step == "epoch" and any(own.get(where) != schedules.HAND for where in plateaus):
        return ConfigError("ReduceLROnPlateau needs a metric, and there is no 'loss'; set self._monitor.")
    return None
