"""What a subclass keeps as attributes: which of them have a state that a checkpoint holds."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .. import components
from ..callbacks import dispatch
from ..checkpoint import objects as user_objects
from ..checkpoint import plain
from ..components import inventory
from ..components.inventory import Inventory
from ..config.settings import SETTINGS
from ..distributed import fsdp
from ..duck_typing import has_methods, has_state, is_a, is_method

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


# Attributes of a trainer that are stored by themselves, or belong to the batch under way.
_NOT_COMPONENTS = {
    *("config", "callbacks", "history", "model", "metrics", "device", "run_dir", "loggers", "_run_state", "_stages"),
    *("train_loader", "valid_loader", "test_loader", "train_epoch_iter", "valid_epoch_iter", "test_loop_iter"),
    *("batch", "inputs", "targets", "outputs", "loss", "batch_metrics", "loader_metrics", "epoch_metrics"),
}


_USERS_TOO = {"history", "metrics", "loggers", "loss"}  # a subclass may keep records under these names, see `_is_ours`


def unchanged_networks(trainer: ConvnetTrainer, held: Inventory, stored_parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the networks that no checkpoint holds were when the run began, see `_note_another`."""
    stored = {id(part) for part in (*components.modules_of(trainer, held), *stored_parts.values())}
    before = trainer._run_state.modules_before
    return {
        where: before[where]
        for where, part in stateful_parts(held).items()
        if where in before and id(part) not in stored
    }


def class_name(part: Any) -> str:
    """Return the name of the class of a component, inside any wrappers."""
    inside = components.unwrap(part) if is_a(part, nn.Module) else part
    return fsdp.class_of(inside).__qualname__


def averages_weights(callback: Any) -> bool:
    """Return whether a callback averages the weights, and so has a model's state of its own."""
    return has_methods(dispatch.innermost(callback), "model_state", "load_model_state")


def averaging(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the callbacks that average weights, by a name that is the same in the next run."""
    found: dict[str, Any] = {}
    for callback in components.each(trainer.callbacks, list, tuple):
        if averages_weights(callback):
            callback = dispatch.innermost(callback)
            name = type(callback).__name__
            found[f"{name}-{len(found) + 1}" if name in found else name] = callback
    return found


def stateful_parts(held: Inventory) -> dict[str, Any]:
    """Return what a checkpoint may hold for itself: all that has a state, each once, with where it is."""
    first = {"optimizer": 0, "scheduler": 1, "criterion": 2}
    parts = [part for part in held.stateful if part.attribute not in _NOT_COMPONENTS]
    parts.sort(key=lambda part: first.get(part.attribute, len(first)))
    return {part.where: part.value for part in inventory.once(parts)}


def components_of(trainer: ConvnetTrainer, held: Inventory, saved: Collection[str] = ()) -> dict[str, Any]:
    """Return what has a state besides the model: optimizers, schedulers, criteria, and such of a subclass's own.

    A module counts where the run may change it: it is a criterion, has trainable parameters that the model does not
    have, or has changed since the first batch (a moving average). So do those that a checkpoint has `saved`.
    """
    known = {id(p) for module in components.modules_of(trainer, held) for p in module.parameters()}
    return {
        where: part
        for where, part in stateful_parts(held).items()
        if not is_a(part, nn.Module) or where in saved or _may_change(trainer, where, part, known)
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


def is_restorable(trainer: ConvnetTrainer, name: str) -> bool:
    """Return whether a checkpoint may have an attribute of this name: not a setting, a method, or the base's own."""
    if name in SETTINGS or (name in _NOT_COMPONENTS and name not in _USERS_TOO):
        return False
    inherited = getattr(type(trainer), name, None)
    return name in _USERS_TOO or not (is_method(type(trainer), name) or isinstance(inherited, property))


def note_objects(trainer: ConvnetTrainer) -> None:
    """Note what a subclass's own objects are before the first batch of a run: what differs later has a state."""
    state, held = trainer._run_state, inventory.take(trainer)
    known = _known(trainer, held, components_of(trainer, held))
    state.modules_before = {
        where: user_objects.fingerprint(part) for where, part in stateful_parts(held).items() if is_a(part, nn.Module)
    }
    state.objects_before, state.marks_before = {}, {}
    state.long_before = _long_containers(trainer)
    for name, value in _own(trainer):
        state.marks_before[name] = user_objects.mark(value)
        if not user_objects.is_large(value):
            found = user_objects.capture(value, known)
            if found is not None and _is_composed(found):
                state.objects_before[name] = user_objects.digest(found)


def _own(trainer: ConvnetTrainer) -> list[tuple[str, Any]]:
    """Return the attributes of a subclass that are stored by themselves, if at all."""
    lent = {*trainer._run_state.lent, *SETTINGS}
    own = [(name, value) for name, value in vars(trainer).items() if name not in lent]
    return [(name, value) for name, value in own if not _is_ours(trainer, name, value) and not has_state(value)]


def _known(trainer: ConvnetTrainer, held: Inventory, stored_parts: Mapping[str, Any]) -> set[int]:
    """Return the ids of what is stored otherwise."""
    modules = (part.value for part in held.modules)
    return {id(part) for part in (trainer, *modules, *stored_parts.values(), *loaders(trainer, held))}


def _is_composed(found: dict[str, Any]) -> bool:
    """Return whether a state is that of a record or of a container of more than plain data."""
    return not {"fields", "dict", "list", "tuple", "queue"}.isdisjoint(found)


def own_objects(trainer: ConvnetTrainer, held: Inventory, stored_parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of a subclass's own objects, by attribute; say once which of them have none."""
    state, known = trainer._run_state, _known(trainer, held, stored_parts)
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
    for where, mark in _long_containers(trainer).items():
        if state.long_before.get(where) != mark:
            left_out.append(f"self.{where} ({mark[0]:,} entries, too many)")
    say_left_out(trainer, left_out)
    return kept


def _long_containers(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return marks of the containers with too many entries for a checkpoint, by place."""
    found: dict[str, Any] = {}
    for name, value in _own(trainer):
        found.update(user_objects.long_containers(value, name))
    return found


def say_left_out(trainer: ConvnetTrainer, names: Iterable[str]) -> None:
    """Say once what no checkpoint holds, though the run has changed it: by the words before a parenthesis."""
    state = trainer._run_state
    left_out = sorted({name for name in names if name.partition(" (")[0] not in state.left_out})
    if left_out:
        state.left_out |= {name.partition(" (")[0] for name in left_out}
        state.console.line(
            f"not in the checkpoints: {', '.join(left_out)}; where the next step depends on it, a resumed run "
            "differs. Give it state_dict() and load_state_dict()."
        )


def changed_attributes(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return the plain data among a subclass's attributes that has changed since the run began."""
    state = trainer._run_state
    before = state.attributes_before
    return {n: value for n, value in attributes(trainer).items() if n not in before or before[n] != value}


def loaders(trainer: ConvnetTrainer, held: Inventory | None = None) -> tuple[Any, ...]:
    """Return the loaders whose generators belong to the state: the three, and those of a subclass's own.

    In this order, and as often as they are held, for the states of their generators are stored in a list.
    """
    usual = (trainer.train_loader, trainer.valid_loader, trainer.test_loader)
    known = {id(loader) for loader in usual}
    found = [part.value for part in (held or inventory.take(trainer)).loaders]
    return *usual, *(loader for loader in found if id(loader) not in known)


def put(trainer: ConvnetTrainer, path: list[Any], value: Any) -> None:
    """Put an object where it was: in an attribute, or in an entry of a list or dict that is one; None takes it out."""
    name, *keys = path
    if not keys:
        if name.isidentifier() and (name in vars(trainer) or not hasattr(type(trainer), name)):
            setattr(trainer, name, value)
        return
    container: Any = vars(trainer).get(name)
    if is_a(container, tuple):
        container = list(container)
        vars(trainer)[name] = container
    if is_a(container, dict) and value is None:
        container.pop(keys[0], None)
    elif is_a(container, dict) or (is_a(container, list) and keys[0] < len(container)):
        container[keys[0]] = value
    elif is_a(container, list):
        container.append(value)
    elif container is None and type(keys[0]) is str:
        setattr(trainer, name, {keys[0]: value})
