"""Giving a trainer the state of a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import components, distributed, rng
from ..callbacks import dispatch
from ..callbacks.metric import MetricCallback
from ..checkpoint import objects as user_objects
from ..components import dtensor, inventory
from ..distributed import fsdp
from ..errors import CheckpointError
from ..metrics.running import merged_means
from ..optim import state as step_state
from ..rundir.index import CRASH
from .attributes import averaging, class_name, components_of, loaders
from .capture import made_with

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def _own_part(trainer: ConvnetTrainer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint as this rank needs it: with its own random numbers, gradients and measurements.

    Where there were fewer ranks, the further ones begin with nothing measured in the epoch. Where there were more,
    their means are added to those of the others, and what their metric objects and metric callbacks had measured of
    the epoch under way is left out, which is said. What other callbacks know is the same on all ranks.
    """
    run = saved["run"]
    parts = run.get("ranks") or [{**(run["epoch"] or {}), "rng": run["rng"]}]
    parts = [{"stepping": run["stepping"], **part} for part in parts]  # older files have it once
    ranks, rank = distributed.world_size(), distributed.rank()
    if rank < len(parts):
        own, *others = parts[rank::ranks]
        if others:
            own = {**own, "means": merged_means([part.get("means", {}) for part in (own, *others)])}
    else:
        there = parts[0].get("callbacks", run["callbacks"])
        callbacks = [entry for entry in there if entry[0] not in _measuring(trainer)]
        own = {"rng": None, "means": {}, "objects": {}, "callbacks": callbacks}
    if len(parts) != ranks or "shards" in saved or fsdp.are_in(trainer):
        # Gradients in shards are those of all ranks already; modules in shards need them on every rank.
        states = [run["stepping"]] if "shards" in saved else [part["stepping"] for part in parts]
        own = {**own, "stepping": step_state.merged(states, empty=rank > 0 and not fsdp.are_in(trainer))}
    epoch = run["epoch"]
    if epoch is not None:
        epoch = {**epoch, "means": own.get("means", {}), "objects": own.get("objects", {})}
        if rank:
            epoch["rng"] = own["rng"]  # the order of the samples is drawn by the first rank alone
    callbacks = own.get("callbacks", run["callbacks"])
    taken = {"rng": own["rng"], "epoch": epoch, "callbacks": callbacks, "stepping": own["stepping"]}
    return {**saved, "run": {**run, **taken}}


def _measuring(trainer: ConvnetTrainer) -> set[str]:
    """Return the names of the callbacks that measure batches."""
    return {
        type(callback).__name__
        for callback in components.each(trainer.callbacks, list, tuple)
        if isinstance(dispatch.innermost(callback), MetricCallback)
    }


def _unmeasured(trainer: ConvnetTrainer, run: dict[str, Any]) -> list[str]:
    """Return the names of what leaves out of an epoch what further processes had trained of it."""
    further = run.get("ranks", [])[distributed.world_size() :]
    if not further or run["epoch"] is None or run["epoch"]["phase"] != "train" or not run["epoch"]["batches"]:
        return []
    objects = {name for part in further for kind in ("metrics", "records") for name in part["objects"].get(kind, {})}
    return sorted(objects | _measuring(trainer))


# ---------------------------------------------------------------- going on


def take_over(trainer: ConvnetTrainer, saved: dict[str, Any], path: Path) -> None:
    """Take over the counters and the history of a run, before any hook; `restore` does the rest."""
    state, run = trainer._run_state, saved["run"]
    if saved["class"] != type(trainer).__qualname__:
        state.console.line(f"resuming a {saved['class']} as a {type(trainer).__qualname__}")
    state.resumed = saved = {**_own_part(trainer, saved), "file": str(path)}
    run = saved["run"]
    state.progress.step, state.progress.last_epoch_done = saved["step"], run["done"]
    state.best = tuple(run["best"]) if run["best"] is not None else None
    state.history[:] = copy.deepcopy(run["history"])
    trainer._epoch = saved["epoch"]
    position = run["epoch"]
    where = f"the end of epoch {saved['epoch']}"
    if position is not None:
        phase = f"batch {position['batches']}" if position["phase"] == "train" else "the training batches"
        where = f"{phase} of epoch {saved['epoch']}"
    state.console.line(f"resuming from {path}: after {where}, step {state.progress.step}")
    if path.name == CRASH and position is not None:
        several = run["made_with"].get("number of processes", 1) > 1
        rest = ", and it has metrics and gathered gradients of the first process alone" if several else ""
        state.console.line(f"  written after an error: its random numbers may not be those of a run without it{rest}")
    unmeasured = _unmeasured(trainer, run)
    if unmeasured:
        state.console.line(
            f"  there were more processes: {', '.join(unmeasured)} of epoch {saved['epoch']} leave out what those had "
            "trained"
        )
    now = made_with(trainer)
    differences = [
        f"{name} was {run['made_with'][name]}, is {now[name]}"
        for name in now
        if name in run["made_with"] and run["made_with"][name] != now[name]
    ]
    if differences:
        state.console.line("  different now (an optimizer keeps what it had): " + "; ".join(differences))


def restore(trainer: ConvnetTrainer, weights_only: bool = False) -> None:
    """Give all parts the state of the checkpoint, once they have been built for the stage that it belongs to."""
    state = trainer._run_state
    saved = state.resumed
    if saved is None:
        return
    run = saved["run"]
    load_parts(trainer, saved, weights_only)
    if not weights_only:
        step_state.load_state_dict(trainer, run["stepping"])
        step_state.load_waiting(trainer, run["stepping"])
    state.trained, state.loaded = True, None
    load_records(trainer, run)
    _note_another(trainer, run.get("unchanged", {}))
    position = run["epoch"]
    rng.set_state(run["rng"] if position is None else position["rng"], *loaders(trainer))
    if position is None:
        state.resumed = None


def load_parts(trainer: ConvnetTrainer, saved: dict[str, Any], weights_only: bool = False) -> None:
    """Give model, components and averages their state."""
    where = f"{saved['file']}, written by {saved['class']} and read by {type(trainer).__qualname__},"
    components.load_model_state(components.model_of(trainer), saved["model"], where)
    _load_components(trainer, {} if weights_only else saved["run"]["components"], saved["file"])
    for name, callback in averaging(trainer).items():
        if name in saved["averages"]:
            callback.load_model_state(trainer, saved["averages"][name])


def _load_components(trainer: ConvnetTrainer, saved: dict[str, Any], file: str) -> None:
    there = components_of(trainer, inventory.take(trainer), saved) if saved else {}
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
            _load_component(name, part, values, file, saved[name].get("shapes", ()))


def _load_component(name: str, part: Any, values: Any, file: str, shapes: Sequence[list[int] | None]) -> None:
    if isinstance(part, nn.Module):
        components.load_model_state(part, values, f"{file}, for self.{name},")
        return
    # A copy: an optimizer takes the tensors that it is given, and changes them.
    values = copy.deepcopy(values)
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
        part.load_state_dict(values)
        if isinstance(part, torch.optim.Optimizer):
            # Or its scheduler warns, where it moves before the next step.
            part._opt_called = True  # type: ignore[attr-defined]
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
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


def load_records(trainer: ConvnetTrainer, run: dict[str, Any]) -> None:
    """Give callbacks and the subclass's own attributes what they had."""
    waiting = list(run["callbacks"])
    for callback in components.each(trainer.callbacks, list, tuple):
        found = next((entry for entry in waiting if entry[0] == type(callback).__name__), None)
        if found is not None:
            waiting.remove(found)
            if found[1]:
                callback.load_state_dict(copy.deepcopy(found[1]))
    vars(trainer).update(copy.deepcopy(run["attributes"]))
    for name, found in run["objects"].items():
        value = vars(trainer).get(name)
        if user_objects.fits(value, found):
            setattr(trainer, name, user_objects.restore(value, found, trainer.device))
        else:
            trainer._run_state.console.once(
                f"self.{name} stays as the constructor has built it: it cannot take what the checkpoint has for it"
            )
