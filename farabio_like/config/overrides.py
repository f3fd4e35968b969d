"""Overrides of a configuration, as a command line has them: ``lr=0.1``, ``+seed=3``, ``~scheduler``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, closest
from . import yaml_text
from .places import Places
from .secrets import Secrets

_FORM = re.compile(r"(?P<sign>[+~]?)(?P<key>[^=]*)(?P<equals>=?)(?P<value>.*)", re.DOTALL)


def apply(config: Any, overrides: Sequence[str], places: Places) -> None:
    """Change a configuration in place, one override after another.

    Parameters
    ----------
    config : dict or list
    overrides : sequence of str
        ``key=value`` changes what is there, ``+key=value`` adds, ``~key`` deletes. A key is a dotted path, in which a
        number is the index in a list. The value is a word as in YAML, text, or a list or dict in YAML's own form.
    places : Places
        Gets the places of what is changed.

    Raises
    ------
    ConfigError
        For a key that is not there, with the closest one that is, or one that is there and was to be added.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r} is a string; expected a list of them: [{overrides!r}].")
    for text in overrides:
        where = f"override {Secrets().text(str(text))!r}"
        try:
            _apply(config, text, where, places)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def _apply(config: Any, text: str, where: str, places: Places) -> None:
    form = _FORM.fullmatch(str(text))
    assert form is not None
    sign, path = form["sign"], form["key"].split(".")
    if not all(path) or (sign == "~") == bool(form["equals"]):
        raise ConfigError("expected key=value, +key=value or ~key, as in settings.num_epochs=3.")
    holder, keys = config, []
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        key = _key(holder, part, path[:depth])
        keys.append(key)
        there = key in holder if isinstance(holder, dict) else key < len(holder)
        if not there and sign != "+":
            raise ConfigError(_unknown(holder, path, depth, sign))
        if last:
            break
        if not there or holder[key] is None:
            if isinstance(holder, list) and key == len(holder):
                holder.append(None)
            holder[key] = {}
        holder = holder[key]
    if sign == "+" and there:
        raise ConfigError(f"{'.'.join(path)} is there already. To change it: {text[1:]}")
    if sign == "~":
        del holder[key]
        places.forget(tuple(keys), shifted=isinstance(holder, list))
        return
    value = _value(form["value"])
    if isinstance(holder, list) and key == len(holder):
        holder.append(value)
    else:
        holder[key] = value
    places.put(tuple(keys), where)


def _key(holder: Any, part: str, before: list[str]) -> Any:
    """Return a part of a path as a key of a dict or an index of a list."""
    if isinstance(holder, dict):
        return int(part) if part not in holder and part.isdecimal() and int(part) in holder else part
    name = ".".join(before) or "the configuration"
    if not isinstance(holder, list):
        raise ConfigError(f"{name} is {holder!r}, which holds no {part!r}.")
    if not (part.isascii() and part.isdecimal()) or int(part) > len(holder):
        raise ConfigError(f"{name} is a list of {len(holder)}, which has no {part!r}; expected an index from 0 on.")
    return int(part)


def _unknown(holder: Any, path: list[str], depth: int, sign: str) -> str:
    name = ".".join(path[: depth + 1])
    before = "".join(f"{part}." for part in path[:depth])
    there = [before + str(key) for key in (holder if isinstance(holder, dict) else range(len(holder)))]
    add = "" if sign == "~" else f" To add it: +{'.'.join(path)}=..."
    return f"there is no {name}.{closest(name, there)}{add}"


def _value(text: str) -> Any:
    """Return the value of an override: text unless it is a word with a meaning, or a list, dict or string of YAML."""
    if text[:1] in ("[", "{", '"', "'"):
        return yaml_text.parse(text)[0]
    if not text:
        return ""
    try:
        return yaml_text.scalar(text)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
