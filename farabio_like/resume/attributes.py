"""What a subclass keeps as attributes: which of them have a state that a checkpoint holds."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import components
from ..callbacks import dispatch
from ..checkpoint import objects as user_objects
from ..checkpoint import plain
from ..config.settings import SETTINGS
from ..distributed import fsdp

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


# Attributes of a trainer that are stored by themselves, or belong to the batch under way.
_NOT_COMPONENTS = {
    *("config", "callbacks", "history", "model", "metrics", "device", "run_dir", "loggers", "_run_state", "_stages"),
    *("train_loader", "valid_loader", "test_loader", "train_epoch_iter", "valid_epoch_iter", "test_loop_iter"),
    *("batch", "inputs", "targets", "outputs", "loss", "batch_metrics", "loader_metrics", "epoch_metrics"),
}
MOST_LOADERS = 100  # in one list or dict of a subclass


def unchanged_networks(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what the networks that no checkpoint holds were when the run began, see `_note_another`."""
    stored = {id(part) for part in (*components.modules_of(trainer), *components_of(trainer).values())}
    before = trainer._run_state.modules_before
    return {
        where: before[where] for where, part in stateful_parts(trainer) if where in before and id(part) not in stored
    }


def class_name(part: Any) -> str:
    """Return the name of the class of a component, inside any wrappers."""
    inside = components.unwrap(part) if isinstance(part, nn.Module) else part
    return fsdp.class_of(inside).__qualname__


def averaging(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the callbacks that average weights, by a name that is the same in the next run."""
    found: dict[str, Any] = {}
    for callback in components.each(trainer.callbacks, list, tuple):
        callback = dispatch.innermost(callback)
        if hasattr(callback, "model_state"):
            name = type(callback).__name__
            found[f"{name}-{len(found) + 1}" if name in found else name] = callback
    return found


def stateful_parts(trainer: ConvnetTrainer) -> Iterator[tuple[str, Any]]:
    """Yield what has a ``state_dict`` among a trainer's attributes, each once, with where it is."""
    first = ("optimizer", "scheduler", "criterion")
    names = [*first, *(name for name in vars(trainer) if name not in first)]
    seen: set[int] = set()
    for name in names:
        value = vars(trainer).get(name)
        if name in _NOT_COMPONENTS or type(value) in plain.PLAIN or isinstance(value, Tensor):
            continue
        parts = {f"{name}[{i}]": part for i, part in enumerate(value)} if isinstance(value, (list, tuple)) else {}
        for where, part in (parts or dict(components.named(value, name))).items():
            if id(part) not in seen and not isinstance(part, type) and user_objects.has_state(part):
                seen.add(id(part))
                yield where, part


def components_of(trainer: ConvnetTrainer, saved: Collection[str] = ()) -> dict[str, Any]:
    """Return what has a state besides the model: optimizers, schedulers, criteria, and such of a subclass's own.

    A module counts where the run may change it: it is a criterion, has trainable parameters that the model does not
    have, or has changed since the first batch (a moving average). So do those that a checkpoint has `saved`.
    """
    known = {id(p) for module in components.modules_of(trainer) for p in module.parameters()}
    return {
        where: part
        for where, part in stateful_parts(trainer)
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
    return where in before and user_objects.fingerprint(module) != before[where]


def attributes(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the attributes of a subclass that are numbers, strings, or lists and dicts of them, copied."""
    found = {}
    for name, value in vars(trainer).items():
        if name not in SETTINGS and not _is_ours(trainer, name, value) and plain.is_plain(value):
            found[name] = copy.deepcopy(value)
    return found


def _is_ours(trainer: ConvnetTrainer, name: str, value: Any) -> bool:
    """Return whether an attribute is the base's own, not a record that a subclass keeps under such a name."""
    if name == "history":
        return value is trainer._run_state.history
    if name in ("metrics", "loggers"):
        return not plain.is_plain(value)
    if name == "loss":  # a running sum of numbers
        return not isinstance(value, (int, float))
    return name in _NOT_COMPONENTS


def note_objects(trainer: ConvnetTrainer) -> None:
    """Note what a subclass's own objects are before the first batch of a run: what differs later has a state."""
    state, known = trainer._run_state, _known(trainer)
    state.modules_before = {
        w: user_objects.fingerprint(part) for w, part in stateful_parts(trainer) if isinstance(part, nn.Module)
    }
    state.objects_before, state.marks_before = {}, {}
    for name, value in _own(trainer):
        state.marks_before[name] = user_objects.mark(value)
        if not user_objects.is_large(value):
            found = user_objects.capture(value, known)
            if found is not None and _is_composed(found):
                state.objects_before[name] = user_objects.digest(found)


def _own(trainer: ConvnetTrainer) -> list[tuple[str, Any]]:
    """Return the attributes of a subclass that are stored by themselves, if at all."""
    lent = {*trainer._run_state.lent, *SETTINGS}
    own = [
        (name, value) for name, value in vars(trainer).items() if name not in lent and not user_objects.has_state(value)
    ]
    return [(name, value) for name, value in own if not _is_ours(trainer, name, value)]


def _known(trainer: ConvnetTrainer) -> set[int]:
    """Return the ids of what is stored otherwise."""
    stored = (*components.attribute_modules(trainer).values(), *components_of(trainer).values(), *loaders(trainer))
    return {id(part) for part in (trainer, *stored)}


def _is_composed(found: dict[str, Any]) -> bool:
    """Return whether a state is that of a record or of a container of more than plain data."""
    return not {"fields", "dict", "list", "tuple", "queue"}.isdisjoint(found)


def own_objects(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the states of a subclass's own objects, by attribute; say once which of them have none."""
    state, known = trainer._run_state, _known(trainer)
    kept, left_out = {}, []
    for name, value in _own(trainer):
        before = state.marks_before.get(name)
        if user_objects.is_large(value):
            # A large one that is new is a batch that a hook has taken.
            trained = isinstance(value, Tensor) and value.is_leaf and value.requires_grad
            if not trained and (before is None or user_objects.mark(value) == before):
                continue
        found = user_objects.capture(value, known)
        if found is not None:
            found = user_objects.changed(found, state.objects_before.get(name)) if _is_composed(found) else found
            if found is not None:
                kept[name] = found
        elif user_objects.is_iterator(value):
            left_out.append(f"self.{name} (an iterator)")
        elif (
            before is not None
            and before != user_objects.mark(value)
            and not plain.is_plain(value)
            and id(value) not in known
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


def changed_attributes(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the plain data among a subclass's attributes that has changed since the run began."""
    state = trainer._run_state
    before = state.attributes_before
    records = state.progress.evaluation_records if state.progress.phase == "evaluate" else None
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
