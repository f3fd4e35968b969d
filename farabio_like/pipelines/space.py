"""What a search tries: ranges in a configuration, or the cells of a grid, each as overrides of the configuration.

Which values are tried when is in `study`; nothing here knows Optuna.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import overrides as config_overrides
from ..config import yaml_text
from ..config.places import Places
from ..errors import ConfigError, closest
from . import grid
from .grid import Cell
from .source import Source

KEYS = ("low", "high", "log", "step", "choices")
GRID = "--grid"
LONGEST_SLUG = 48  # characters in front of the digits that make it the only one of its name


@dataclass(frozen=True)
class Range:
    """The values that a key may have.

    Attributes
    ----------
    key : str
        Dotted path in the configuration.
    where : str
        File and line.
    low, high : int, float or None
        Both belong to it. Whole numbers are tried where both, and the step, are whole.
    log : bool
        Whether the logarithm is what is spread evenly.
    step : int, float or None
    choices : tuple
        In place of low and high: the values one by one.
    """

    key: str
    where: str
    low: Any = None
    high: Any = None
    log: bool = False
    step: Any = None
    choices: tuple[Any, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are tried."""
        return all(type(each) is int for each in (self.low, self.high, 1 if self.step is None else self.step))

    def examples(self) -> tuple[Any, ...]:
        """Return the values at its ends: with them a configuration is checked."""
        return self.choices or (self.low, self.high)


def find_ranges(value: Any, places: Places, *path: Any) -> list[Range]:
    """Return the ranges in a configuration: dicts with ``low`` and ``high``, or with ``choices``, and no ``class``.

    Raises
    ------
    ConfigError
        With file and line, for a range that is none.
    """
    if isinstance(value, list):
        return [found for index, part in enumerate(value) for found in find_ranges(part, places, *path, index)]
    if not isinstance(value, dict):
        return []
    if path and "class" not in value and value.keys() & {"low", "high", "choices"}:
        return [_range(value, places, path)]
    return [found for key, part in value.items() for found in find_ranges(part, places, *path, key)]


def _range(value: Mapping[str, Any], places: Places, path: tuple[Any, ...]) -> Range:
    name, where = ".".join(map(str, path)), places.of(*path)
    example = f"Write {path[-1]}: {{low: 1e-5, high: 1e-1, log: true}}, or {path[-1]}: {{choices: [8, 16]}}."
    for key in value:
        if key not in KEYS:
            said = f"the range {name} has {key!r}.{closest(str(key), KEYS)} There are: {', '.join(KEYS)}."
            raise ConfigError(f"{places.of(*path, key)}: {said}")
    if "choices" in value:
        choices = value["choices"]
        if len(value) > 1 or not isinstance(choices, list) or not choices:
            raise ConfigError(
                f"{where}: the range {name} has choices: a list of them, and nothing beside it. {example}"
            )
        texts = [written(choice, where) for choice in choices]
        if len(set(texts)) < len(texts):
            raise ConfigError(f"{where}: the range {name} has one of its choices twice: {', '.join(texts)}.")
        return Range(name, where, choices=tuple(choices))
    low: Any = value.get("low")
    high: Any = value.get("high")
    step, log = value.get("step"), value.get("log", False)
    for key, number in (("low", low), ("high", high), *((("step", step),) if "step" in value else ())):
        if not _is_number(number):
            said = f"{key} is {number!r}" if key in value else f"{key} is missing"
            raise ConfigError(f"{places.of(*path, key)}: of the range {name}, {said}; expected a number. {example}")
    if type(log) is not bool:
        raise ConfigError(f"{places.of(*path, 'log')}: log of the range {name} is {log!r}; expected true or false.")
    if low >= high:
        raise ConfigError(f"{where}: the range {name} has low {low} and high {high}; low has to be the smaller one.")
    if log and low <= 0:
        raise ConfigError(f"{where}: the range {name} has log: true and low {low}; a logarithm needs more than 0.")
    if log and step is not None:
        raise ConfigError(f"{where}: the range {name} has log: true and a step; expected one of them.")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{where}: the range {name} has step {step}; expected more than 0, {high - low} at most.")
    return Range(name, where, low, high, log, step)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def grid_cells(texts: Sequence[str], file: Path) -> list[Cell]:
    """Return the cells of a grid as a command line has it.

    Parameters
    ----------
    texts : sequence of str
        A row each: ``config.lr=0.1,0.01``, ``config.depth=1-3``, or ``[{config.lr: 0.1, config.depth: 2}]``.
    file : pathlib.Path
        The configuration; files that a row names are beside it.
    """
    source = Source(file, {}, {(GRID,): 0})
    return grid.cells([_row(text) for text in texts], source, GRID)


def _row(text: str) -> Any:
    key, equals, values = text.partition("=")
    try:
        if text[:1] == "[":
            return yaml_text.parse(text)[0]
        if not equals or not key:
            raise ConfigError("expected a key with its values, as in config.lr=0.1,0.01")
        if values[:1] not in ("[", "{", '"', "'") and "," in values:
            values = f"[{values}]"
        value = yaml_text.parse(values)[0]
        return {key: value if value is None or isinstance(value, (list, str)) else [value]}
    except ConfigError as error:
        raise ConfigError(f"{GRID} {text!r}: {str(error).removeprefix('line 1: ').rstrip('.')}.") from None


def written(value: Any, where: str) -> str:
    """Return a value as an override has it, which is YAML and JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{where}: {value!r} cannot be tried; expected text, finite numbers, lists and dicts."
        ) from None


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return values by dotted key as overrides."""
    return [f"{key}={written(value, GRID)}" for key, value in values.items()]


def to_set(configuration: Mapping[str, Any], name: str, value: Any) -> str:
    """Return the override that gives a setting a value, whether it is there or not."""
    settings = configuration.get("settings")
    there = isinstance(settings, dict) and name in settings
    return f"{'' if there else '+'}settings.{name}={written(value, name)}"


def without(configuration: Any, keys: Sequence[str], places: Places) -> Any:
    """Return a configuration with values that are tried marked as such, so that they are not compared."""
    found = json.loads(json.dumps(configuration, default=str))
    config_overrides.apply(found, [f"{key}=tried" for key in keys], places)
    return found


def slug(values: Mapping[str, Any], rest: Any) -> str:
    """Return the name of the run folder of a set of values: what can be read of them, and digits of all.

    Parameters
    ----------
    values : mapping
        By dotted key.
    rest : plain data
        The rest of what makes a run another one.
    """
    shown = {key: f"{value:.4g}" if type(value) is float else grid.shown(value) for key, value in values.items()}
    pairs = (f"{key.rpartition('.')[2]}-{text}" for key, text in shown.items())
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", "_".join(pairs)).strip("_.-")[:LONGEST_SLUG]
    text = json.dumps([dict(values), rest], sort_keys=True, default=str)
    return f"{readable or 'trial'}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def differences(before: Any, now: Any) -> list[str]:
    """Return what is different in two configurations, a line for each value."""
    was, there = _flat(before), _flat(now)
    lines = []
    for key in dict.fromkeys([*was, *there]):
        if key not in there:
            lines.append(f"{key} was {was[key]}, is gone")
        elif key not in was:
            lines.append(f"{key} is {there[key]}, was not there")
        elif was[key] != there[key]:
            lines.append(f"{key} was {was[key]}, is {there[key]}")
    return lines


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, (dict, list)) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in parts for k, v in _flat(part, f"{prefix}{key}.").items()}
    return {prefix[:-1]: grid.shown(value)}
