"""Evaluation: eval mode without gradients, averaged weights, any loader."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from .. import components
from ..callbacks.dispatch import fire
from ..data.loaders import NOTHING
from ..duck_typing import has_methods
from ..rng import preserved_rng
from . import error_notes
from .batch import BATCH_ATTRIBUTES

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


@contextlib.contextmanager
def evaluation(trainer: ConvnetTrainer) -> Iterator[None]:
    """Eval mode without gradients; afterwards every sub-module has the flag that it had.

    Inside a training batch, the batch under way is given back too.
    """
    state, own = trainer._run_state, vars(trainer)
    modules = components.modules_to_evaluate(trainer)
    flags = [(part, part.training) for module in modules for part in module.modules()]
    item, lent, skip, counter = state.item, state.lent, state.skip, state.counter
    held = BATCH_ATTRIBUTES if item is not NOTHING else ()
    under_way = {name: own[name] for name in held if name in own}
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    except BaseException as error:
        if state.running != "train":  # there, the end of the run tells the callbacks
            error_notes.add_note(trainer, error)
            state.exception = error
            fire(trainer, "on_exception")
            state.exception = None
        raise
    finally:
        for part, flag in flags:
            part.training = flag
        state.counter = counter
        if item is not NOTHING:
            for name in held:
                own.pop(name, None)
            own.update(under_way)
            state.item, state.lent, state.skip = item, lent, skip


def evaluate_loader(trainer: ConvnetTrainer, loader: Any) -> dict[str, Any]:
    """Do what `ConvnetTrainer.evaluate_loader` says."""
    state, own = trainer._run_state, vars(trainer)
    held = (*BATCH_ATTRIBUTES, "loader_metrics", "valid_loader", "valid_epoch_iter", "epoch_metrics")
    kept = {name: own[name] for name in held if name in own}
    under_way = state.lent, state.skip, state.of_other_loader
    left_early, stop_loader = state.progress.left_early, state.requests.stop_loader
    state.of_other_loader = True
    trainer.valid_loader, trainer.epoch_metrics, trainer.batch_metrics = loader, {}, {}
    try:
        with preserved_rng(loader):
            trainer.evaluate_epoch()
        return trainer.epoch_metrics.get("valid", {})
    finally:
        for name in held:
            own.pop(name, None)
        own.update(kept)
        state.lent, state.skip, state.of_other_loader = under_way
        state.progress.left_early, state.requests.stop_loader = left_early, stop_loader


@contextlib.contextmanager
def averaged_weights(trainer: ConvnetTrainer) -> Iterator[None]:
    """Let the model hold the averages of a callback, as an evaluation does, unless a batch is under way.

    There the step may have begun with the weights, and its backward pass needs them unchanged.
    """
    with contextlib.ExitStack() as stack:
        if trainer._run_state.item is NOTHING:
            for callback in components.each(trainer.callbacks, list, tuple):
                if has_methods(callback, "applied"):
                    stack.enter_context(callback.applied(trainer))
        yield
