"""`Resumption`: how a trainer is given the state of a checkpoint, step by step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .. import components, rng
from ..callbacks import dispatch
from ..checkpoint import objects as user_objects
from ..components import dtensor, inventory
from ..config.secrets import is_masked, restored
from ..data.resumable import ResumePoint
from ..distributed import fsdp
from ..duck_typing import has_state
from ..errors import CheckpointError
from ..metrics.direction import Best
from ..optim import state as step_state
from . import horizon, inside, layers, optimizers
from .attributes import averaging, class_name, components_of, is_restorable, loaders
from .contents import check_alike, using
from .data import samples_to_pass_over

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


@dataclass(slots=True)
class Resumption:
    """What was read from a checkpoint and is not yet restored; nothing, in a run that begins anew.

    NOTE: its steps are taken in the order of the methods, and each has its place in the run:

    1. `counters` before any hook, for hooks read them.
    2. `parts` after the hooks that build the run and its stage; sooner, what they build would stay as built.
       A run that was saved between two epochs is restored then.
    3. `enter_epoch` before the hook that starts the epoch, which may wrap the items; later, the wrapper would begin
       with the first batch.
    4. `trained_already` or `remaining` after that hook, see `_parts_again`.
    5. `ready` after the batches that were trained before are passed over, since that draws random numbers; sooner,
       the batches that are left would get others than in a run that was not stopped.

    Attributes
    ----------
    saved : dict
        The checkpoint, as this rank needs it; empty once all of it is restored, so that its tensors are let go.
    file : str
        Where it was read.
    start : ResumePoint or None
        Where the items of the epoch under way go on.
    """

    saved: dict[str, Any] = field(default_factory=dict, repr=False)
    file: str = ""
    start: ResumePoint | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing is left to restore."""
        return not self.saved

    @property
    def position(self) -> dict[str, Any] | None:
        """Where in an epoch the run goes on, None between two epochs, and once it has gone on."""
        return None if self.ended else self.saved["run"]["epoch"]

    @property
    def batches(self) -> int:
        """How many batches of the epoch that begins were trained before."""
        return 0 if self.position is None else self.position["batches"]

    def is_of_stage(self, name: str) -> bool:
        """Return whether the run goes on in this stage."""
        return not self.ended and self.saved["run"]["stage"] == name

    def end(self) -> None:
        """Let go of the checkpoint: all of it is restored, or nothing more is to be."""
        self.saved = {}

    # ---------------------------------------------------------------- the steps

    def counters(self, trainer: ConvnetTrainer) -> None:
        """Take over how far the run had come, its history and its best epoch, before any hook."""
        state, run = trainer._run_state, self.saved["run"]
        state.progress.step, state.progress.last_epoch_done = self.saved["step"], run["done"]
        state.best = Best(*run["best"]) if run["best"] is not None else None
        state.history[:] = copy.deepcopy(run["history"])
        trainer._epoch = self.saved["epoch"]

    def parts(self, trainer: ConvnetTrainer, weights_only: bool = False) -> None:
        """Give all parts their state, once they have been built for the stage that it belongs to."""
        if self.ended:
            return
        state, run = trainer._run_state, self.saved["run"]
        _load_parts(trainer, self.saved, self.file, weights_only, self.position)
        if not weights_only:
            # In the middle of an epoch its hook comes first, which may give an optimizer the parameters of the window.
            before_hook: dict[str, Any] = {"windows": {}} if self.batches else {}
            with using(self.file, "run/stepping"):
                step_state.load_state_dict(trainer, {**run["stepping"], **before_hook})
                step_state.load_waiting(trainer, run["stepping"])
        state.trained, state.loaded = True, None
        _load_records(trainer, run, self.file)
        position = self.position
        # Before the hook that starts the epoch what it found when it was called, after it what is now.
        found = None if position is None else position.get("began")
        found = run.get("inside", {}) if found is None else found
        with using(self.file, "run/inside"):
            inside.give_back(trainer, found, "model", "data")
        with using(self.file, "run/unchanged"):
            _note_another(trainer, run.get("unchanged", {}))
        if not weights_only and state.stage is None:
            horizon.say_ends(trainer, run["num_epochs"], horizon.steps_of_epoch(trainer))
        with using(self.file, "run/rng"):
            rng.set_state(run["rng"] if position is None else position["rng"], *loaders(trainer))
        if position is None:
            self.end()

    def enter_epoch(self, trainer: ConvnetTrainer, items: Any) -> None:
        """Tell the prepared items of an epoch where to go on, before the hook that may wrap them."""
        self.start = None
        position = self.position
        if position is None:
            return
        state = trainer._run_state
        state.progress.take_position(position)
        state.schedules.load_positions(trainer, position["schedulers"])
        if position["phase"] == "train" and position["batches"]:
            ready, loader = partial(self.ready, trainer), position["loader"]
            if is_masked(loader) and has_state(trainer.train_loader):
                loader = restored(loader, trainer.train_loader.state_dict())
            done = samples_to_pass_over(trainer, position)
            self.start = ResumePoint(position["batches"], ready, loader, state.console.once, done)
            if done is not None:
                self.start.passed = done // trainer.train_loader.batch_sampler.batch_size
            if hasattr(items, "start"):
                items.start = self.start

    def trained_already(self, trainer: ConvnetTrainer) -> bool:
        """Return whether the epoch had come to its evaluation; its training metrics are given back then."""
        state, position = trainer._run_state, self.position
        if position is None or position["phase"] != "evaluate":
            return False
        self._parts_again(trainer)
        inside.give_back(trainer, self.saved["run"].get("inside", {}), "data")
        state.requests.take_ends(position["asked"])
        trainer.epoch_metrics = copy.deepcopy(position["metrics"])
        self._evaluations_again(trainer)
        trainer.loader_metrics = trainer.epoch_metrics.get("train", {})
        state.progress.batches = position["batches"]
        return True

    def remaining(self, trainer: ConvnetTrainer, items: Any) -> Iterator[Any]:
        """Return the items of the epoch that were not trained before; the metrics of those that were come back."""
        state, position = trainer._run_state, self.position
        assert position is not None and state.means is not None and state.metric_objects is not None
        start, self.start = self.start, None
        self._parts_again(trainer)
        with using(self.file, "run/stepping"):
            step_state.load_state_dict(trainer, self.saved["run"]["stepping"], within_pass=True)
            step_state.load_waiting(trainer, self.saved["run"]["stepping"])
        trainer.epoch_metrics = copy.deepcopy(position["metrics"])
        self._evaluations_again(trainer)
        with using(self.file, "run/epoch/means"):
            state.means.load_state_dict(position["means"])
        with using(self.file, "run/epoch/objects"):
            state.metric_objects.load_state_dict(position["objects"])
            for name, record in position["objects"].get("records", {}).items():
                metric = state.metric_objects.metrics.get(name)
                if user_objects.fits(metric, record):
                    user_objects.restore(metric, record, trainer.device)
        state.progress.batches = position["batches"]
        if any(position["asked"].values()):
            # No further batch: it was saved between stop_train(), say, and the end of the epoch.
            state.requests.take_ends(position["asked"])
            self.ready(trainer)
            return iter(())
        if start is None:  # stopped before the first batch of the epoch
            inside.give_back(trainer, self.saved["run"].get("inside", {}), "data")
            self.end()
            return iter(items)
        return self._after(trainer, items, start)

    def ready(self, trainer: ConvnetTrainer) -> None:
        """Give the random numbers their state, once: all is restored then."""
        if not self.ended:
            # Data sets not before: what is read again and dropped finds them as it did.
            with using(self.file, "run/inside"):
                inside.give_back(trainer, self.saved["run"].get("inside", {}), "data")
            with using(self.file, "run/rng"):
                rng.set_state(self.saved["run"]["rng"], *loaders(trainer))
            self.end()

    # ---------------------------------------------------------------- inside

    def _parts_again(self, trainer: ConvnetTrainer) -> None:
        """Give the parts their state after the hook that starts the epoch.

        NOTE: this load and the one of `parts` are both needed. The run had called the hook when it began the epoch,
        and has trained since; the hook of the resumed run begins records anew, sets a learning rate or counts once
        more, so what was saved is given back after it. It is given before, too, since the hook may read it, and may
        hand weights on: to a teacher, say, that is a copy of the model.
        """
        _load_parts(trainer, self.saved, self.file)
        _load_records(trainer, self.saved["run"], self.file)
        with using(self.file, "run/inside"):
            inside.give_back(trainer, self.saved["run"].get("inside", {}), "model")

    def _evaluations_again(self, trainer: ConvnetTrainer) -> None:
        """Give back the evaluations within the epoch; what the hook that starts it has evaluated is among them."""
        state = trainer._run_state
        assert self.position is not None
        state.progress.take_evaluations(self.position)
        state.unsettled, state.settle = [], None

    def _after(self, trainer: ConvnetTrainer, items: Any, start: ResumePoint) -> Iterator[Any]:
        iterator = iter(items)
        first = next(iterator, None)
        if start.taken:
            if first is not None:
                yield first
        else:  # items of the subclass's own
            start.say(f"{start.batches} items are read again and dropped, to go on where the run stopped")
            for _ in islice(iterator, start.batches - 1):
                pass
        self.ready(trainer)
        yield from iterator


# ---------------------------------------------------------------- loading


def _load_parts(
    trainer: ConvnetTrainer,
    saved: dict[str, Any],
    file: str,
    weights_only: bool = False,
    before_hook: dict[str, Any] | None = None,
) -> None:
    """Give model, components and averages their state.

    Parameters
    ----------
    trainer : ConvnetTrainer
    saved : dict
    file : str
        Where it was read, for messages.
    weights_only : bool
    before_hook : dict, optional
        The position in an epoch whose first hook has still to be called again.
    """
    where = f"{file}, written by {saved['class']} and read by {type(trainer).__qualname__},"
    model, state = components.model_of(trainer), saved["model"]
    for name, module in model.items() if isinstance(model, Mapping) else [(None, model)]:
        _fit_buffers(module, state if name is None else state.get(str(name), {}))
    try:
        components.load_model_state(model, state, where)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nWhere a hook changes the network in the course of a run, change it in on_train_start too, where "
            "self.epoch says how far the run has come."
        ) from None
    if not weights_only:
        _load_components(trainer, saved["run"], file, before_hook)
    for name, callback in averaging(trainer).items():
        if name in saved["averages"]:
            with using(file, f"averages/{name}"):
                callback.load_model_state(trainer, saved["averages"][name])


def _load_components(
    trainer: ConvnetTrainer, run: dict[str, Any], file: str, before_hook: dict[str, Any] | None
) -> None:
    saved = run["components"]
    rebuilding = optimizers.Rebuilding(trainer, run, file, (before_hook or {}).get("layouts"))
    rebuilding.rebuild()
    saved = {name: entry for name, entry in saved.items() if name not in rebuilding.skipped}
    there = components_of(trainer, inventory.take(trainer), saved) if saved else {}
    there = {name: part for name, part in there.items() if name not in rebuilding.skipped}
    fresh, gone = [n for n in there if n not in saved], [n for n in saved if n not in there]
    if fresh or gone:
        trainer._run_state.console.once(
            f"  not in the checkpoint, as built: {', '.join(fresh) or 'nothing'}; "
            f"in the checkpoint only, left out: {', '.join(gone) or 'nothing'}"
        )
    for name, part in there.items():
        if name in saved:
            then, values = saved[name]["class"], saved[name]["state"]
            if then != class_name(part):
                raise CheckpointError(
                    f"{file}: self.{name} was a {then} when it was written, now it is a {class_name(part)}. "
                    "Build the same, or load the weights alone: load_model(path)."
                )
            if name in rebuilding.cut:
                values = optimizers.of_the_first_groups(values, rebuilding.cut[name])
            with using(file, f"run/components/{name}"):
                _load_component(name, part, values, file, saved[name].get("shapes", ()))


def _fit_buffers(module: nn.Module | None, state: Any) -> None:
    if module is not None and not fsdp.is_module(module):
        layers.fit_buffers(components.unwrap(module), state)


def _load_component(name: str, part: Any, values: Any, file: str, shapes: Sequence[list[int] | None]) -> None:
    if isinstance(part, nn.Module):
        _fit_buffers(part, values)
        components.load_model_state(part, values, f"{file}, for self.{name},")
        return
    # A copy: an optimizer takes the tensors that it is given, and changes them.
    values = copy.deepcopy(values)
    if not isinstance(part, torch.optim.Optimizer) and is_masked(values):
        values = restored(values, part.state_dict())
    if isinstance(part, torch.optim.Optimizer):
        parameters = components.parameters_of(part)
        # Not those of its state: an optimizer may keep one number per row, or one vector of all parameters.
        for index, (then, parameter) in enumerate(zip(shapes, parameters, strict=False)):
            if then is not None and then != list(parameter.shape):
                raise CheckpointError(
                    f"{file}: of self.{name}, parameter {index} had the shape {tuple(then)}, now it has "
                    f"{tuple(parameter.shape)}. Give it the same parameters in the same order."
                )
        for index, entry in values["state"].items():
            if index < len(parameters):
                entry.update({key: dtensor.like(value, parameters[index]) for key, value in entry.items()})
    try:
        if isinstance(part, (LRScheduler, ReduceLROnPlateau)):
            check_alike(values, part.state_dict(), "it", counted=True)
        groups = [dict(group) for group in part.param_groups] if isinstance(part, torch.optim.Optimizer) else []
        part.load_state_dict(values)
        if isinstance(part, torch.optim.Optimizer):
            step_state.check_optimizer(part, groups)
            # Or its scheduler warns, where it moves before the next step.
            part._opt_called = True  # type: ignore[attr-defined]
    except Exception as error:  # an optimizer looks at nothing before it takes it
        raise CheckpointError(f"{file}: self.{name} cannot take its state: {error}") from error


def _note_another(trainer: ConvnetTrainer, unchanged: Mapping[str, Any]) -> None:
    """Say which networks that no checkpoint holds, since they never change, are others than they were."""
    now = trainer._run_state.modules_before
    others = [
        f"self.{w}" for w, then in unchanged.items() if w in now and not user_objects.is_same_content(now[w], then)
    ]
    if others:
        trainer._run_state.console.once(
            f"  other weights than before in {', '.join(others)}, which no checkpoint holds since the run does not "
            "change it: build it from a file, or with self._seed"
        )


def _load_records(trainer: ConvnetTrainer, run: dict[str, Any], file: str) -> None:
    """Give callbacks and the subclass's own attributes what they had."""
    waiting = list(run["callbacks"])
    for callback in components.each(trainer.callbacks, list, tuple):
        found = next((entry for entry in waiting if entry[0] == type(callback).__name__), None)
        if found is not None:
            waiting.remove(found)
            if found[1]:
                values = copy.deepcopy(found[1])
                with using(file, f"run/callbacks/{found[0]}"):
                    if type(dispatch.innermost(callback)).__module__.startswith("farabio_like."):
                        check_alike(values, callback.state_dict(), found[0])
                    callback.load_state_dict(restored(values, callback.state_dict()) if is_masked(values) else values)
    there = vars(trainer)
    for name in (*run["attributes"], *run["objects"]):
        if not is_restorable(trainer, name):
            raise CheckpointError(f"{file}: its field run/attributes or run/objects has {name!r}, which no run stores.")
    for name, value in copy.deepcopy(run["attributes"]).items():
        if name in there or not is_masked(value):
            there[name] = restored(value, there.get(name))
    _say_secrets(trainer, run)
    for name, found in run["objects"].items():
        value = vars(trainer).get(name)
        with using(file, f"run/objects/{name}"):
            fits = user_objects.fits(value, found)
            if fits:
                setattr(trainer, name, user_objects.restore(value, found, trainer.device))
        if not fits:
            trainer._run_state.console.once(
                f"self.{name} stays as the constructor has built it: it cannot take what the checkpoint has for it"
            )


def _say_secrets(trainer: ConvnetTrainer, run: dict[str, Any]) -> None:
    """Say which parts have secrets, which no file holds."""
    own = {**run["attributes"], **run["objects"]}
    parts = [f"self.{name}" for name, state in {**own, **run["components"]}.items() if is_masked(state)]
    parts += [f"the callback {name}" for name, state in run["callbacks"] if is_masked(state)]
    inside = {**run.get("inside", {}).get("model", {}), **run.get("inside", {}).get("data", {})}
    parts += [f"self.{name}" for name, state in inside.items() if is_masked(state)]
    if parts:
        trainer._run_state.console.once(
            f"  secrets are in no checkpoint: those of {', '.join(parts)} are taken from this process"
        )
