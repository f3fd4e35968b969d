"""JSON as plain data with the line of every value; a key that is there twice is a mistake."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ..errors import ConfigError
from .yaml_text import DEEPEST, LARGEST, Path

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,\n]|[^\s{}\[\]:,"]+')


def parse(text: str) -> tuple[Any, dict[Path, int]]:
    """Return what a text says, and the line of every value by its path.

    Raises
    ------
    ConfigError
        With the line, for what is no JSON, a key that is there twice, and too many lists and dicts in one another.
    """
    if len(text) > LARGEST:
        raise ConfigError(f"it has more than {LARGEST} characters")
    if not text.strip():
        return None, {(): 1}
    deep = ConfigError(f"more than {DEEPEST} lists and dicts in one another")
    try:
        value = json.loads(text, parse_float=_float)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}: {error.msg}, in column {error.colno}") from None
    except RecursionError:
        raise deep from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(str(error)) from None
    return value, _lines(text, deep)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _lines(text: str, deep: ConfigError) -> dict[Path, int]:
    """Return the line of every value by its path, of a text that is JSON."""
    lines: dict[Path, int] = {}
    path: list[Any] = []
    seen: list[dict[str, int]] = []  # keys of the dicts around; of a list none
    line, key = 1, False  # whether a string is a key
    for token in map(re.Match.group, _TOKEN.finditer(text)):
        if token == "\n":
            line += 1
        elif token in "}]":
            seen.pop()
            path.pop()
            key = False
        elif token == ":":
            key = False
        elif token == ",":
            key = isinstance(path[-1], str) or path[-1] is None
            path[-1] = path[-1] if key else path[-1] + 1
        elif key:
            path[-1] = json.loads(token)
            if path[-1] in seen[-1]:
                raise ConfigError(f"line {line}: the key {path[-1]!r} is there already, in line {seen[-1][path[-1]]}")
            seen[-1][path[-1]] = line
        else:
            lines[tuple(path)] = line
            if token in "{[":
                if len(path) >= DEEPEST:
                    raise deep
                seen.append({})
                path.append(None if token == "{" else 0)
                key = token == "{"
    return lines
