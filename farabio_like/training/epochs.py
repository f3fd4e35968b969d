"""Around an epoch: its beginning, its place in the history, its save and its line on the terminal."""

from __future__ import annotations

import warnings
from time import perf_counter
from typing import TYPE_CHECKING

from .. import components
from ..checks import hooks
from ..components import inventory
from ..duck_typing import attribute
from ..loggers import run as loggers
from ..metrics.values import plain_metrics
from ..optim import nonfinite
from ..resume import attributes, capture, inside, optimizers, saving
from ..rng import get_state
from ..state import rank_requests, signals
from ..state.run_state import is_last_epoch, last_epoch
from . import drawing
from .best import note_best
from .schedulers import position_of, schedulers_of, step_schedulers

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def start_epoch(trainer: ConvnetTrainer) -> None:
    """Begin to count an epoch."""
    state = trainer._run_state
    state.progress.began = state.progress.layouts = None
    if state.watched[0]:  # or nothing differs before and after the hooks that begin the epoch
        held = inventory.take(trainer)
        state.progress.began, state.progress.layouts = inside.changed(trainer, held), optimizers.layouts(trainer, held)
    state.progress.begin_epoch(
        [position_of(scheduler) for scheduler in schedulers_of(trainer)],
        get_state(*attributes.loaders(trainer)),
        state.resumption.batches,
    )
    state.trained, state.loaded = True, None
    trainer.epoch_metrics = {}
    own_step = state.progress.last_epoch_done is None and not hooks.is_default(trainer, "training_step")
    state.weights_version = _weights_version(trainer) if own_step else None


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
    state.progress.evaluation_rng = get_state(*attributes.loaders(trainer))
    saving.after_training(trainer)


def _check_learning(trainer: ConvnetTrainer) -> None:
    """Warn of a step of the subclass's own that does nothing that can be seen, in the first epoch."""
    state = trainer._run_state
    seen = trainer.epoch_metrics.get("train") or vars(trainer).get("loss") is not None or not state.progress.batches
    if not seen and state.weights_version is not None and _weights_version(trainer) == state.weights_version:
        gathers = any(p.grad is not None for p in inventory.take(trainer).named_parameters().values())
        if not gathers and not any(attribute(part, "state") for part in components.each(trainer.optimizer)):
            warnings.warn(
                f"{type(trainer).__name__}.training_step has set no self.loss and changed no weights in epoch "
                f"{trainer._epoch}. What it returns is not used: call self.loss_backward() and self.optimizer_step() "
                "in it, or override compute_loss.",
                stacklevel=5,
            )


def _weights_version(trainer: ConvnetTrainer) -> int:
    """Return a number that changes when a weight is written to."""
    parameters = inventory.take(trainer).named_parameters().values()
    return sum(p._version for p in parameters if not p.is_inference())


def add_to_history(trainer: ConvnetTrainer) -> None:
    """Add this epoch to the history, before on_epoch_end, which may still add to its dicts."""
    state = trainer._run_state
    state.history.append(
        {
            "epoch": trainer._epoch,
            "train": trainer.epoch_metrics.get("train", {}),
            "valid": trainer.epoch_metrics.get("valid", {}),
            "lr": components.learning_rates(trainer.optimizer),
            "seconds": perf_counter() - state.progress.epoch_started,
        }
    )


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
    step_schedulers(trainer, entry)
    best = not state.progress.left_early and note_best(trainer, entry)
    last = is_last_epoch(trainer)
    if state.folder is None and (last or "loss" not in entry["train"]):
        nonfinite.weights_are_finite(trainer)  # neither a save nor a loss of the next epoch would tell
    if state.folder is not None:
        # The last one of a stage too: what comes between two stages may rebuild all that is saved.
        saving.after_epoch(trainer, best, last or trainer._epoch >= last_epoch(trainer))
        state.folder.append({**entry, "best": best})
        if not last:
            drawing.draw_epoch(trainer)
    loggers.log_epoch(trainer, entry)
    state.console.epoch(entry, trainer._num_epochs, best)
    state.requests.asked = [name for name in state.requests.asked if name in ("SIGINT", "SIGTERM")]
    signals.obey(state.requests)
