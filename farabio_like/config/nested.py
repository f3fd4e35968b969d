"""`get` and `put`: values deep inside dicts and lists, by their keys. No file is read here."""

from __future__ import annotations

import operator
from collections.abc import Mapping, MutableMapping
from typing import Any

from ..errors import ConfigError

MOST_PADDING = 1000  # entries that `put` makes in front of a new one


def get(config: Any, *keys: Any, default: Any = None) -> Any:
    """Return the value under some keys, or `default` where there is none, whatever stands in its place.

    Parameters
    ----------
    config : dict, list, tuple or Config
        Dicts and lists in one another.
    *keys
        Keys of dicts, indices of lists from 0 on. A negative index finds nothing.
    default : Any
        For a missing key, an index past the end, a key of a list, anything inside of what is no container; and for
        None, which counts as missing.

    Returns
    -------
    Any

    Examples
    --------
    >>> get({"stages": [{"lr": 0.1}]}, "stages", 0, "lr")
    0.1
    >>> get({"stages": []}, "stages", 0, "lr", default=1e-3)
    0.001
    """
    value = config
    for key in keys:
        try:
            value = value[_place(value, key)]
        except Exception:  # whatever a key raises that is compared or hashed
            return default
    return default if value is None else value


def put(config: Any, *keys: Any, value: Any, force: bool = False) -> Any:
    """Set the value under some keys, in place, and return the container.

    Missing dicts and lists are made: a list for an index, a dict for any other key. Lists are padded with None. None
    counts as missing. Where it fails nothing is changed.

    Parameters
    ----------
    config : dict, list or Config
    *keys
    value : Any
    force : bool
        Replace what stands in the way and is no container, or the wrong one.

    Returns
    -------
    dict, list or Config
        `config`.

    Raises
    ------
    ConfigError
        For no keys, a value in the way, a key that is no index of a list, a negative index, and an index more than
        1,000 past the end.

    Examples
    --------
    >>> put({}, "stages", 1, "lr", value=0.1)
    {'stages': [None, {'lr': 0.1}]}
    """
    if not keys:
        raise ConfigError("put() got no keys. Write put(config, 'model', 'width', value=32).")
    holder, depth = config, 0
    _check_place(holder, keys, 0)
    while depth < len(keys) - 1:
        below = get(holder, keys[depth])
        if below is None or (force and not _fits(below, keys[depth + 1])):
            break
        holder, depth = below, depth + 1
        _check_place(holder, keys, depth)
    for place in range(len(keys) - 1, depth, -1):
        made: Any = [] if _is_index(keys[place]) else {}
        _check_place(made, keys, place)
        _set(made, keys[place], value)
        value = made
    _set(holder, keys[depth], value)
    return config


def _place(container: Any, key: Any) -> Any:
    """Return the key or index of what is there; raise LookupError where nothing is."""
    if isinstance(container, Mapping):
        if key in container:  # not by reading it: a defaultdict would make it
            return key
    elif isinstance(container, (list, tuple)) and _is_index(key) and 0 <= (index := operator.index(key)):
        return index
    raise LookupError


def _is_index(key: Any) -> bool:
    return not isinstance(key, bool) and hasattr(key, "__index__")


def _fits(container: Any, key: Any) -> bool:
    return isinstance(container, MutableMapping) or (isinstance(container, list) and _is_index(key))


def _check_place(holder: Any, keys: tuple[Any, ...], depth: int) -> None:
    """Raise a ConfigError where nothing can be set in a container under the key of a depth."""
    key, where = keys[depth], "".join(f"[{each!r}]" for each in keys[:depth]) or "the container"
    if isinstance(holder, MutableMapping) or hasattr(holder, "to_dict"):
        return
    if not isinstance(holder, list):
        force = "" if depth == 0 else " To replace it: force=True."
        raise ConfigError(f"put() at {keys!r}: {where} is {holder!r}, no dict and no list.{force}")
    if not _is_index(key):
        force = "" if depth == 0 else " To replace the list by a dict: force=True."
        raise ConfigError(f"put() at {keys!r}: {where} is a list, and {key!r} is no index.{force}")
    index = operator.index(key)
    if index < 0:
        raise ConfigError(f"put() at {keys!r}: the index {index} is negative; expected 0 or more.")
    if index - len(holder) > MOST_PADDING:
        raise ConfigError(
            f"put() at {keys!r}: the index {index} is more than {MOST_PADDING} past the end of {where}, which has "
            f"{len(holder)} entries."
        )


def _set(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, list):
        index = operator.index(key)
        holder.extend([None] * (index + 1 - len(holder)))
        holder[index] = value
    else:
        holder[key] = value
