"""The whole state of a run: what a checkpoint holds, how a run goes on from one, and which one it takes.

These are functions of a trainer, not methods, so that no name of a subclass can meet theirs.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from . import checkpoint, components, distributed, owned, positions, rng, shards, stepping
from .callbacks import base as events
from .callbacks.metric import MetricCallback
from .config import to_dict
from .errors import CheckpointError, ConfigError
from .metrics import merged_means, plain_metrics
from .settings import SETTINGS
from .version import __version__

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer

# Attributes of a trainer that are stored by themselves, or belong to the batch under way.
_NOT_COMPONENTS = {
    *("config", "callbacks", "history", "model", "metrics", "device", "run_dir", "loggers", "_run_state", "_stages"),
    *("train_loader", "valid_loader", "test_loader", "train_epoch_iter", "valid_epoch_iter", "test_loop_iter"),
    *("batch", "inputs", "targets", "outputs", "loss", "batch_metrics", "loader_metrics", "epoch_metrics"),
}
MOST_LOADERS = 100  # in one list or dict of a subclass


# ---------------------------------------------------------------- what a checkpoint holds


def state_of(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return everything that the next step depends on, as tensors and plain data.

    The tensors are those that the run goes on changing: write them, or copy them, before the next step.

    Raises
    ------
    ConfigError
        For a part whose state holds something else, with its name.
    """
    state = trainer._run_state
    entry = state.history[-1] if state.history and state.history[-1]["epoch"] == trainer._epoch else {}
    averages = {name: callback.model_state(trainer) for name, callback in averaging(trainer).items()}
    return {
        "format": checkpoint.FORMAT,
        "class": type(trainer).__qualname__,
        "epoch": trainer._epoch,
        "step": state.epoch_step + state.batches if state.phase is not None else state.step,
        "metrics": {part: plain_metrics(entry.get(part, {})) for part in ("train", "valid")},
        "model": components.model_state(components.model_of(trainer)),
        "averages": {name: average for name, average in averages.items() if average},
        "run": {
            "num_epochs": trainer._num_epochs,
            "finished": state.phase is None and (trainer._epoch >= trainer._num_epochs or state.stop or state.leave),
            "done": state.done,
            "stage": state.stage.name if state.stage is not None else None,
            "best": list(state.best) if state.best is not None else None,
            "history": plain(state.history, "history"),  # all of it: hooks may add to any entry
            "components": {name: _component(part, name) for name, part in _components(trainer).items()},
            "unchanged": _unchanged(trainer),
            "callbacks": _callbacks(trainer),
            "stepping": plain(stepping.state_dict(trainer), "stepping"),
            "attributes": _changed_attributes(trainer),
            "objects": _own_objects(trainer),
            "rng": _rng(trainer),
            "epoch": _epoch_under_way(trainer),
            "made_with": _made_with(trainer),
            "config": storable(to_dict(trainer.config)),
        },
    }


def _component(part: Any, name: str) -> dict[str, Any]:
    found = {"class": _class_name(part), "state": plain(_state_dict(part), name)}
    if isinstance(part, torch.optim.Optimizer):
        parameters = components.parameters_of(part)
        found["shapes"] = [None if components.is_lazy(p) else list(p.shape) for p in parameters]
    return found


def _unchanged(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what the networks that no checkpoint holds were when the run began, see `_note_another`."""
    stored = {id(part) for part in (*components.modules_of(trainer), *_components(trainer).values())}
    before = trainer._run_state.modules_before
    return {where: before[where] for where, part in _parts(trainer) if where in before and id(part) not in stored}


def _epoch_under_way(trainer: ConvnetTrainer) -> dict[str, Any] | None:
    """Return the position in the epoch, None at its end."""
    state = trainer._run_state
    if state.phase is None:
        return None
    loader = trainer.train_loader
    return {
        "phase": state.phase,
        "batches": state.batches,
        "asked": {"stop": state.stop, "leave": state.leave, "stop_loader": state.stop_loader},
        "rng": _packed(state.epoch_rng),
        "seconds": perf_counter() - state.epoch_started,
        "schedulers": list(state.scheduler_marks),
        "metrics": plain(trainer.epoch_metrics, "epoch_metrics"),
        "means": state.means.state_dict() if state.means is not None else {},
        "objects": _measured(trainer),
        "loader": plain(loader.state_dict(), "train_loader") if positions.is_stateful(loader) else None,
    }


def state_of_rank(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what each of several ranks has for itself: random numbers, gradients of an open window, measurements."""
    state = trainer._run_state
    return {
        "rng": _rng(trainer),
        "means": state.means.state_dict() if state.means is not None else {},
        "objects": _measured(trainer),
        "callbacks": _callbacks(trainer),
        "stepping": plain(stepping.state_dict(trainer), "stepping"),
    }


def _measured(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what the metric objects have measured; of those without a ``state_dict`` the fields, as of a record."""
    objects = trainer._run_state.objects
    if objects is None:
        return {}
    found = objects.state_dict()
    others = {name: metric for name, metric in objects.metrics.items() if name not in found["metrics"]}
    records = {name: owned.state_of(metric) for name, metric in others.items()}
    return {**found, "records": {name: record for name, record in records.items() if record is not None}}


def _callbacks(trainer: ConvnetTrainer) -> list[list[Any]]:
    """Return class and state of every callback, in their order: of the beginning of an evaluation, see `_rng`."""
    state = trainer._run_state
    if state.phase == "evaluate" and state.evaluation_records is not None:
        return state.evaluation_records[0]
    return [
        [type(callback).__name__, plain(callback.state_dict(), type(callback).__name__)]
        for callback in components.each(trainer.callbacks, list, tuple)
    ]


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
    if len(parts) != ranks or "shards" in saved or shards.are_in(trainer):
        # Gradients in shards are those of all ranks already; modules in shards need them on every rank.
        states = [run["stepping"]] if "shards" in saved else [part["stepping"] for part in parts]
        own = {**own, "stepping": stepping.merged(states, empty=rank > 0 and not shards.are_in(trainer))}
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
        if isinstance(events.innermost(callback), MetricCallback)
    }


def _unmeasured(trainer: ConvnetTrainer, run: dict[str, Any]) -> list[str]:
    """Return the names of what leaves out of an epoch what further processes had trained of it."""
    further = run.get("ranks", [])[distributed.world_size() :]
    if not further or run["epoch"] is None or run["epoch"]["phase"] != "train" or not run["epoch"]["batches"]:
        return []
    objects = {name for part in further for kind in ("metrics", "records") for name in part["objects"].get(kind, {})}
    return sorted(objects | _measuring(trainer))


def _rng(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the random numbers of now, or of the beginning of an evaluation under way, which begins anew."""
    state = trainer._run_state
    return _packed(state.evaluation_rng if state.phase == "evaluate" else rng.get_state(*loaders(trainer)))


def _packed(state: dict[str, Any]) -> dict[str, Any]:
    # One that came from a checkpoint is packed already.
    return state if isinstance(state["python"], list) else rng.packed(state)


def _class_name(part: Any) -> str:
    inside = components.unwrap(part) if isinstance(part, nn.Module) else part
    return shards.class_of(inside).__qualname__


def _state_dict(part: Any) -> Any:
    return components.plain_state(part) if isinstance(part, nn.Module) else part.state_dict()


def averaging(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the callbacks that average weights, by a name that is the same in the next run."""
    found: dict[str, Any] = {}
    for callback in components.each(trainer.callbacks, list, tuple):
        callback = events.innermost(callback)
        if hasattr(callback, "model_state"):
            name = type(callback).__name__
            found[f"{name}-{len(found) + 1}" if name in found else name] = callback
    return found


def _parts(trainer: ConvnetTrainer) -> Iterator[tuple[str, Any]]:
    """Yield what has a ``state_dict`` among a trainer's attributes, each once, with where it is."""
    first = ("optimizer", "scheduler", "criterion")
    names = [*first, *(name for name in vars(trainer) if name not in first)]
    seen: set[int] = set()
    for name in names:
        value = vars(trainer).get(name)
        if name in _NOT_COMPONENTS or type(value) in owned.PLAIN or isinstance(value, Tensor):
            continue
        parts = {f"{name}[{i}]": part for i, part in enumerate(value)} if isinstance(value, (list, tuple)) else {}
        for where, part in (parts or dict(components.named(value, name))).items():
            if id(part) not in seen and not isinstance(part, type) and owned.has_state(part):
                seen.add(id(part))
                yield where, part


def _components(trainer: ConvnetTrainer, saved: Collection[str] = ()) -> dict[str, Any]:
    """Return what has a state besides the model: optimizers, schedulers, criteria, and such of a subclass's own.

    A module counts where the run may change it: it is a criterion, has trainable parameters that the model does not
    have, or has changed since the first batch (a moving average). So do those that a checkpoint has `saved`.
    """
    known = {id(p) for module in components.modules_of(trainer) for p in module.parameters()}
    return {
        where: part
        for where, part in _parts(trainer)
        if not isinstance(part, nn.Module) or where in saved or _may_change(trainer, where, part, known)
    }


def _may_change(trainer: ConvnetTrainer, where: str, module: nn.Module, known: set[int]) -> bool:
    parameters = list(module.parameters())
    own = [p for p in parameters if id(p) not in known]
    if any(p.requires_grad for p in own) or (where.startswith("criterion") and module.state_dict()):
        return True
    if parameters and not own:  # a part of the model under another name
        return False
    before = trainer._run_state.modules_before
    return where in before and owned.content_of(module) != before[where]


def attributes(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the attributes of a subclass that are numbers, strings, or lists and dicts of them, copied."""
    found = {}
    for name, value in vars(trainer).items():
        if name not in SETTINGS and not _is_ours(trainer, name, value) and owned.is_plain(value):
            found[name] = copy.deepcopy(value)
    return found


def _is_ours(trainer: ConvnetTrainer, name: str, value: Any) -> bool:
    """Return whether an attribute is the base's own, not a record that a subclass keeps under such a name."""
    if name == "history":
        return value is trainer._run_state.history
    if name in ("metrics", "loggers"):
        return not owned.is_plain(value)
    if name == "loss":  # a running sum of numbers
        return not isinstance(value, (int, float))
    return name in _NOT_COMPONENTS


def note_objects(trainer: ConvnetTrainer) -> None:
    """Note what a subclass's own objects are before the first batch of a run: what differs later has a state."""
    state, known = trainer._run_state, _known(trainer)
    state.modules_before = {w: owned.content_of(part) for w, part in _parts(trainer) if isinstance(part, nn.Module)}
    state.objects_before, state.marks_before = {}, {}
    for name, value in _own(trainer):
        state.marks_before[name] = owned.mark(value)
        if not owned.is_large(value):
            found = owned.state_of(value, known)
            if found is not None and _is_composed(found):
                state.objects_before[name] = owned.digest(found)


def _own(trainer: ConvnetTrainer) -> list[tuple[str, Any]]:
    """Return the attributes of a subclass that are stored by themselves, if at all."""
    lent = {*trainer._run_state.lent, *SETTINGS}
    own = [(name, value) for name, value in vars(trainer).items() if name not in lent and not owned.has_state(value)]
    return [(name, value) for name, value in own if not _is_ours(trainer, name, value)]


def _known(trainer: ConvnetTrainer) -> set[int]:
    """Return the ids of what is stored otherwise."""
    stored = (*components.attribute_modules(trainer).values(), *_components(trainer).values(), *loaders(trainer))
    return {id(part) for part in (trainer, *stored)}


def _is_composed(found: dict[str, Any]) -> bool:
    """Return whether a state is that of a record or of a container of more than plain data."""
    return not {"fields", "dict", "list", "tuple", "queue"}.isdisjoint(found)


def _own_objects(trainer: ConvnetTrainer) -> dict[str, Any]:
    state, known = trainer._run_state, _known(trainer)
    kept, left_out = {}, []
    for name, value in _own(trainer):
        before = state.marks_before.get(name)
        if owned.is_large(value):
            # A large one that is new is a batch that a hook has taken.
            trained = isinstance(value, Tensor) and value.is_leaf and value.requires_grad
            if not trained and (before is None or owned.mark(value) == before):
                continue
        found = owned.state_of(value, known)
        if found is not None:
            found = owned.changed(found, state.objects_before.get(name)) if _is_composed(found) else found
            if found is not None:
                kept[name] = found
        elif owned.is_iterator(value):
            left_out.append(f"self.{name} (an iterator)")
        elif (
            before is not None and before != owned.mark(value) and not owned.is_plain(value) and id(value) not in known
        ):
            left_out.append(f"self.{name} (a {type(value).__name__})")
    left_out = sorted(set(left_out) - state.left_out)
    if left_out:
        state.left_out |= set(left_out)
        state.console.line(
            f"not in the checkpoints: {', '.join(left_out)}; where the next step depends on it, a resumed run "
            "differs. Give it state_dict() and load_state_dict()."
        )
    return kept


def _changed_attributes(trainer: ConvnetTrainer) -> dict[str, Any]:
    state = trainer._run_state
    before = state.attributes_before
    records = state.evaluation_records if state.phase == "evaluate" else None
    now = attributes(trainer) if records is None else records[1]
    return {name: value for name, value in now.items() if name not in before or before[name] != value}


def loaders(trainer: ConvnetTrainer) -> tuple[Any, ...]:
    """Return the loaders whose generators belong to the state: the three, and those of a subclass's own."""
    usual = (trainer.train_loader, trainer.valid_loader, trainer.test_loader)
    found: list[Any] = []
    for value in vars(trainer).values():
        if isinstance(value, DataLoader):
            found.append(value)
        # A long list holds data, no loaders; this runs in every epoch.
        elif type(value) in (dict, list, tuple) and len(value) <= MOST_LOADERS:
            parts = value.values() if type(value) is dict else value
            found += [part for part in parts if isinstance(part, DataLoader)]
    known = {id(loader) for loader in usual}
    return *usual, *(loader for loader in found if id(loader) not in known)


def plain(value: Any, where: str) -> Any:
    """Return `value` with containers and NumPy's numbers made plain.

    Raises
    ------
    ConfigError
        For anything that ``torch.load(weights_only=True)`` would not read back.
    """
    try:
        return _plain(value)
    except _NotPlainError:
        where, part = next(_not_plain(value, where))
        kind = type(part)
        raise ConfigError(
            f"the state of {where} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold; "
            "expected tensors and plain data. Return such from state_dict()."
        ) from None


class _NotPlainError(Exception):
    pass


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in owned.PLAIN:
        return value
    if kind is dict or isinstance(value, Mapping):
        return {
            key if type(key) in owned.PLAIN else _plain(key): part if type(part) in owned.PLAIN else _plain(part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        parts = [part if type(part) in owned.PLAIN else _plain(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return value
    if isinstance(value, (bool, int, float, str)):  # an enum, say
        return next(base(value) for base in (bool, int, float, str) if isinstance(value, base))
    raise _NotPlainError


def _not_plain(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield places and values of the parts that `_plain` cannot take: only an error needs to know them."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _not_plain(key, f"a key of {where}")
            yield from _not_plain(part, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _not_plain(part, f"{where}[{index}]")
    else:
        try:
            _plain(value)
        except _NotPlainError:
            yield where, value


def storable(value: Any) -> Any:
    """Return plain data for a configuration; what is none appears as its ``repr``."""
    if isinstance(value, Mapping):
        return {str(key): storable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if type(value) in owned.PLAIN else repr(value)


def _made_with(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what a resumed run should have in common with this one."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "farabio_like": __version__,
        "number of processes": distributed.world_size(),
        "batch size": getattr(trainer.train_loader, "batch_size", None),
        "training samples": _length(getattr(trainer.train_loader, "dataset", None)),
    }
    for where, optimizer in components.named(trainer.optimizer, "optimizer"):
        defaults = getattr(optimizer, "defaults", {})
        found |= {f"{where} {name}": storable(value) for name, value in defaults.items() if owned.is_plain(value)}
    return storable(found)


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


# ---------------------------------------------------------------- going on


def take_over(trainer: ConvnetTrainer, saved: dict[str, Any], path: Path) -> None:
    """Take over the counters and the history of a run, before any hook; `restore` does the rest."""
    state, run = trainer._run_state, saved["run"]
    if saved["class"] != type(trainer).__qualname__:
        state.console.line(f"resuming a {saved['class']} as a {type(trainer).__qualname__}")
    state.resumed = saved = {**_own_part(trainer, saved), "file": str(path)}
    run = saved["run"]
    state.step, state.done = saved["step"], run["done"]
    state.best = tuple(run["best"]) if run["best"] is not None else None
    state.history[:] = copy.deepcopy(run["history"])
    trainer._epoch = saved["epoch"]
    position = run["epoch"]
    where = f"the end of epoch {saved['epoch']}"
    if position is not None:
        phase = f"batch {position['batches']}" if position["phase"] == "train" else "the training batches"
        where = f"{phase} of epoch {saved['epoch']}"
    state.console.line(f"resuming from {path}: after {where}, step {state.step}")
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
    now = _made_with(trainer)
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
    _load_parts(trainer, saved, weights_only)
    if not weights_only:
        stepping.load_state_dict(trainer, run["stepping"])
        stepping.load_waiting(trainer, run["stepping"])
    state.trained, state.loaded = True, None
    _load_records(trainer, run)
    _note_another(trainer, run.get("unchanged", {}))
    position = run["epoch"]
    rng.set_state(run["rng"] if position is None else position["rng"], *loaders(trainer))
    if position is None:
        state.resumed = None


def _load_parts(trainer: ConvnetTrainer, saved: dict[str, Any], weights_only: bool = False) -> None:
    """Give model, components and averages their state."""
    where = f"{saved['file']}, written by {saved['class']} and read by {type(trainer).__qualname__},"
    components.load_model_state(components.model_of(trainer), saved["model"], where)
    _load_components(trainer, {} if weights_only else saved["run"]["components"], saved["file"])
    for name, callback in averaging(trainer).items():
        if name in saved["averages"]:
            callback.load_model_state(trainer, saved["averages"][name])


def _load_components(trainer: ConvnetTrainer, saved: dict[str, Any], file: str) -> None:
    there = _components(trainer, saved) if saved else {}
    fresh, gone = [n for n in there if n not in saved], [n for n in saved if n not in there]
    if fresh or gone:
        trainer._run_state.console.once(
            f"  not in the checkpoint, as built: {', '.join(fresh) or 'nothing'}; "
            f"in the checkpoint only, left out: {', '.join(gone) or 'nothing'}"
        )
    for name, part in there.items():
        if name in saved:
            then, values = saved[name]["class"], saved[name]["state"]
            if then != _class_name(part):
                raise CheckpointError(
                    f"{file}: self.{name} was a {then} when it was written, now it is a {_class_name(part)}. "
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
                entry.update({key: shards.like(value, parameters[index]) for key, value in entry.items()})
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
    others = [f"self.{w}" for w, then in unchanged.items() if w in now and not owned.is_same_content(now[w], then)]
    if others:
        trainer._run_state.console.once(
            f"  other weights than before in {', '.join(others)}, which no checkpoint holds since the run does not "
            "change it: build it from a file, or with self._seed"
        )


def _load_records(trainer: ConvnetTrainer, run: dict[str, Any]) -> None:
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
        if owned.fits(value, found):
            setattr(trainer, name, owned.restored(value, found, trainer.device))
        else:
            trainer._run_state.console.once(
                f"self.{name} stays as the constructor has built it: it cannot take what the checkpoint has for it"
            )


def enter_epoch(trainer: ConvnetTrainer, items: Any) -> None:
    """Tell the prepared items of an epoch that is resumed where to go on, before the hook that may wrap them."""
    state = trainer._run_state
    position = state.resumed["run"]["epoch"] if state.resumed is not None else None
    if position is None:
        return
    if position["rng"] is not None:  # a rank that was not there has its own
        state.epoch_rng = position["rng"]
    state.epoch_started = perf_counter() - position["seconds"]
    state.scheduler_marks = list(position["schedulers"])
    if position["phase"] == "train" and position["batches"]:
        start = positions.Start(
            position["batches"], lambda: _ready(trainer), position["loader"], trainer._run_state.console.once
        )
        state.start = start
        if hasattr(items, "start"):
            items.start = start


def _ready(trainer: ConvnetTrainer) -> None:
    """Give the random numbers the state of the checkpoint, once."""
    state = trainer._run_state
    if state.resumed is not None:
        rng.set_state(state.resumed["run"]["rng"], *loaders(trainer))
        state.resumed = None


def go_on(trainer: ConvnetTrainer, items: Any) -> Iterator[Any]:
    """Return the items of an epoch that were not trained before; the metrics of those that were come back."""
    state = trainer._run_state
    assert state.resumed is not None and state.means is not None and state.objects is not None
    run, start = state.resumed["run"], state.start
    # Again: the hook that starts an epoch begins new records, sets the learning rate, and has done so before.
    _load_parts(trainer, state.resumed)
    _load_records(trainer, run)
    stepping.load_waiting(trainer, run["stepping"])
    state.means.load_state_dict(run["epoch"]["means"])
    state.objects.load_state_dict(run["epoch"]["objects"])
    for name, record in run["epoch"]["objects"].get("records", {}).items():
        metric = state.objects.metrics.get(name)
        if owned.fits(metric, record):
            owned.restored(metric, record, trainer.device)
    state.batches = run["epoch"]["batches"]
    state.start = None
    asked = run["epoch"]["asked"]
    if any(asked.values()):  # no further batch: it was saved between stop_train(), say, and the end of the epoch
        state.stop, state.leave = asked["stop"], asked["leave"]
        _ready(trainer)
        return iter(())
    if start is None:  # stopped before the first batch of the epoch
        state.resumed = None
        return iter(items)
    return _after(trainer, items, start)


def _after(trainer: ConvnetTrainer, items: Any, start: positions.Start) -> Iterator[Any]:
    iterator = iter(items)
    first = next(iterator, None)
    if start.taken:
        if first is not None:
            yield first
    else:  # items of the subclass's own
        start.say(f"{start.batches} items are read again and dropped, to go on where the run stopped")
        for _ in range(start.batches - 1):
            next(iterator, None)
    _ready(trainer)
    yield from iterator


def trained_already(trainer: ConvnetTrainer) -> bool:
    """Return whether a resumed epoch had come to its evaluation; its training metrics are given back then."""
    state = trainer._run_state
    position = state.resumed["run"]["epoch"] if state.resumed is not None else None
    if position is None or position["phase"] != "evaluate":
        return False
    assert state.resumed is not None
    _load_parts(trainer, state.resumed)
    _load_records(trainer, state.resumed["run"])
    state.stop, state.leave = position["asked"]["stop"], position["asked"]["leave"]
    trainer.epoch_metrics = copy.deepcopy(position["metrics"])
    trainer.loader_metrics = trainer.epoch_metrics.get("train", {})
    state.batches = position["batches"]
    return True


def begin_evaluation(trainer: ConvnetTrainer) -> None:
    """Note that the training of an epoch is complete, for a save while it is evaluated."""
    state = trainer._run_state
    _ready(trainer)
    # What evaluation and on_epoch_end change must not be changed again by a run that begins with them anew.
    state.evaluation_records = (_records(trainer), attributes(trainer)) if state.run is not None else None
    state.phase = "evaluate"
    state.evaluation_rng = rng.get_state(*loaders(trainer))


def _records(trainer: ConvnetTrainer) -> list[list[Any]]:
    """Return copies of the callbacks' states; averages of weights, which are large, do not change in an evaluation."""
    return [
        [name, values if hasattr(events.innermost(callback), "model_state") else checkpoint.snapshot(values)]
        for callback, (name, values) in zip(
            components.each(trainer.callbacks, list, tuple), _callbacks(trainer), strict=True
        )
    ]


# ---------------------------------------------------------------- which checkpoint

LAST, BEST, CRASH, INDEX = "last.ckpt", "best.ckpt", "crash.ckpt", "index.json"


def of_this_job(trainer: ConvnetTrainer) -> Path | None:
    """Return the folder of the run that ``torchrun`` has restarted, None for a first start, or without a checkpoint."""
    if not distributed.restarts() or trainer._logdir is None:
        return None
    parent = Path(trainer._logdir).expanduser() / type(trainer).__name__
    folders = [path for path in parent.iterdir() if path.name.isdecimal()] if parent.is_dir() else []
    for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
        try:
            job = json.loads((folder / "environment.json").read_text(encoding="utf-8")).get("torchrun_job")
        except (OSError, ValueError):
            continue
        if job == distributed.job():
            return folder if checkpoints(folder) else None
    return None


def find(trainer: ConvnetTrainer, resume: Any) -> tuple[dict[str, Any], Path] | None:
    """Return the state to go on from and its file, None where there is none yet.

    Parameters
    ----------
    trainer : ConvnetTrainer
    resume : True or path
        True: of the newest run of this class that did not finish, else of the newest one. A path: a checkpoint,
        or the folder of a run. Of a run its newest checkpoint that is intact.

    Raises
    ------
    FileNotFoundError
        For a path that is not there.
    CheckpointError
        If there are checkpoints and none can be used.
    """
    if resume is not True:
        if not isinstance(resume, (str, os.PathLike)):
            raise ConfigError(f"train(resume={resume!r}): expected True, False, or the path of a checkpoint or a run.")
        path = Path(resume).expanduser()
        if path.is_dir():
            return _newest(trainer, path)
        return _read(path), path
    if trainer._logdir is None:
        raise ConfigError("train(resume=True) looks in the log folder, and _logdir is None. Give a path.")
    parent = Path(trainer._logdir).expanduser() / type(trainer).__name__
    finished: Path | None = None
    runs = [p for p in parent.iterdir() if p.name.isdecimal()] if parent.is_dir() else []
    for folder in sorted(runs, key=lambda p: int(p.name), reverse=True):
        if not checkpoints(folder):
            _sweep(folder)
            continue
        if _is_finished(folder):
            finished = finished or folder
            continue
        found = _newest(trainer, folder)
        if not found[0]["run"]["finished"]:
            return found
        finished = finished or folder
    if finished is not None:
        return _newest(trainer, finished)
    trainer._run_state.console.line(f"nothing to resume in {parent}: starting from epoch {trainer._start_epoch}")
    return None


def _sweep(folder: Path) -> None:
    """Remove what a run left that was killed in its first save, unless that may still be going on."""
    try:
        host = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if host == platform.node() and os.name == "posix":
        checkpoint.sweep(folder / "checkpoints", alive=_is_alive)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run's folder, the newest first."""
    inner = folder / "checkpoints"
    files = list((inner if inner.is_dir() else folder).glob("*.ckpt"))
    known = _index(folder).get("files", {})

    def age(path: Path) -> tuple[Any, ...]:
        status = path.stat()
        entry = known.get(path.name, {})
        current = entry.get("size") == status.st_size and entry.get("changed") == status.st_mtime_ns
        return (entry["step"] if current else -1, status.st_mtime_ns, path.name == LAST)

    # By the steps that the index knows, or else the files: those of a copied folder have other times.
    ages = {path: age(path) for path in files}
    if len(files) > 1 and not all(key[0] >= 0 for key in ages.values()):
        ages = {path: (_step_in(path), *key[1:]) for path, key in ages.items()}
    by_step = all(key[0] >= 0 for key in ages.values())
    return sorted(files, key=lambda path: ages[path] if by_step else ages[path][1:], reverse=True)


def _step_in(path: Path) -> int:
    """Return the step that a checkpoint says it is of, -1 where it cannot be read; the tensors are not."""
    try:
        step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
    except Exception:  # whoever takes it reads it in full, and says what is wrong
        return -1
    return step if type(step) is int else -1


def find_best(best: list[Any], paths: list[Path]) -> Path | None:
    """Return the file that holds the best epoch, as a state notes it, at its end; none whose weights are in shards."""
    for path in paths:
        try:
            found = _read(path)
        except (CheckpointError, OSError):
            continue
        run = found["run"]
        if run["best"] == best and found["epoch"] == best[3] and run["epoch"] is None and "shards" not in found:
            return path
    return None


def _index(folder: Path) -> dict[str, Any]:
    """Return what ``checkpoints/index.json`` says; it is a hint, and may be missing, damaged or out of date."""
    try:
        found = json.loads((folder / "checkpoints" / INDEX).read_text(encoding="utf-8"))
        files = found["files"]
        sound = isinstance(files, dict) and all(type(entry.get("step")) is int for entry in files.values())
        return found if sound else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_finished(folder: Path) -> bool:
    """Return what the index says, where it was written after the last save: a process may be killed in between."""
    index = _index(folder)
    last = folder / "checkpoints" / LAST
    entry = index.get("files", {}).get(LAST)
    if not index.get("finished") or entry is None or not last.is_file():
        return False
    return (entry.get("size"), entry.get("changed")) == (last.stat().st_size, last.stat().st_mtime_ns)


def write_index(folder: Path, saved: dict[str, Any], paths: list[Path]) -> None:
    """Note the names of a new checkpoint in the index. Nothing is lost with a hint: not synced, no error."""
    inner = folder / "checkpoints"
    files = {name: entry for name, entry in _index(folder).get("files", {}).items() if (inner / name).is_file()}
    for path in paths:
        status = path.stat()
        files[path.name] = {
            "step": saved["step"],
            "epoch": saved["epoch"],
            "size": status.st_size,
            "changed": status.st_mtime_ns,
        }
    index = {"finished": bool(saved["run"]["finished"]), "files": files}
    with contextlib.suppress(OSError):
        checkpoint.write_text(inner / INDEX, json.dumps(index))


def _newest(trainer: ConvnetTrainer, folder: Path) -> tuple[dict[str, Any], Path]:
    there = checkpoints(folder)
    problems = []
    for path in there:
        try:
            found = _read(path)
        except (CheckpointError, OSError) as error:
            problems.append(str(error))
            continue
        for problem in problems:
            trainer._run_state.console.once(f"passed over: {problem}")
        return found, path
    if not there:
        raise FileNotFoundError(f"{folder} holds no checkpoint to resume from.")
    raise CheckpointError(f"none of the {len(there)} checkpoints in {folder} can be used:\n" + "\n".join(problems))


def _read(path: Path) -> dict[str, Any]:
    found = checkpoint.read(path)
    if "run" not in found:
        raise CheckpointError(f"{path} holds weights alone, from which no run can go on; load them: load_model(path).")
    shards.check_folder(found, path)
    return found
