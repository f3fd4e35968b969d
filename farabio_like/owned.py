"""What a subclass keeps as attributes, and its return: tensors, arrays, collections, generators, records of its own."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import inspect
import io
import itertools
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from . import rundir
from .callbacks.base import Callback
from .config import Config

# Elements; what is larger is taken for data, or a batch, unless it was there before the first batch and has changed.
LARGEST = 1_000_000
MOST_PARTS = 10_000  # of a list or dict that holds more than plain data
MOST_PLAIN = 100_000  # entries of lists and dicts of plain data
DEEPEST = 6

_NO_RECORDS = (Dataset, DataLoader, Sampler, Callback, Config, BaseException, type)


def state_of(value: Any, known: Collection[Any] = (), depth: int = 0) -> dict[str, Any] | None:
    """Return the state of such an object as tensors and plain data, None for anything else.

    Parameters
    ----------
    value : object
    known : collection
        The ids of objects that are stored otherwise, and the marks of large tensors and arrays that have not changed.
    depth : int
        How many objects hold this one.
    """
    if id(value) in known or depth > DEEPEST or (is_large(value) and mark(value) in known):
        return None
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type == "meta":
            return None
        return {"tensor": value.detach(), "device": value.device.type}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            return None
        # As bytes: torch has no unsigned integers of every width.
        return {"array": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, torch.Generator):
        return {"generator": value.get_state()}
    if type(value) is random.Random:
        version, words, gauss = value.getstate()
        return {"random": [version, list(words), gauss]}
    if isinstance(value, np.random.Generator):
        return {"numpy": _plain(value.bit_generator.state)}
    if type(value) in _COLLECTIONS and len(value) <= LARGEST // 10:
        parts = list(value.items()) if isinstance(value, dict) else list(value)
        return {type(value).__name__: parts} if is_plain(parts) else None
    if type(value) in (list, tuple, dict) and len(value) <= MOST_PARTS and not is_plain(value):
        pairs = value.items() if type(value) is dict else enumerate(value)
        states = [[key, _part(part, known, depth + 1)] for key, part in pairs if type(key) in PLAIN]
        return {type(value).__name__: states} if any(state is not None for _, state in states) else None
    if depth and not isinstance(value, type) and has_state(value):
        state = dict(value.state_dict())
        return {"part": state} if _is_storable(state) else None
    if is_record(value):
        states = [[name, _part(part, known, depth + 1)] for name, part in _fields(value).items()]
        stored = [pair for pair in states if pair[1] is not None]
        return {"fields": stored, "class": type(value).__qualname__} if stored else None
    return None


def _part(value: Any, known: Collection[Any], depth: int) -> dict[str, Any] | None:
    return {"plain": value} if is_plain(value) else state_of(value, known, depth)


def has_state(value: Any) -> bool:
    """Return whether an object gives its state and takes it back."""
    return all(callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict"))


def is_record(value: Any) -> bool:
    """Return whether an object is a record: a dataclass or namespace, or of a class that no installed package has."""
    if isinstance(value, _NO_RECORDS) or has_state(value):
        return False
    if dataclasses.is_dataclass(value) or isinstance(value, (SimpleNamespace, argparse.Namespace)):
        return True
    if inspect.isroutine(value) or isinstance(value, Iterator) or not hasattr(value, "__dict__"):
        return False
    try:
        return not rundir.installed(Path(inspect.getfile(type(value))).resolve())
    except (TypeError, OSError):
        # A builtin class has no file, one of a notebook neither.
        return type(value).__module__ == "__main__"


def _fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return vars(value)


def size(state: Any) -> int:
    """Return how many elements a state holds."""
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, dict):
        return sum(map(size, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(size, state))
    return len(state) // 8 if isinstance(state, bytes) else 1


def is_large(value: Any) -> bool:
    """Return whether a value is a tensor or an array with many elements."""
    return (isinstance(value, Tensor) and value.numel() > LARGEST) or (
        isinstance(value, np.ndarray) and value.size > LARGEST
    )


def large_parts(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the large tensors and arrays that an object holds, except what is trained."""
    if is_large(value):
        if not (isinstance(value, Tensor) and value.requires_grad):
            yield value
    elif depth <= DEEPEST and (type(value) in (list, tuple, dict) or is_record(value)):
        parts = (
            value.values()
            if type(value) is dict
            else value
            if type(value) in (list, tuple)
            else _fields(value).values()
        )
        for part in itertools.islice(parts, MOST_PARTS):
            yield from large_parts(part, depth + 1)


def mark(value: Any, room: list[int] | None = None) -> Any:
    """Return something that differs, for all practical purposes, once a value has changed.

    Parameters
    ----------
    value : object
    room : list of int, optional
        How many parts are still looked at.
    """
    room = [MOST_PARTS] if room is None else room
    room[0] -= 1
    if isinstance(value, Tensor):
        if not _has_memory(value):
            return id(value)
        return value.data_ptr(), tuple(value.shape), None if value.is_inference() else value._version
    if isinstance(value, nn.Module):
        # By their content: an average is often written to `parameter.data`, which counts no versions.
        tensors = [
            tensor for tensor in value.state_dict().values() if isinstance(tensor, Tensor) and _has_memory(tensor)
        ]
        # Types of one byte have no sum of their own.
        return [(mark(t), (t if t.dtype.itemsize > 1 else t.float()).sum().item()) for t in tensors]
    if isinstance(value, np.ndarray):
        content = value.sum().item() if is_large(value) and value.dtype.kind in "biufc" else hash(value.tobytes())
        return value.ctypes.data, value.shape, content
    if type(value) in PLAIN:
        return value
    if room[0] <= 0:
        return type(value).__qualname__
    if type(value) in (list, tuple, dict, *_COLLECTIONS):
        parts = value.items() if isinstance(value, dict) else value
        return len(value), [mark(part, room) for part in itertools.islice(parts, room[0])]
    if isinstance(value, _NO_RECORDS) or inspect.isroutine(value) or not hasattr(value, "__dict__"):
        return type(value).__qualname__
    return [(name, mark(part, room)) for name, part in list(vars(value).items())]


def _has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is a plain one: not sparse, lazy, on the meta device, or divided among ranks."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and tensor.device.type != "meta"


def is_iterator(value: Any) -> bool:
    """Return whether an object is an iterator, whose position nobody can ask for."""
    return isinstance(value, Iterator) and not isinstance(value, io.IOBase)


def restored(value: Any, state: dict[str, Any], device: torch.device) -> Any:
    """Return `value` with a state of `state_of`; what an optimizer or a loader may hold is changed in place."""
    kind, content = next(iter(state.items()))
    if kind == "tensor":
        if isinstance(value, Tensor) and value.is_leaf and value.requires_grad and value.shape == content.shape:
            with torch.no_grad():
                value.copy_(content)
            return value
        return content.clone() if state["device"] == "cpu" else content.to(device)
    if kind == "array":
        return np.frombuffer(content, state["dtype"]).reshape(state["shape"]).copy()
    if kind == "generator" and isinstance(value, torch.Generator):
        value.set_state(content)
    elif kind == "random" and isinstance(value, random.Random):
        value.setstate((content[0], tuple(content[1]), content[2]))
    elif kind == "numpy" and isinstance(value, np.random.Generator):
        value.bit_generator.state = _arrays(content)
    elif type(value).__name__ == kind and type(value) in _COLLECTIONS:
        value.clear()
        (value.extend if isinstance(value, collections.deque) else value.update)(content)
    elif kind == "plain":
        return content
    elif kind == "dict":
        there = value if isinstance(value, dict) else {}
        held = dict(there)
        there.clear()
        there.update(_parts_restored(held, content, device))
        return there
    elif kind in ("list", "tuple"):
        old = value if isinstance(value, (list, tuple)) else ()
        parts = list(_parts_restored(dict(enumerate(old)), content, device).values())
        if kind == "list" and isinstance(value, list):
            value[:] = parts
            return value
        return parts if kind == "list" else tuple(parts)
    elif kind == "part" and has_state(value):
        value.load_state_dict(copy.deepcopy(content))
    elif kind == "fields" and type(value).__qualname__ == state["class"]:
        for name, part in content:
            # Not setattr: the class may be frozen.
            object.__setattr__(value, name, restored(getattr(value, name, None), part, device))
    return value


def _parts_restored(held: dict[Any, Any], content: list[Any], device: torch.device) -> dict[Any, Any]:
    """Return the parts of a container; those that had no state stay what they are now."""
    return {key: held.get(key) if part is None else restored(held.get(key), part, device) for key, part in content}


_COLLECTIONS = (set, collections.deque, collections.defaultdict, collections.OrderedDict, collections.Counter)


PLAIN = (type(None), bool, int, float, complex, str, bytes)


def is_plain(value: Any, room: list[int] | None = None) -> bool:
    """Return whether a value is plain data, of no more than so many parts."""
    room = [MOST_PLAIN] if room is None else room
    room[0] -= 1
    if type(value) in (list, tuple):
        return room[0] > 0 and all(is_plain(part, room) for part in value)
    if type(value) is dict:
        return room[0] > 0 and all(type(key) in PLAIN and is_plain(part, room) for key, part in value.items())
    return room[0] > 0 and type(value) in PLAIN


def _is_storable(state: Any) -> bool:
    if isinstance(state, (list, tuple)):
        return all(map(_is_storable, state))
    if isinstance(state, dict):
        return all(type(key) in PLAIN and _is_storable(part) for key, part in state.items())
    return isinstance(state, Tensor) or type(state) in PLAIN


def _plain(state: Any) -> Any:
    """Return the state of a bit generator with its arrays as lists."""
    if isinstance(state, dict):
        return {name: _plain(part) for name, part in state.items()}
    return {"words": state.tolist(), "dtype": state.dtype.str} if isinstance(state, np.ndarray) else state


def _arrays(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    if set(state) == {"words", "dtype"}:
        return np.array(state["words"], dtype=state["dtype"])
    return {name: _arrays(part) for name, part in state.items()}
