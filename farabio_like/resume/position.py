"""Where in an epoch a resumed run goes on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import checkpoint, components, rng
from ..checkpoint import objects as user_objects
from ..data import resumable
from ..optim import state as step_state
from .attributes import attributes, averages_weights, loaders
from .capture import callback_states
from .restore import load_parts, load_records

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def enter_epoch(trainer: ConvnetTrainer, items: Any) -> None:
    """Tell the prepared items of an epoch that is resumed where to go on, before the hook that may wrap them."""
    state = trainer._run_state
    position = state.resumed["run"]["epoch"] if state.resumed is not None else None
    if position is None:
        return
    state.progress.load_state_dict(position)
    if position["phase"] == "train" and position["batches"]:
        start = resumable.ResumePoint(
            position["batches"], lambda: ready(trainer), position["loader"], trainer._run_state.console.once
        )
        state.start = start
        if hasattr(items, "start"):
            items.start = start


def ready(trainer: ConvnetTrainer) -> None:
    """Give the random numbers the state of the checkpoint, once."""
    state = trainer._run_state
    if state.resumed is not None:
        rng.set_state(state.resumed["run"]["rng"], *loaders(trainer))
        state.resumed = None


def go_on(trainer: ConvnetTrainer, items: Any) -> Iterator[Any]:
    """Return the items of an epoch that were not trained before; the metrics of those that were come back."""
    state = trainer._run_state
    assert state.resumed is not None and state.means is not None and state.metric_objects is not None
    run, start = state.resumed["run"], state.start
    # Again: the hook that starts an epoch begins new records, sets the learning rate, and has done so before.
    load_parts(trainer, state.resumed)
    load_records(trainer, run)
    step_state.load_waiting(trainer, run["stepping"])
    state.means.load_state_dict(run["epoch"]["means"])
    state.metric_objects.load_state_dict(run["epoch"]["objects"])
    for name, record in run["epoch"]["objects"].get("records", {}).items():
        metric = state.metric_objects.metrics.get(name)
        if user_objects.fits(metric, record):
            user_objects.restore(metric, record, trainer.device)
    state.progress.batches = run["epoch"]["batches"]
    state.start = None
    asked = run["epoch"]["asked"]
    if any(asked.values()):  # no further batch: it was saved between stop_train(), say, and the end of the epoch
        state.requests.load_state_dict(asked)
        ready(trainer)
        return iter(())
    if start is None:  # stopped before the first batch of the epoch
        state.resumed = None
        return iter(items)
    return _after(trainer, items, start)


def _after(trainer: ConvnetTrainer, items: Any, start: resumable.ResumePoint) -> Iterator[Any]:
    iterator = iter(items)
    first = next(iterator, None)
    if start.taken:
        if first is not None:
            yield first
    else:  # items of the subclass's own
        start.say(f"{start.batches} items are read again and dropped, to go on where the run stopped")
        for _ in range(start.batches - 1):
            next(iterator, None)
    ready(trainer)
    yield from iterator


def trained_already(trainer: ConvnetTrainer) -> bool:
    """Return whether a resumed epoch had come to its evaluation; its training metrics are given back then."""
    state = trainer._run_state
    position = state.resumed["run"]["epoch"] if state.resumed is not None else None
    if position is None or position["phase"] != "evaluate":
        return False
    assert state.resumed is not None
    load_parts(trainer, state.resumed)
    load_records(trainer, state.resumed["run"])
    state.requests.load_state_dict(position["asked"])
    trainer.epoch_metrics = copy.deepcopy(position["metrics"])
    trainer.loader_metrics = trainer.epoch_metrics.get("train", {})
    state.progress.batches = position["batches"]
    return True


def begin_evaluation(trainer: ConvnetTrainer) -> None:
    """Note that the training of an epoch is complete, for a save while it is evaluated."""
    state = trainer._run_state
    ready(trainer)
    # What evaluation and on_epoch_end change must not be changed again by a run that begins with them anew.
    state.progress.evaluation_records = (_records(trainer), attributes(trainer)) if state.folder is not None else None
    state.progress.phase = "evaluate"
    state.progress.evaluation_rng = rng.get_state(*loaders(trainer))


def _records(trainer: ConvnetTrainer) -> list[list[Any]]:
    """Return copies of the callbacks' states; averages of weights, which are large, do not change in an evaluation."""
    return [
        [name, values if averages_weights(callback) else checkpoint.snapshot(values)]
        for callback, (name, values) in zip(
            components.each(trainer.callbacks, list, tuple), callback_states(trainer), strict=True
        )
    ]
