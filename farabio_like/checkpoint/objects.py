"""The state of any object that a user keeps: tensors, arrays, collections, generators, records; and its return."""

from __future__ import annotations

import argparse
import cmath
import collections
import copy
import dataclasses
import functools
import inspect
import io
import random
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import packages
from ..callbacks.base import Callback
from ..components.inventory import MOST_ASKED, behind
from ..config.config import Config
from ..config.secrets import Secrets, is_masked, masked_state, restored
from ..duck_typing import attribute, has_state, is_a, is_method, own_attributes
from .plain import MOST_PLAIN, PLAIN, is_plain

LARGEST = 1_000_000  # elements; a larger tensor or array is taken for data, see `resume.attributes`
MOST_PARTS = 10_000  # of a list or dict that holds more than plain data
DEEPEST = 6
_NO_RECORDS = (Dataset, DataLoader, Sampler, Callback, Config, BaseException, type)
State = dict[str, Any]


def capture(value: Any, known: set[int] | None = None, depth: int = 0) -> State | None:
    """Return the state of such an object as tensors and plain data, None for anything else.

    NOTE: the first of `KINDS` that knows an object captures it, and the name of the kind is the first key of the
    state: by it `fits` and `restore` find the kind again, in files of any age. The class alone says of what kind an
    object is, see `duck_typing`: what hangs on a trainer may answer to any name.

    Parameters
    ----------
    value : object
    known : set of int
        The ids of objects that are stored otherwise, and of those that were met before: each is stored once.
    depth : int
        How many objects hold this one; large tensors and arrays have a state only where none does. Plain data has one
        only where something holds it: a trainer's own is stored as it is.
    """
    known = set() if known is None else known
    if depth and is_plain(value):
        return _PLAIN.capture(value, known, depth)
    if id(value) in known or id(behind(value)) in known or depth > DEEPEST:
        return None
    kind = next((kind for kind in KINDS if kind.is_one(value, depth)), None)
    return None if kind is None else kind.capture(value, known, depth)


def fits(value: Any, state: State) -> bool:
    """Return whether all of a state can be given to an object as it was built: see `restore`."""
    kind = _KIND_OF.get(next(iter(state)))
    return kind is not None and kind.fits(value, state)


def restore(value: Any, state: State, device: torch.device) -> Any:
    """Return `value` with a state that `fits` it; what an optimizer or a loader may hold is changed in place."""
    return _KIND_OF[next(iter(state))].restore(value, state, device)


# ---------------------------------------------------------------- the kinds


class Kind(NamedTuple):
    """What becomes of one kind of objects. What `restore` gives is a copy: a state may be given back once more."""

    name: str
    is_one: Callable[[Any, int], bool]  # of an object, held by so many others
    capture: Callable[[Any, set[int], int], State | None]  # its state: the name first; None if this one has none
    fits: Callable[[Any, State], bool]
    restore: Callable[[Any, State, torch.device], Any]


def _instance(*classes: type) -> Callable[[Any, Any], bool]:
    return lambda value, _: is_a(value, classes)


def _any_place(value: Any, state: State) -> bool:
    return True


def _capture_plain(value: Any, known: set[int], depth: int) -> State:
    return {"plain": value}


def _restore_plain(value: Any, state: State, device: torch.device) -> Any:
    return restored(copy.deepcopy(state["plain"]), value)


def _capture_tensor(value: Tensor, known: set[int], depth: int) -> State | None:
    if value.layout != torch.strided or value.device.type == "meta" or value.is_nested:
        return None
    trained = value.is_leaf and value.requires_grad
    if depth and is_large(value) and not trained:
        return None
    return {"tensor": value.detach(), "device": value.device.type}


def _restore_tensor(value: Any, state: State, device: torch.device) -> Any:
    content = state["tensor"]
    if is_a(value, Tensor) and value.is_leaf and value.requires_grad and value.shape == content.shape:
        with torch.no_grad():
            value.copy_(content)
        return value
    return content.clone() if state["device"] == "cpu" else content.to(device, copy=True)


def _capture_array(value: np.ndarray, known: set[int], depth: int) -> State | None:
    if value.dtype.kind not in "biufc" or (depth and is_large(value)):
        return None
    # As bytes: torch has no unsigned integers of every width.
    return {"array": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}


def _restore_array(value: Any, state: State, device: torch.device) -> Any:
    return np.frombuffer(state["array"], _dtype(state["dtype"])).reshape(state["shape"]).copy()


def _dtype(name: Any) -> np.dtype:
    """Return a type of single numbers by its name in a file, which could ask for much memory with another one."""
    found = np.dtype(name) if isinstance(name, str) and len(name) <= 8 else None
    if found is None or found.kind not in "biufc":
        raise ValueError(f"{name!r} is no type of numbers")
    return found


def _capture_number(value: np.generic, known: set[int], depth: int) -> State | None:
    return {"number": value.tobytes(), "dtype": value.dtype.str} if value.dtype.kind in "biufc" else None


def _restore_number(value: Any, state: State, device: torch.device) -> Any:
    return np.frombuffer(state["number"], state["dtype"])[0]


def _capture_generator(value: torch.Generator, known: set[int], depth: int) -> State:
    return {"generator": value.get_state()}


def _restore_generator(value: torch.Generator, state: State, device: torch.device) -> Any:
    value.set_state(state["generator"].clone())
    return value


def _capture_random(value: random.Random, known: set[int], depth: int) -> State:
    version, words, gauss = value.getstate()
    return {"random": [version, list(words), gauss]}


def _restore_random(value: random.Random, state: State, device: torch.device) -> Any:
    version, words, gauss = state["random"]
    value.setstate((version, tuple(words), gauss))
    return value


def _is_numpy(value: Any, _: Any = None) -> bool:
    # Here, not at the head: NumPy imports its random numbers when they are asked for.
    return is_a(value, (np.random.Generator, np.random.RandomState))


def _capture_numpy(value: Any, known: set[int], depth: int) -> State:
    legacy = is_a(value, np.random.RandomState)
    return {"numpy": _lists(value.get_state(legacy=False) if legacy else value.bit_generator.state)}


def _restore_numpy(value: Any, state: State, device: torch.device) -> Any:
    # NumPy does not look at them, and reads beyond its memory where they are others.
    inner, position = state["numpy"]["state"], state["numpy"].get("buffer_pos", 0)
    if not (0 <= inner.get("pos", 0) <= 624 and 0 <= position <= 4):
        raise ValueError("a position that a generator cannot have")
    if is_a(value, np.random.RandomState):
        value.set_state(_arrays(copy.deepcopy(state["numpy"])))
    else:
        value.bit_generator.state = _arrays(copy.deepcopy(state["numpy"]))
    return value


_COLLECTIONS = (set, collections.deque, collections.defaultdict, collections.OrderedDict, collections.Counter)


def _contents(value: Any) -> list[Any]:
    return list(value.items()) if isinstance(value, dict) else list(value)


def _collection(cls: Any) -> Kind:
    """Return the kind of collections of this class with nothing but plain data in them."""
    name = cls.__name__

    def is_one(value: Any, depth: int) -> bool:
        return type(value) is cls and len(value) <= LARGEST // 10 and is_plain(_contents(value))

    def restore_one(value: Any, state: State, device: torch.device) -> Any:
        parts = copy.deepcopy(state[name])
        if issubclass(cls, dict):
            parts = restored(dict(parts), value)
        value.clear()
        if cls is collections.deque:
            value.extend(parts)
        else:  # a Counter would count the pairs
            value.update(dict(parts) if issubclass(cls, dict) else parts)
        return value

    def capture_one(value: Any, known: set[int], depth: int) -> State:
        return {name: _contents(value)}

    return Kind(name, is_one, capture_one, lambda value, state: type(value) is cls, restore_one)


def _container(name: str, classes: tuple[type, ...], put: Callable[[Any, dict[Any, Any]], Any]) -> Kind:
    """Return the kind of containers of these classes that may hold tensors and records; `put` gives them their parts.

    Their state has a pair for each part, with None for one that has no state.
    """

    def is_one(value: Any, depth: int) -> bool:
        return type(value) in classes and len(value) <= MOST_PARTS and not is_plain(value)

    def capture_parts(value: Any, known: set[int], depth: int) -> State | None:
        known.add(id(value))
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        if not all(type(key) in PLAIN for key, _ in pairs):
            return None
        states = [[key, capture(part, known, depth + 1)] for key, part in pairs]
        return {name: states} if any(state is not None for _, state in states) else None

    def fits_parts(value: Any, state: State) -> bool:
        if name == "queue" and not is_a(value, collections.deque):
            return False
        held = _held(value, name)
        return all(key in held if part is None else fits(held.get(key), part) for key, part in state[name])

    def restore_parts(value: Any, state: State, device: torch.device) -> Any:
        held = _held(value, name)
        parts = {key: held[key] if p is None else restore(held.get(key), p, device) for key, p in state[name]}
        return put(value, parts)

    return Kind(name, is_one, capture_parts, fits_parts, restore_parts)


def _held(value: Any, name: str) -> dict[Any, Any]:
    """Return the parts of a container, by key or position; none of something else."""
    if name == "dict":
        return dict(value) if is_a(value, dict) else {}
    return dict(enumerate(value)) if is_a(value, (list, tuple, collections.deque)) else {}


def _put_dict(value: Any, parts: dict[Any, Any]) -> Any:
    there = value if is_a(value, dict) else {}
    there.clear()
    there.update(parts)
    return there


def _put_list(value: Any, parts: dict[Any, Any]) -> Any:
    if not is_a(value, list):
        return list(parts.values())
    value[:] = parts.values()
    return value


def _put_tuple(value: Any, parts: dict[Any, Any]) -> Any:
    return tuple(parts.values())


def _put_queue(value: Any, parts: dict[Any, Any]) -> Any:
    value.clear()
    value.extend(parts.values())
    return value


def _capture_part(value: Any, known: set[int], depth: int) -> State | None:
    known.add(id(value))
    found = value.state_dict()
    state = dict(found) if is_a(found, Mapping) else None
    return {"part": state} if state is not None and _is_storable(state) else None


def _takes_state(value: Any, state: State) -> bool:
    return has_state(value)


def _restore_part(value: Any, state: State, device: torch.device) -> Any:
    found = copy.deepcopy(state["part"])
    value.load_state_dict(restored(found, value.state_dict()) if is_masked(found) else found)
    return value


def _capture_record(value: Any, known: set[int], depth: int) -> State | None:
    known.add(id(value))
    states = [[name, capture(part, known, depth + 1)] for name, part in _fields(value).items()]
    stored = [pair for pair in states if pair[1] is not None]
    return {"fields": stored, "class": type(value).__qualname__} if stored else None


def _record_fits(value: Any, state: State) -> bool:
    there = type(value).__qualname__ == state["class"]
    # A name in a file may not hide a method.
    named = there and all(not is_method(type(value), name) for name, _ in state["fields"])
    return named and all(fits(_field(value, name), part) for name, part in state["fields"])


def _restore_record(value: Any, state: State, device: torch.device) -> Any:
    own = own_attributes(value)
    for name, part in state["fields"]:
        found = restore(_field(value, name), part, device)
        if own is not None:  # the class may be frozen, or have a property of the name
            own[name] = found
        else:
            object.__setattr__(value, name, found)
    return value


_PLAIN = Kind("plain", lambda value, depth: is_plain(value), _capture_plain, _any_place, _restore_plain)
KINDS = (
    Kind("tensor", _instance(Tensor), _capture_tensor, _any_place, _restore_tensor),
    Kind("array", _instance(np.ndarray), _capture_array, _any_place, _restore_array),
    Kind("number", _instance(np.generic), _capture_number, _any_place, _restore_number),
    Kind("generator", _instance(torch.Generator), _capture_generator, _instance(torch.Generator), _restore_generator),
    Kind(
        "random",
        lambda value, _: type(value) is random.Random,
        _capture_random,
        _instance(random.Random),
        _restore_random,
    ),
    Kind("numpy", _is_numpy, _capture_numpy, _is_numpy, _restore_numpy),
    *map(_collection, _COLLECTIONS),
    _container("list", (list,), _put_list),
    _container("tuple", (tuple,), _put_tuple),
    _container("queue", (collections.deque,), _put_queue),
    _container("dict", (dict, collections.OrderedDict, collections.defaultdict), _put_dict),
    # Not of the trainer itself: those are its components.
    Kind("part", lambda value, depth: depth > 0 and has_state(value), _capture_part, _takes_state, _restore_part),
    Kind("fields", lambda value, _: is_record(value), _capture_record, _record_fits, _restore_record),
)
_KIND_OF = {kind.name: kind for kind in (_PLAIN, *KINDS)}


def without_secrets(states: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    """Return states of `capture`, by the names of their objects, without the texts in them that are secrets."""
    return {name: _without_secrets(state, secrets, name) for name, state in states.items()}


def _without_secrets(state: State | None, secrets: Secrets, name: str) -> State | None:
    if state is None:
        return None
    kind = next(iter(state))
    content = state[kind]
    if kind in ("fields", "dict", "list", "tuple", "queue"):
        named = [(part_name if isinstance(part_name, str) else name, part_name, part) for part_name, part in content]
        return {**state, kind: [[key, _without_secrets(part, secrets, own)] for own, key, part in named]}
    if kind in ("defaultdict", "OrderedDict", "Counter"):
        return {**state, kind: list(masked_state(dict(content), secrets, name).items())}
    return {**state, kind: masked_state(content, secrets, name)} if kind in ("plain", "part", "deque") else state


# ---------------------------------------------------------------- records


def is_record(value: Any) -> bool:
    """Return whether an object is a record: a dataclass or namespace, or of a class that no installed package has."""
    kind: Any = type(value)
    if issubclass(kind, _NO_RECORDS) or has_state(value):
        return False
    if dataclasses.is_dataclass(kind) or issubclass(kind, (SimpleNamespace, argparse.Namespace)):
        return True
    # Neither what works on the class that holds it, nor an iterator.
    if hasattr(kind, "__get__") or issubclass(kind, Iterator) or own_attributes(value) is None:
        return False
    return _is_own_class(kind)


@functools.lru_cache(maxsize=1000)
def _is_own_class(cls: type) -> bool:
    try:
        return not packages.installed(Path(inspect.getfile(cls)).resolve())
    except (TypeError, OSError):
        # A builtin class has no file, one of a notebook neither.
        return cls.__module__ == "__main__"


def _fields(value: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(type(value)):
        return own_attributes(value) or {}
    names = [field.name for field in dataclasses.fields(type(value))]
    chosen = attribute(type(value), "IN_CHECKPOINTS")  # of the base's own
    names = [name for name in names if name in chosen] if is_a(chosen, tuple) else names
    found = {name: attribute(value, name, _NOTHING) for name in names}
    return {name: part for name, part in found.items() if part is not _NOTHING}


def _field(value: Any, name: str) -> Any:
    own = own_attributes(value) or {}
    return own[name] if name in own else attribute(value, name)


_NOTHING = object()  # in place of a field that was not set


# ---------------------------------------------------------------- what has changed


def is_large(value: Any) -> bool:
    """Return whether a value is a tensor or an array with many elements."""
    return (is_a(value, Tensor) and value.numel() > LARGEST) or (is_a(value, np.ndarray) and value.size > LARGEST)


def digest(state: dict[str, Any]) -> Any:
    """Return something that differs, for all practical purposes, once a state of `capture` has changed.

    That of a record has one entry for each field.
    """
    if "fields" in state:
        return {name: digest(part) for name, part in state["fields"]}
    return _content(state, exact=True)


def _content(value: Any, exact: bool = False) -> Any:
    if isinstance(value, Tensor):
        if exact and _has_memory(value) and value.device.type == "cpu":
            # Not by a sum, which is the same for the same numbers in another order.
            flat = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
            return tuple(value.shape), str(value.dtype), hash(flat.numpy().tobytes())
        # Types of one byte have no sum of their own, and integers none of every kind.
        total = value.detach().to(torch.float64 if not value.is_complex() else torch.complex128).sum().item()
        return tuple(value.shape), str(value.dtype), repr(total)
    if isinstance(value, Mapping):
        return [(key, _content(part, exact)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [_content(part, exact) for part in value]
    return hash(value) if isinstance(value, bytes) else repr(value)


def changed(state: dict[str, Any], before: Any) -> dict[str, Any] | None:
    """Return a state without the fields of records that are as in a `digest`, None where nothing is left."""
    if "fields" in state and isinstance(before, dict):
        pairs = [[name, changed(part, before.get(name))] for name, part in state["fields"]]
        pairs = [pair for pair in pairs if pair[1] is not None]
        return {**state, "fields": pairs} if pairs else None
    return None if digest(state) == before else state


def long_containers(value: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield place and mark of every container in an object that has too many parts to be stored."""
    kind = type(value)
    if kind in PLAIN or depth > 3:
        return
    if issubclass(kind, (list, tuple, dict, set, frozenset, collections.deque)):
        if len(value) > MOST_PARTS and not _is_storable_container(value):
            ends = (value[0], value[-1]) if issubclass(kind, (list, tuple, collections.deque)) else ()
            yield where, (len(value), *map(id, ends))
        elif len(value) <= MOST_ASKED and issubclass(kind, (list, tuple, dict)):
            for key, part in list(dict.items(value) if issubclass(kind, dict) else enumerate(value)):
                yield from long_containers(part, f"{where}[{key!r}]", depth + 1)
    elif is_record(value):
        for name, part in _fields(value).items():
            yield from long_containers(part, f"{where}.{name}", depth + 1)


def _is_storable_container(value: Any) -> bool:
    return len(value) <= MOST_PLAIN and is_plain(_contents(value) if type(value) in _COLLECTIONS else value)


def mark(value: Any) -> Any:
    """Return a mark of an object: another one has another, and so has a large tensor or array that was written to."""
    if not is_large(value):
        try:
            return Same(value)  # its number may be that of another object later
        except TypeError:  # lists, say, have no weak references
            return id(value)
    if isinstance(value, Tensor):
        return Same(value), None if value.is_inference() else value._version
    flat = value.reshape(-1)[:: max(1, value.size // 10_000)] if value.flags.c_contiguous else value[:1]
    return Same(value), hash(flat.tobytes())


class Same:
    """Equals another one that was made for the same object, as long as that lives."""

    def __init__(self, value: Any) -> None:
        self.reference = weakref.ref(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.reference() is not None and self.reference() is other.reference()

    __hash__ = None  # type: ignore[assignment]


def fingerprint(module: nn.Module) -> Any:
    """Return something that differs, for all practical purposes, once a module has changed.

    Not by the versions of its tensors: an average is often written to ``parameter.data``, which counts none.
    """
    return _content({name: t for name, t in module.state_dict().items() if isinstance(t, Tensor) and _has_memory(t)})


def is_same_content(one: Any, other: Any) -> bool:
    """Return whether two results of `fingerprint` are of the same weights, also where those were summed elsewhere."""
    return len(one) == len(other) and all(
        name == name_then and mark[:-1] == then[:-1] and _is_close(complex(mark[-1]), complex(then[-1]))
        for (name, mark), (name_then, then) in zip(one, other, strict=True)
    )


def _is_close(total: complex, then: complex) -> bool:
    # Numbers that are not finite are close to themselves only, and NaN not even to itself.
    return repr(total) == repr(then) or cmath.isclose(total, then, rel_tol=1e-6, abs_tol=1e-9)


def _has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is a plain one: not sparse, lazy, on the meta device, or divided among ranks."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_nested
    return plain and tensor.device.type != "meta"


def is_iterator(value: Any) -> bool:
    """Return whether an object is an iterator, whose position nobody can ask for."""
    # A weak reference has the methods of everything.
    return is_a(value, Iterator) and not is_a(value, (io.IOBase, *weakref.ProxyTypes))


# ---------------------------------------------------------------- plain data


def _is_storable(state: Any) -> bool:
    if isinstance(state, (list, tuple)):
        return all(map(_is_storable, state))
    if isinstance(state, dict):
        return all(type(key) in PLAIN and _is_storable(part) for key, part in state.items())
    return isinstance(state, Tensor) or type(state) in PLAIN


def _lists(state: Any) -> Any:
    """Return the state of a bit generator with its arrays as lists."""
    if isinstance(state, dict):
        return {name: _lists(part) for name, part in state.items()}
    return {"words": state.tolist(), "dtype": state.dtype.str} if isinstance(state, np.ndarray) else state


def _arrays(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    if set(state) == {"words", "dtype"}:
        return np.array(state["words"], dtype=_dtype(state["dtype"]))
    return {name: _arrays(part) for name, part in state.items()}
