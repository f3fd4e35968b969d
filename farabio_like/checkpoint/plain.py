"""Plain data: what a checkpoint, a configuration and ``metrics.jsonl`` may hold, and how other things become it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

MOST_PLAIN = 100_000  # entries of lists and dicts of plain data
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


def plain_data(value: Any, where: str) -> Any:
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
    if kind in PLAIN:
        return value
    if kind is dict or isinstance(value, Mapping):
        return {
            key if type(key) in PLAIN else _plain(key): part if type(part) in PLAIN else _plain(part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        parts = [part if type(part) in PLAIN else _plain(part) for part in value]
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
    return value if type(value) in PLAIN else repr(value)


def written(value: Any, number: Callable[[float], Any] = float) -> Any:
    """Return a copy as plain data of a text file: None, booleans, numbers, strings, lists, and dicts by strings.

    Anything else appears as its ``repr``.

    Parameters
    ----------
    value : object
    number : callable, optional
        What takes the place of a float.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of an enum, say, what it is and not what it prints
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): written(part, number) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [written(part, number) for part in value]
    return repr(value)


def finite(value: Any) -> Any:
    """Return plain data for JSON; NaN and infinities become ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    return written(value, _finite)


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
