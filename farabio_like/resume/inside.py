"""What hooks change inside modules, data sets and transforms, and in the settings, and no ``state_dict`` holds.

Flags of parameters and layers, numbers, texts, small tensors, generators: all that differs from what it was when the
run began. What a trainer holds by itself is in `attributes`, optimizers and schedules are in `optimizers`.
"""

from __future__ import annotations

import copy
import functools
import marshal
from collections.abc import Collection, Iterator
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import components
from ..callbacks.base import Callback
from ..checkpoint import objects as user_objects
from ..checkpoint.plain import MOST_PLAIN, PLAIN, is_plain
from ..components import inventory
from ..components.inventory import Inventory
from ..config.settings import OF_A_STAGE
from ..data.loaders import Items
from ..duck_typing import are_same, has_state, is_a, is_method, own_attributes
from . import layers
from .attributes import put, say_left_out

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

MOST_PARTS = 100  # of a list or dict of objects; a longer one holds data
DEEPEST = 8
Found = dict[str, Any]

_ROOTS = (nn.Module, Dataset, Sampler, DataLoader)
_LOADERS = ("train_loader", "valid_loader", "test_loader")
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, functools.partial, type)
_SETTINGS = (*_FUNCTIONS, PurePath, Enum)  # what a hook sets on purpose, and no file can hold
_MAY_CHANGE = tuple(f"_{name}" for name in OF_A_STAGE)  # in the course of a run
_OF_TORCH = (torch.dtype, torch.device, torch.Size)
_OF_A_PASS = (Tensor, Items)
_FIXED = (*(type(None), bool, int, float, complex, str, bytes), *_OF_TORCH)
_OF_A_MODULE = frozenset(vars(nn.Module()))  # its tables and hooks
_HELD_BY_THE_RUN = ("metrics", "callbacks", "loggers")
_LEAVES = frozenset((*PLAIN, Tensor, nn.Parameter, np.ndarray, FunctionType))
_NEW = object()


# ---------------------------------------------------------------- what there is


class _Walk:
    """Finds the objects whose attributes count, each once, by where it is."""

    def __init__(self, known: set[int], containers: list[Any]) -> None:
        self.seen = known
        self.found: dict[str, Any] = {}
        self.containers = containers  # lists and dicts that were looked into

    def enter(self, where: str, value: Any, depth: int = 0, root: bool = False) -> None:
        kind = type(value)
        if kind in PLAIN or id(value) in self.seen or depth > DEEPEST:
            return
        if issubclass(kind, (list, tuple, dict)):
            if len(value) <= MOST_PARTS:
                self.containers.append(value)
                pairs = list(dict.items(value) if issubclass(kind, dict) else enumerate(value))
                for key, part in pairs if set(map(type, dict(pairs).values())) - _LEAVES else ():
                    self.enter(f"{where}[{key!r}]", part, depth + 1)
            return
        if issubclass(kind, nn.Module):
            value = components.unwrap(value)
        if id(value) in self.seen or not (root or _is_holder(value)):
            return
        self.seen.add(id(value))
        self.found[where] = value
        for name, part in _fields(value).items():
            if type(part) not in _LEAVES:
                self.enter(f"{where}.{name}", part, depth + 1)
        if issubclass(kind, nn.Module):
            for name, child in value._modules.items():
                self.enter(f"{where}.{name}", child, depth)


def _is_holder(value: Any) -> bool:
    """Return whether the attributes of an object count: a module, a data set, a record, a transform."""
    kind = type(value)
    if issubclass(kind, _ROOTS):
        return True
    if issubclass(kind, (*_FUNCTIONS, Tensor, Callback)) or has_state(value):
        return False
    if user_objects.is_record(value):
        return True
    # Of other packages only what is called, as a transform is; a client of a server answers to any name.
    called = any("__call__" in vars(cls) for cls in kind.__mro__)
    return called and not hasattr(kind, "__getattr__") and own_attributes(value) is not None


def _fields(holder: Any) -> dict[str, Any]:
    """Return the attributes of an object that count."""
    own, kind = own_attributes(holder) or {}, type(holder)
    if issubclass(kind, nn.Module):
        return {name: value for name, value in own.items() if name not in _OF_A_MODULE}
    if issubclass(kind, DataLoader):
        return {name: value for name, value in own.items() if name[0] != "_" and name != "generator"}
    if issubclass(kind, Sampler):  # its generator is stored with those of the loaders
        return {name: value for name, value in own.items() if name != "generator"}
    return own


def _holders(
    trainer: ConvnetTrainer, held: Inventory, containers: list[Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return what counts, by kind and place: in a data set a module is a transform, and a model is the trainer's."""
    seen = {id(trainer), id(trainer.config)}
    groups: dict[str, dict[str, Any]] = {}
    parts = [part for part in inventory.once(held.parts) if part.attribute not in _HELD_BY_THE_RUN]
    for group in ("model", "data"):
        walk = _Walk(seen, [] if containers is None else containers)
        if group == "model":
            for part in parts:
                if is_a(part.value, nn.Module):
                    walk.enter(part.where, part.value)
        else:
            for name in _LOADERS:
                loader = getattr(trainer, name)
                if not is_a(loader, (list, tuple)):  # of batches
                    walk.enter(name, loader, root=not is_a(loader, dict))
            for part in parts:
                if is_a(part.value, _ROOTS) or not user_objects.is_record(part.value):
                    walk.enter(part.where, part.value)
        groups[group] = walk.found
    return groups


def _leaves(holder: Any, known: set[int], inside: Collection[int]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and state of the attributes of an object, without those that are looked into by themselves."""
    fields = _fields(holder)
    if is_a(holder, nn.Module):
        fields = {**fields, **{n: holder._buffers.get(n) for n in holder._non_persistent_buffers_set}}
    for name, value in fields.items():
        if id(value) not in inside:
            yield name, value, _state_of(value, known, inside)


def _state_of(value: Any, known: set[int], inside: Collection[int]) -> user_objects.State | None:
    kind = type(value)
    if kind in (list, tuple, dict) and len(value) > MOST_PLAIN:
        return None
    if is_plain(value) or kind in _OF_TORCH:
        return {"plain": value}
    if issubclass(kind, np.generic):
        return {"plain": value.item()} if is_plain(value.item()) else None
    if issubclass(kind, Tensor) and ((value.requires_grad and not value.is_leaf) or user_objects.is_large(value)):
        return None
    if issubclass(kind, (list, tuple, dict)):
        parts = list(dict.values(value) if issubclass(kind, dict) else value)
        if len(parts) > MOST_PARTS or any(id(part) in inside for part in parts):
            return None
    return user_objects.capture(value, known, 1)


# ---------------------------------------------------------------- what has changed


def note(trainer: ConvnetTrainer, held: Inventory) -> None:
    """Note what there is before the first batch of a run: what differs later has been changed by it."""
    state = trainer._run_state
    state.flags_before = {name: p.requires_grad for name, p in named_parameters(held).items()}
    state.inside_before = {
        (where, name): (_quick(value), _digest(value, found), None if _quick(value) else copy.deepcopy(found))
        for where, name, value, found in _all_leaves(trainer, held)
    }
    every = _every(trainer, held)
    state.structures_before = {where: _structure(holder) for where, holder in every.items()}
    state.layers_before = {where: holder for where, holder in every.items() if layers.is_bare(holder)}
    state.users_parts = any(type(holder).__module__.partition(".")[0] != "torch" for holder in every.values())


def note_settings(trainer: ConvnetTrainer) -> None:
    """Note the settings that a run, or a stage, begins with."""
    state = trainer._run_state
    stage = "" if state.stage is None else state.stage.name
    state.settings_before.setdefault(stage, {name: copy.deepcopy(getattr(trainer, name)) for name in _MAY_CHANGE})


def _settings_before(trainer: ConvnetTrainer) -> dict[str, Any]:
    stage = trainer._run_state.stage
    return trainer._run_state.settings_before.get("" if stage is None else stage.name, {})


def _every(trainer: ConvnetTrainer, held: Inventory) -> dict[str, Any]:
    return {where: holder for group in _holders(trainer, held).values() for where, holder in group.items()}


def _all_leaves(trainer: ConvnetTrainer, held: Inventory) -> Iterator[tuple[str, str, Any, Any]]:
    every = _every(trainer, held)
    known = _known(trainer, held)
    inside = {id(holder) for holder in every.values()} | known
    for where, holder in every.items():
        for name, value, found in _leaves(holder, known, inside):
            yield where, name, value, found


def _known(trainer: ConvnetTrainer, held: Inventory) -> set[int]:
    """Return the ids of what is stored otherwise: parameters and buffers, modules, optimizers, the trainer itself."""
    tensors = (t for part in held.modules for t in (*part.value.parameters(), *part.value.buffers()))
    kept = {id(t) for part in held.modules for t in _without_state(part.value)}
    parts = (part.value for part in (*held.modules, *held.stateful, *held.loaders))
    return {id(trainer), id(trainer.config), *map(id, tensors), *map(id, parts)} - kept


def _without_state(module: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers that are in no ``state_dict``."""
    for part in module.modules():
        yield from (t for n in part._non_persistent_buffers_set if (t := part._buffers.get(n)) is not None)


def changed(trainer: ConvnetTrainer, held: Inventory) -> Found:
    """Return what differs from `note`, as plain data and tensors; say once what no file can hold.

    Returns
    -------
    dict
        ``flags``: ``requires_grad`` by parameter; ``eval``: the layers in eval mode while a pass trains; ``model`` and
        ``data``: by place, a list of names and states.
    """
    state = trainer._run_state
    if state.last_look is None or not state.last_look.renew(trainer, held):
        state.last_look = _Look(trainer, held)
    look = state.last_look
    found: Found = {"layers": {each.where: each.layer for each in look.holders if each.layer is not None}}
    for group in look.groups:
        found[group] = {each.where: each.pairs for each in look.holders if each.group == group and each.pairs}
    flags = {name: p.requires_grad for name, p in look.parameters.items()}
    found["flags"] = {name: flag for name, flag in flags.items() if state.flags_before.get(name) != flag}
    found["eval"] = _in_eval_mode(trainer, look.groups["model"])
    settings = {name: getattr(trainer, name) for name in _MAY_CHANGE}
    settings = {name: v.item() if is_a(v, np.generic) else v for name, v in settings.items()}
    before_them = _settings_before(trainer)
    found["settings"] = {n: copy.deepcopy(v) for n, v in settings.items() if is_plain(v) and v != before_them.get(n, v)}
    say_left_out(trainer, [name for each in look.holders for name in each.left_out])
    return found


# An epoch may last milliseconds, and asks twice: what cannot have changed since the last look is not looked at again.


class _Look:
    """What has changed since the run began, object by object.

    NOTE: what was found holds as long as every object on the way has the very same values, those that can be changed in
    place excepted, which are looked at again. The values are kept here, so that no other object gets the id of one.
    """

    def __init__(self, trainer: ConvnetTrainer, held: Inventory) -> None:
        containers: list[Any] = []
        self.before = trainer._run_state.inside_before
        self.known = _known(trainer, held)
        self.groups = _holders(trainer, held, containers)
        self.inside = {id(holder) for group in self.groups.values() for holder in group.values()} | self.known
        self.captured = _Captured(self.known)
        self.parameters = named_parameters(held)
        self.parts = _parts(trainer, held)
        self.containers = [(container, _contents(container)) for container in containers]
        self.holders = [
            _Holder(trainer, self, group, where, holder)
            for group, holders in self.groups.items()
            for where, holder in holders.items()
        ]

    def renew(self, trainer: ConvnetTrainer, held: Inventory) -> bool:
        """Look again at the objects with other values; return False where there may be other objects."""
        if self.before is not trainer._run_state.inside_before or not are_same(_parts(trainer, held), self.parts):
            return False
        if not all(are_same(_contents(container), values) for container, values in self.containers):
            return False
        for number, each in enumerate(self.holders):
            other = each.other_values()
            if any(not (_is_fixed(then) and _is_fixed(now)) for then, now in other):
                return False
            if other or each.was_written_to(self):
                self.holders[number] = _Holder(trainer, self, each.group, each.where, each.holder)
        return True


class _Captured:
    """What is stored elsewhere: with the trainer's parts, or as a part of an object that was looked at before.

    `checkpoint.objects.capture` adds the containers and records that it meets; when an object is looked at once more,
    its own ones are to be met again.
    """

    def __init__(self, known: set[int]) -> None:
        self.known = known
        self.owners: dict[int, str] = {}
        self.owner, self.met = "", set[int]()

    def of(self, owner: str) -> Any:
        """Begin to look at an object, by its place."""
        self.owner, self.met = owner, set()
        return self

    def add(self, number: int) -> None:
        """Add an id."""
        self.owners.setdefault(number, self.owner)
        self.met.add(number)

    def __contains__(self, number: int) -> bool:
        return number in self.known or number in self.met or self.owners.get(number, self.owner) != self.owner


class _Holder:
    """One object, with what has changed of it: pairs of name and state, or how to make the layer anew."""

    __slots__ = ("group", "holder", "hooks", "layer", "leaves", "left_out", "pairs", "tables", "where")

    def __init__(self, trainer: ConvnetTrainer, look: _Look, group: str, where: str, holder: Any) -> None:
        self.group, self.where, self.holder = group, where, holder
        self.pairs: list[list[Any]] = []
        self.left_out: list[str] = []
        self.leaves: list[tuple[Any, Any, Any]] = []  # values that can be changed in place, their marks and digests
        for name, value, one in _leaves(holder, look.captured.of(f"{group} {where}"), look.inside):
            quick, digest, _ = look.before.get((where, name), (None, _NEW, None))
            now_quick = _quick(value)
            if quick is not None and quick == now_quick:
                self.leaves.append((value, now_quick, None))
                continue
            now = _digest(value, one)
            if not _is_fixed(value) and id(value) not in look.inside:
                self.leaves.append((value, now_quick, now))
            if now != digest and one is not None:
                self.pairs.append([name, copy.deepcopy(one)])
            elif now != digest and digest is not _NEW:
                self.left_out.append(f"self.{where}.{name} (a {type(value).__name__})")
        structures = trainer._run_state.structures_before
        captured = look.captured.of(f"{group} {where}")
        self.layer = _new_layer(trainer, where, holder, captured, look.inside) if group == "model" else None
        if self.layer is None and where in structures and structures[where] != _structure(holder):
            self.left_out.append(f"self.{where} (now a {_structure(holder)[0][1]}{_parts_of(holder)})")
        self.tables = [(table, _names_and_values(table)) for table in self._tables()]
        self.hooks = layers.hooks_of(holder) if is_a(holder, nn.Module) else 0

    def _tables(self) -> Iterator[dict[str, Any]]:
        own = own_attributes(self.holder)
        if own is not None:  # an empty one may get some
            yield own
        if is_a(self.holder, nn.Module):
            yield from (self.holder._modules, self.holder._parameters, self.holder._buffers)

    def other_values(self) -> list[tuple[Any, Any]]:
        """Return the attributes that have other values now, then and now; one that came or went beside itself."""
        found = []
        for table, then in self.tables:
            now = _names_and_values(table)
            if len(now) != len(then):
                return [(self, self)]
            if not are_same(now, then):
                found += [(a, b) for a, b in zip(then, now, strict=True) if a is not b]
        return found

    def was_written_to(self, look: _Look) -> bool:
        """Return whether a value was changed in place, or a hook was registered."""
        if is_a(self.holder, nn.Module) and self.hooks != layers.hooks_of(self.holder):
            return True
        captured = look.captured.of(f"{self.group} {self.where}")
        for value, quick, digest in self.leaves:
            now = _quick(value)
            if now != quick:
                return True
            if now is None and digest != _digest(value, _state_of(value, captured, look.inside)):
                return True
        return False


def _parts(trainer: ConvnetTrainer, held: Inventory) -> list[Any]:
    """Return what a trainer holds, without what differs in every batch or pass: tensors, and the items of loaders."""
    kept = [part.value for part in held.parts if not is_a(part.value, _OF_A_PASS) or is_a(part.value, nn.Parameter)]
    return [*kept, *(getattr(trainer, name) for name in _LOADERS)]


def _names_and_values(table: dict[str, Any]) -> list[Any]:
    """Return what is in a table of attributes, without the mode of a module, which the loops set."""
    values = dict(table)
    values.pop("training", None)
    return [*values, *values.values()]


def _contents(container: Any) -> list[Any]:
    return [*container, *(dict.values(container) if isinstance(container, dict) else ())]


def _is_fixed(value: Any) -> bool:
    """Return whether a value is what it is as long as it is the same object."""
    return type(value) in _FIXED or is_a(value, _SETTINGS)


def named_parameters(held: Inventory) -> dict[str, nn.Parameter]:
    """Return every parameter that a trainer holds by a name that no wrapper changes, shared ones once."""
    found: dict[int, tuple[str, nn.Parameter]] = {id(part.value): (part.where, part.value) for part in held.parameters}
    for part in held.modules:
        for key, parameter in part.value.named_parameters():
            found.setdefault(id(parameter), (f"{part.where}.{components.plain_key(part.value, key)}", parameter))
    return dict(found.values())


def _new_layer(
    trainer: ConvnetTrainer, where: str, holder: Any, known: set[int], inside: Collection[int]
) -> dict[str, Any] | None:
    """Return how to make a layer or a criterion that a hook has put in the place of one of another class."""
    before = trainer._run_state.structures_before.get(where)
    if not layers.is_bare(holder) or (before is not None and before[0] == _structure(holder)[0]):
        return None
    fields = [(name, value, state) for name, value, state in _leaves(holder, known, inside)]
    if len(_structure(holder)) > 1 or any(state is None and value is not None for _, value, state in fields):
        return None
    parts = [part for part in inventory.take(trainer).modules if part.where == where]
    path = [parts[0].attribute, *parts[0].keys] if parts else None
    return {**layers.described(holder, path), "fields": [[name, copy.deepcopy(state)] for name, _, state in fields]}


def _in_eval_mode(trainer: ConvnetTrainer, modules: dict[str, Any]) -> list[str] | None:
    """Return the layers in eval mode, within a pass that trains; elsewhere the loops set the flags."""
    progress = trainer._run_state.progress
    if progress.phase != "train" or trainer._run_state.means is None:
        return None
    return [where for where, module in modules.items() if is_a(module, nn.Module) and not module.training]


def _quick(value: Any) -> Any:
    """Return a mark that tells at once that tensors are as they were; None for anything else."""
    if is_a(value, Tensor):
        return (user_objects.Same(value), None if value.is_inference() else value._version)
    if type(value) is tuple and value and all(is_a(part, Tensor) for part in value):  # of a TensorDataset
        return tuple(map(_quick, value))
    return None


def _digest(value: Any, state: user_objects.State | None) -> Any:
    if state is None:
        if is_a(value, _SETTINGS):
            return user_objects.Same(value) if not is_a(value, (PurePath, Enum)) else str(value)
        if user_objects.is_large(value):
            return user_objects.mark(value)
        return type(value).__name__ if own_attributes(value) is not None else None
    if "plain" in state:
        try:
            return hash(marshal.dumps(state["plain"], 2))
        except ValueError:  # of torch, or too deep
            return repr(state["plain"])
    return user_objects.digest(state)


def _structure(holder: Any) -> list[tuple[str, Any]]:
    """Return of which class an object is, and those that it holds, which are looked into by themselves."""
    hooked = layers.hooks_of(holder) if is_a(holder, nn.Module) else 0
    found: list[tuple[str, Any]] = [("", f"{type(holder).__name__}{f' with {hooked} hooks' if hooked else ''}")]
    for name, value in _fields(holder).items():
        if is_a(value, (list, tuple)) and len(value) <= MOST_PARTS:
            kinds = [type(part).__name__ for part in value if _is_looked_into(part)]
            found.append((name, kinds))
        elif _is_looked_into(value):
            found.append((name, type(value).__name__))
    return [pair for pair in found if pair[1]]


def _parts_of(holder: Any) -> str:
    names = [kinds if isinstance(kinds, str) else ", ".join(kinds) for _, kinds in _structure(holder)[1:]]
    return f" of {'; '.join(names)}" if names else ""


def _is_looked_into(value: Any) -> bool:
    return type(value) not in PLAIN and not is_a(value, (list, tuple, dict)) and _is_holder(value)


# ---------------------------------------------------------------- giving it back


def give_back(trainer: ConvnetTrainer, found: Found, *groups: str) -> None:
    """Give the parts of a trainer what `changed` found; what is not there any more is named.

    What it did not find gets what it had when the run began: a hook that is called again may have changed it.

    Parameters
    ----------
    trainer : ConvnetTrainer
    found : dict
        Nothing, of a file that was written before there was such a state.
    *groups : str
        Which parts of it.
    """
    if not found:
        return
    if "model" in groups:
        _give_layers(trainer, found)
        vars(trainer).update({**_settings_before(trainer), **copy.deepcopy(found.get("settings", {}))})
    held = inventory.take(trainer)
    holders, missing = _holders(trainer, held), []
    for group in groups:
        _reset(trainer, held, holders[group], found.get(group, {}))
        for where, pairs in found.get(group, {}).items():
            holder = holders[group].get(where)
            for name, state in pairs:
                if holder is None or not _set(holder, name, state, trainer.device):
                    missing.append(f"self.{where}.{name}")
    if "model" in groups:
        _give_flags(trainer, found, held, holders["model"])
    if missing:
        trainer._run_state.console.once(
            f"  stays as built, though a hook had changed it: {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}"
        )


def _set(holder: Any, name: str, state: user_objects.State, device: torch.device) -> bool:
    table = own_attributes(holder)
    if is_a(holder, nn.Module) and name in holder._non_persistent_buffers_set:
        table = holder._buffers
    if table is None:
        return False
    there = table.get(name)
    # A file can hide no method.
    if not user_objects.fits(there, state) or is_method(type(holder), name):
        return False
    # Not by setattr: the class may be frozen, or have a property of the name.
    table[name] = user_objects.restore(there, state, device)
    return True


def _give_layers(trainer: ConvnetTrainer, found: Found) -> None:
    """Put layers without weights where hooks had put them, and where they had not, those that were built."""
    state, entries = trainer._run_state, found.get("layers", {})
    holders = _holders(trainer, inventory.take(trainer))["model"]
    for where in [*entries, *(where for where in state.layers_before if where not in entries)]:
        entry, there = entries.get(where), holders.get(where)
        if entry is None:
            layer = state.layers_before[where]
            if there is None or type(there) is type(layer) or not layers.is_bare(there):
                continue
        elif [type(there).__module__, type(there).__qualname__] == entry["class"]:
            continue  # its attributes are given below
        else:
            fields = {
                name: user_objects.restore(None, part, trainer.device)
                for name, part in entry["fields"]
                if not is_method(nn.Module, name)
            }
            layer = layers.make(entry, fields)
        parent, _, name = where.rpartition(".")
        if layer is None:
            continue
        if entry is not None and entry["path"] is not None:
            put(trainer, entry["path"], layer)
        elif parent in holders:
            holders[parent]._modules[name] = layer
        elif where in vars(trainer):
            setattr(trainer, where, layer)


def _reset(trainer: ConvnetTrainer, held: Inventory, holders: dict[str, Any], found: Found) -> None:
    before, known = trainer._run_state.inside_before, _known(trainer, held)
    inside = {id(holder) for holder in holders.values()} | known
    for where, holder in holders.items():
        stored = {name for name, _ in found.get(where, ())}
        for name, value, state in list(_leaves(holder, known, inside)):
            _, digest, then = before.get((where, name), (None, None, None))
            if then is not None and name not in stored and _digest(value, state) != digest:
                _set(holder, name, then, trainer.device)


def _give_flags(trainer: ConvnetTrainer, found: Found, held: Inventory, modules: dict[str, Any]) -> None:
    flags = {**trainer._run_state.flags_before, **found.get("flags", {})}
    for name, parameter in named_parameters(held).items():
        if name in flags:
            parameter.requires_grad_(flags[name])
    in_eval_mode = found.get("eval")
    if in_eval_mode is not None:
        for where, module in modules.items():
            if is_a(module, nn.Module):
                module.training = where not in in_eval_mode
