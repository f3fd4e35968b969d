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
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import packages
from ..callbacks.base import Callback
from ..config.config import Config
from .plain import PLAIN, is_plain

LARGEST = 1_000_000  # elements; a larger tensor or array is taken for data, see `resume.attributes`
MOST_PARTS = 10_000  # of a list or dict that holds more than plain data
DEEPEST = 6
_NO_RECORDS = (Dataset, DataLoader, Sampler, Callback, Config, BaseException, type)


def capture(value: Any, known: set[int] | None = None, depth: int = 0) -> dict[str, Any] | None:
    """Return the state of such an object as tensors and plain data, None for anything else.

    Parameters
    ----------
    value : object
    known : set of int
        The ids of objects that are stored otherwise, and of those that were met before: each is stored once.
    depth : int
        How many objects hold this one; large tensors and arrays have a state only where none does.
    """
    known = set() if known is None else known
    if id(value) in known or depth > DEEPEST:
        return None
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type == "meta" or value.is_nested:
            return None
        trained = value.is_leaf and value.requires_grad
        if depth and is_large(value) and not trained:
            return None
        return {"tensor": value.detach(), "device": value.device.type}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc" or (depth and is_large(value)):
            return None
        # As bytes: torch has no unsigned integers of every width.
        return {"array": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, torch.Generator):
        return {"generator": value.get_state()}
    if type(value) is random.Random:
        version, words, gauss = value.getstate()
        return {"random": [version, list(words), gauss]}
    if isinstance(value, np.random.Generator):
        return {"numpy": _lists(value.bit_generator.state)}
    if isinstance(value, np.random.RandomState):
        return {"numpy": _lists(value.get_state(legacy=False))}
    if type(value) in _COLLECTIONS and len(value) <= LARGEST // 10:
        parts = list(value.items()) if isinstance(value, dict) else list(value)
        if is_plain(parts):
            return {type(value).__name__: parts}
    if type(value) in _CONTAINERS and len(value) <= MOST_PARTS and not is_plain(value):
        known.add(id(value))
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
        if not all(type(key) in PLAIN for key, _ in pairs):
            return None
        states = [[key, _part(part, known, depth + 1)] for key, part in pairs]
        return {_CONTAINERS[type(value)]: states} if any(state is not None for _, state in states) else None
    if depth and not isinstance(value, type) and has_state(value):
        known.add(id(value))
        state = dict(value.state_dict())
        return {"part": state} if _is_storable(state) else None
    if is_record(value):
        known.add(id(value))
        states = [[name, _part(part, known, depth + 1)] for name, part in _fields(value).items()]
        stored = [pair for pair in states if pair[1] is not None]
        return {"fields": stored, "class": type(value).__qualname__} if stored else None
    return None


def _part(value: Any, known: set[int], depth: int) -> dict[str, Any] | None:
    return {"plain": value} if is_plain(value) else capture(value, known, depth)


def has_state(value: Any) -> bool:
    """Return whether an object gives its state and takes it back."""
    try:
        return all(callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict"))
    except Exception:  # of a __getattr__ of the user's, a KeyError say
        return False


def is_record(value: Any) -> bool:
    """Return whether an object is a record: a dataclass or namespace, or of a class that no installed package has."""
    if isinstance(value, _NO_RECORDS) or has_state(value):
        return False
    if dataclasses.is_dataclass(value) or isinstance(value, (SimpleNamespace, argparse.Namespace)):
        return True
    if inspect.isroutine(value) or isinstance(value, Iterator) or type(getattr(value, "__dict__", None)) is not dict:
        return False
    return _is_own_class(type(value))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1000)
def _is_own_class(cls: type) -> bool:
    try:
        return not packages.installed(Path(inspect.getfile(cls)).resolve())
    except (TypeError, OSError):
        # A builtin class has no file, one of a notebook neither.
        return cls.__module__ == "__main__"


def _fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    return vars(value)


def is_large(value: Any) -> bool:
    """Return whether a value is a tensor or an array with many elements."""
    return (isinstance(value, Tensor) and value.numel() > LARGEST) or (
        isinstance(value, np.ndarray) and value.size > LARGEST
    )


def digest(state: dict[str, Any]) -> Any:
    """Return something that differs, for all practical purposes, once a state of `capture` has changed.

    That of a record has one entry for each field.
    """
    if "fields" in state:
        return {name: digest(part) for name, part in state["fields"]}
    return _content(state)


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        # Types of one byte have no sum of their own, and integers none of every kind.
        total = value.detach().to(torch.float64 if not value.is_complex() else torch.complex128).sum().item()
        return tuple(value.shape), str(value.dtype), repr(total)
    if isinstance(value, Mapping):
        return [(key, _content(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [_content(part) for part in value]
    return hash(value) if isinstance(value, bytes) else repr(value)


def changed(state: dict[str, Any], before: Any) -> dict[str, Any] | None:
    """Return a state without the fields of records that are as in a `digest`, None where nothing is left."""
    if "fields" in state and isinstance(before, dict):
        pairs = [[name, changed(part, before.get(name))] for name, part in state["fields"]]
        pairs = [pair for pair in pairs if pair[1] is not None]
        return {**state, "fields": pairs} if pairs else None
    return None if digest(state) == before else state


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
    return isinstance(value, Iterator) and not isinstance(value, io.IOBase)


def fits(value: Any, state: dict[str, Any]) -> bool:
    """Return whether all of a state can be given to an object as it was built: see `restore`."""
    kind, content = next(iter(state.items()))
    if kind in ("tensor", "array", "plain"):
        return True
    if kind in ("dict", "list", "tuple", "queue"):
        if kind == "queue" and not isinstance(value, collections.deque):
            return False
        held = _held(value, kind)
        return all(key in held if part is None else fits(held.get(key), part) for key, part in content)
    if kind == "fields":
        there = type(value).__qualname__ == state["class"]
        return there and all(fits(getattr(value, name, None), part) for name, part in content)
    if kind == "part":
        return has_state(value)
    if kind == "generator":
        return isinstance(value, torch.Generator)
    if kind == "random":
        return isinstance(value, random.Random)
    if kind == "numpy":
        return isinstance(value, (np.random.Generator, np.random.RandomState))
    return type(value).__name__ == kind and type(value) in _COLLECTIONS


def restore(value: Any, state: dict[str, Any], device: torch.device) -> Any:
    """Return `value` with a state that `fits` it; what an optimizer or a loader may hold is changed in place."""
    kind, content = next(iter(state.items()))
    if kind == "tensor":
        if isinstance(value, Tensor) and value.is_leaf and value.requires_grad and value.shape == content.shape:
            with torch.no_grad():
                value.copy_(content)
            return value
        return content.clone() if state["device"] == "cpu" else content.to(device)
    if kind == "array":
        return np.frombuffer(content, state["dtype"]).reshape(state["shape"]).copy()
    content = copy.deepcopy(content)  # what is read may be given back once more
    if kind == "generator":
        value.set_state(content)
    elif kind == "random":
        value.setstate((content[0], tuple(content[1]), content[2]))
    elif kind == "numpy":
        if isinstance(value, np.random.RandomState):
            value.set_state(_arrays(content))
        else:
            value.bit_generator.state = _arrays(content)
    elif kind == "plain":
        return content
    elif kind in ("dict", "list", "tuple", "queue"):
        held = _held(value, kind)
        parts = {k: held[k] if part is None else restore(held.get(k), part, device) for k, part in content}
        if kind == "dict":
            there = value if isinstance(value, dict) else {}
            there.clear()
            there.update(parts)
            return there
        if kind == "queue":
            value.clear()
            value.extend(parts.values())
            return value
        if kind == "list" and isinstance(value, list):
            value[:] = parts.values()
            return value
        return list(parts.values()) if kind == "list" else tuple(parts.values())
    elif kind == "part":
        value.load_state_dict(content)
    elif kind == "fields":
        for name, part in content:
            found = restore(getattr(value, name, None), part, device)
            if hasattr(value, "__dict__"):  # the class may be frozen, or have a property of the name
                vars(value)[name] = found
            else:
                object.__setattr__(value, name, found)
    else:
        value.clear()
        (value.extend if isinstance(value, collections.deque) else value.update)(content)
    return value


def _held(value: Any, kind: str) -> dict[Any, Any]:
    """Return the parts of a container, by key or position; none of something else."""
    if kind == "dict":
        return dict(value) if isinstance(value, dict) else {}
    return dict(enumerate(value)) if isinstance(value, (list, tuple, collections.deque)) else {}


_COLLECTIONS = (set, collections.deque, collections.defaultdict, collections.OrderedDict, collections.Counter)
# Those that may hold tensors and records, and the kinds of their states.
_CONTAINERS: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    collections.deque: "queue",
    **dict.fromkeys((dict, collections.OrderedDict, collections.defaultdict), "dict"),
}


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
        return np.array(state["words"], dtype=state["dtype"])
    return {name: _arrays(part) for name, part in state.items()}
