"""The batch under way: its parts lent to a trainer and returned, and a single batch outside any loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from .. import data
from ..data.loaders import NOTHING
from ..errors import MissingPartError
from ..optim import steps as optim_steps

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def step_result(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what `train_step` and `val_step` return."""
    outputs = trainer.outputs.detach() if isinstance(trainer.outputs, torch.Tensor) else trainer.outputs
    loss = trainer.loss.item() if isinstance(trainer.loss, torch.Tensor) else trainer.loss
    prediction = None if outputs is None else trainer.prediction_transform(outputs)  # of a batch that was skipped
    return {"prediction": prediction, "target": trainer.targets, "loss": loss}


BATCH_PARTS = ("batch", "inputs", "targets")
BATCH_ATTRIBUTES = ("loss", "outputs", "batch_metrics", *BATCH_PARTS)


def forget_parts(trainer: ConvnetTrainer) -> None:
    """Forget the last batch, also what hooks took of it; a subclass's own values of such names stay."""
    state, own = trainer._run_state, vars(trainer)
    for name in BATCH_PARTS:
        if name not in state.networks and own.get(name, NOTHING) is not state.given.get(name):
            own.pop(name, None)
    state.lent = ()


def return_batch(trainer: ConvnetTrainer) -> None:
    """Forget what the base set for the last item, so that nothing stale is read."""
    state = trainer._run_state
    for name in state.lent:
        vars(trainer).pop(name, None)
    state.lent = ()


def lend(trainer: ConvnetTrainer, name: str) -> Any:
    """Set the parts of the batch that no hook has set for the item under way, and return one of them.

    Raises
    ------
    MissingPartError
        If the batch has no such part.
    """
    state, own = trainer._run_state, vars(trainer)
    batch = own["batch"] if "batch" in state.lent else trainer.to_device(data.batch_of(state.item))
    found = {"batch": batch, **data.inputs_and_targets(batch)}
    if name not in found:
        raise MissingPartError(
            f"{type(trainer).__name__}: self.{name} cannot be taken from the batch, {data.describe_batch(batch)}; "
            "expected a pair, or the keys 'inputs' and 'targets'. Set it in on_start_training_batch(self, item) "
            "(on_evaluate_batch_start, test_step), or override compute_loss to use self.batch."
        )
    missing = {key: value for key, value in found.items() if key not in own}
    own.update(missing)
    state.lent += tuple(missing)
    return own[name]


@contextlib.contextmanager
def single_batch(trainer: ConvnetTrainer, batch: Any) -> Iterator[None]:
    """Make `batch` the item under way, outside any loop; within a run, its own batch is as it was afterwards."""
    state = trainer._run_state
    outer, counter = state.item, state.counter
    inside = outer is not NOTHING or state.running is not None
    with outer_batch_kept(trainer) if inside else contextlib.nullcontext():
        forget_parts(trainer)
        trainer.outputs = trainer.loss = None
        trainer.batch_metrics = {}
        state.item, state.counter = (0, batch), None
        optim_steps.bind(trainer)
        try:
            yield
        finally:
            state.item, state.counter, trainer._next_loop = outer, counter, False


@contextlib.contextmanager
def outer_batch_kept(trainer: ConvnetTrainer) -> Iterator[None]:
    """Begin with nothing measured, and afterwards give back the batch under way and what was measured of it."""
    state, own = trainer._run_state, vars(trainer)
    held = (*BATCH_ATTRIBUTES, "loader_metrics", "_next_loop")
    under_way = {name: own[name] for name in held if name in own}
    item, lent, skip = state.item, state.lent, state.skip
    initial_loss, to_read = state.initial_loss, state.to_read
    left_early, stop_loader = state.progress.left_early, state.requests.stop_loader
    trainer.batch_metrics, trainer._next_loop = {}, False
    try:
        yield
    finally:
        for name in held:
            own.pop(name, None)
        own.update(under_way)
        state.item, state.lent, state.skip = item, lent, skip
        state.initial_loss, state.to_read = initial_loss, to_read
        state.progress.left_early, state.requests.stop_loader = left_early, stop_loader
