"""Tensors, arrays, collections and generators that a subclass keeps as attributes: their state, and its return."""

from __future__ import annotations

import collections
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST = 1_000_000  # elements; a larger tensor of a subclass is data or a batch, unless it is trained


def state_of(value: Any) -> dict[str, Any] | None:
    """Return the state of such an object as tensors and plain data, None for anything else.

    A tensor is copied where it could change before it is written; one that is trained is stored whatever its size.
    """
    if isinstance(value, Tensor):
        small = value.numel() <= LARGEST and value.layout == torch.strided
        trained = value.is_leaf and value.requires_grad
        return {"tensor": value.detach().clone(), "device": value.device.type} if small or trained else None
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc" or value.size > LARGEST:
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
        return {type(value).__name__: parts} if _is_plain(parts) else None
    return None


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
    return value


_COLLECTIONS = (set, collections.deque, collections.defaultdict, collections.OrderedDict, collections.Counter)


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(_is_plain(part) for part in value)
    if type(value) is dict:
        return all(_is_plain(part) for pair in value.items() for part in pair)
    return type(value) in (type(None), bool, int, float, complex, str, bytes)


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
