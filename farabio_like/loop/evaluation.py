"""Evaluation: eval mode without gradients, averaged weights, any loader; what is nested leaves what is around it.

What around it a nested evaluation gives back of callbacks and of a subclass's own records is in `kept`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from .. import components
from ..callbacks.dispatch import fire, innermost
from ..data.loaders import NOTHING
from ..duck_typing import has_methods
from ..metrics.objects import contents_kept, metrics_in
from ..rng import preserved_rng
from . import error_notes
from .batch import outer_batch_kept
from .kept import running_values_kept

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


@contextlib.contextmanager
def evaluation(trainer: ConvnetTrainer, inside: bool | None = None) -> Iterator[None]:
    """Eval mode without gradients; afterwards every sub-module has the flag that it had.

    Parameters
    ----------
    trainer : ConvnetTrainer
    inside : bool, optional
        Whether a pass or a hook of one is around it, whose batch, metrics and counters are given back: by default that
        of a run, or a batch under way.
    """
    state = trainer._run_state
    modules = components.modules_to_evaluate(trainer)
    flags = [(part, part.training) for module in modules for part in module.modules()]
    counter = state.counter
    inside = is_inside(trainer) if inside is None else inside
    try:
        with outer_batch_kept(trainer) if inside else contextlib.nullcontext():
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
        if inside and torch.is_autocast_enabled(trainer.device.type):
            # Weights that were cast without gradients must not be those of the step around it.
            torch.clear_autocast_cache()


def is_inside(trainer: ConvnetTrainer) -> bool:
    """Return whether a batch, a run or an evaluation is under way."""
    state = trainer._run_state
    return state.item is not NOTHING or state.running is not None or bool(state.evaluating)


@contextlib.contextmanager
def of_epoch(trainer: ConvnetTrainer) -> Iterator[None]:
    """Make what is evaluated the run's own evaluation, around which nothing is to be kept."""
    state = trainer._run_state
    state.own_evaluation = True
    try:
        with evaluation(trainer, inside=False):  # for a subclass with an evaluate_epoch of its own
            yield
    finally:
        state.own_evaluation = False


@contextlib.contextmanager
def measuring(trainer: ConvnetTrainer, name: str, inside: bool | None = None) -> Iterator[None]:
    """Be the context of a pass over the valid or the test loader, with its hooks.

    Inside another pass, or any hook of a run, everything of that is as it was afterwards: the batch and its metrics,
    metric objects, counters; inside a pass of the same kind also its means, and what callbacks and hooks have gathered.

    Parameters
    ----------
    trainer : ConvnetTrainer
    name : "valid" or "test"
    inside : bool, optional
        As for `evaluation`; by default the run's own evaluation is not.
    """
    state = trainer._run_state
    around = [metrics for kind, metrics in state.evaluating if kind == name]
    if inside is None:
        own = state.own_evaluation and not state.evaluating and state.item is NOTHING
        inside = is_inside(trainer) and not own
    with contextlib.ExitStack() as stack:
        if inside:
            stack.enter_context(contents_kept(metrics_in(trainer.metrics)))
        if around:
            stack.enter_context(running_values_kept(trainer))
            if any(metrics is trainer.epoch_metrics for metrics in around):
                stack.enter_context(_means_kept(trainer, name))
        stack.enter_context(evaluation(trainer, inside))
        state.evaluating.append((name, trainer.epoch_metrics))
        try:
            yield
        except BaseException:
            _give_weights_back(trainer)
            raise
        finally:
            state.evaluating.pop()


def metric_objects_kept(trainer: ConvnetTrainer) -> contextlib.AbstractContextManager[None]:
    """Return the context that leaves metric objects as they are; outside of a run, they are those of the last pass."""
    return contents_kept(metrics_in(trainer.metrics) if is_inside(trainer) else {})


@contextlib.contextmanager
def _means_kept(trainer: ConvnetTrainer, name: str) -> Iterator[None]:
    """Give the pass around it its items and its means back."""
    items = "valid_epoch_iter" if name == "valid" else "test_loop_iter"
    before, metrics, means = getattr(trainer, items), trainer.epoch_metrics, trainer.epoch_metrics.get(name)
    try:
        yield
    finally:
        setattr(trainer, items, before)
        if means is None:
            metrics.pop(name, None)
        else:
            metrics[name] = means


def _give_weights_back(trainer: ConvnetTrainer) -> None:
    """Let averages leave the model: whoever catches the error goes on with the weights."""
    for callback in components.each(trainer.callbacks, list, tuple):
        if has_methods(callback, "applied"):
            innermost(callback).on_evaluate_epoch_end(trainer)


def evaluate_loader(trainer: ConvnetTrainer, loader: Any) -> dict[str, Any]:
    """Do what `ConvnetTrainer.evaluate_loader` says."""
    state, own = trainer._run_state, vars(trainer)
    held = ("loader_metrics", "valid_loader", "valid_epoch_iter", "epoch_metrics")
    kept = {name: own[name] for name in held if name in own}
    of_other_loader, state.of_other_loader = state.of_other_loader, True
    trainer.valid_loader, trainer.epoch_metrics = loader, {}
    try:
        with outer_batch_kept(trainer), preserved_rng(loader):
            trainer.evaluate_epoch()
        return trainer.epoch_metrics.get("valid", {})
    finally:
        for name in held:
            own.pop(name, None)
        own.update(kept)
        state.of_other_loader = of_other_loader


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


def weights_to_save(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the plain weights for a file of weights alone: averages in their place, where a callback says so."""
    instead: dict[int, torch.Tensor] = {}
    for callback in components.each(trainer.callbacks, list, tuple):
        if has_methods(callback, "weights_to_save"):
            instead |= callback.weights_to_save(trainer)
    return components.model_state(components.model_of(trainer), instead)
