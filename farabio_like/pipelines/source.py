"""YAML whose values know their lines, so that an error can name the place.

What the keys of a pipeline mean is in `dagfile`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, closest

Path_ = tuple[str | int, ...]

MOST_PARTS = 300_000  # keys and values; aliases could ask for a great many
DEEPEST = 100
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # a number in YAML 1.2, a string in 1.1


@dataclass
class Source:
    """The values of a YAML file and the lines where they stand.

    Attributes
    ----------
    path : Path
    values : dict
        Plain data; keys are strings.
    lines : dict of tuple to int
        Line by path, as in ``("executors", "train", "gpu")``.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)

    def where(self, *path: str | int) -> str:
        """Return ``file:line`` of a value, of what it is in where it has no line itself."""
        while path not in self.lines and path:
            path = path[:-1]
        line = self.lines.get(path, 1)
        return f"{self.path}:{line}" if line else "on the command line"

    def error(self, text: str, *path: str | int) -> ConfigError:
        """Return the error that something is wrong with the value at a path."""
        return ConfigError(f"{self.where(*path)}: {text}")

    def check_keys(self, values: dict[str, Any], allowed: Sequence[str], what: str, *path: str | int) -> None:
        """Raise a ConfigError for the first key that is not among those allowed."""
        for key in values:
            if key not in allowed:
                near = closest(key, allowed)
                raise self.error(f"{what} has no key '{key}'.{near} There are: {', '.join(allowed)}.", *path, key)


def read(path: str | Path, overrides: Sequence[str] = ()) -> Source:
    """Return what a YAML file says, with values replaced by dotted path.

    Parameters
    ----------
    path : str or Path
    overrides : sequence of str
        As in ``["executors.train.gpu=2"]``; what stands after the ``=`` is YAML.

    Raises
    ------
    ConfigError
        If it cannot be read, is no YAML, or has a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no UTF-8"
        raise ConfigError(f"{path} cannot be read: {said}.") from None
    source = Source(path, {})
    values = _parsed(text, source)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: a mapping of keys to values is expected, got {type(values).__name__}.")
    source.values = values
    for override in overrides:
        _apply(override, source)
    return source


def _parsed(text: str, source: Source) -> Any:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _Reading(loader, source).value(node, (), 0)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{source.path}{where}: this is no YAML: {problem}.") from None
    finally:
        loader.dispose()


class _Reading:
    def __init__(self, loader: Any, source: Source) -> None:
        self.loader, self.source, self.count = loader, source, 0

    def value(self, node: yaml.Node, path: Path_, depth: int) -> Any:
        """Return the value of a node; its line, and those of what is in it, are kept."""
        line = node.start_mark.line + 1
        self.source.lines.setdefault(path, line)
        self.count += 1
        if depth > DEEPEST or self.count > MOST_PARTS:
            raise ConfigError(f"{self.source.path}:{line}: too many parts, or an alias that contains itself.")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(part, (*path, index), depth + 1) for index, part in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if node.tag == "tag:yaml.org,2002:str" and not node.style and _FLOAT.fullmatch(node.value):
            return float(node.value)
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_, depth: int) -> dict[str, Any]:
        own: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self.source.path}:{key.start_mark.line + 1}: a list or dict as a key.")
            if key.value in own and key.value != "<<":
                raise ConfigError(f"{self.source.path}:{key.start_mark.line + 1}: the key '{key.value}' stands twice.")
            own.add(key.value)
        self.loader.flatten_mapping(node)
        found = {}
        for key, part in node.value:
            name = str(key.value)
            self.source.lines[(*path, name)] = key.start_mark.line + 1
            found[name] = self.value(part, (*path, name), depth + 1)
        return found


def _apply(override: str, source: Source) -> None:
    """Set one value by its dotted path; dicts on the way are made."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"'{override}' is no key=value, as in executors.train.gpu=2.")
    value = _parsed(text, Source(Path(f"'{override}'"), {}))
    path: Path_ = ()
    within: Any = source.values
    *folders, last = key.split(".")
    for part in folders:
        path, within = (*path, part), _inside(within, part, override, True)
    if isinstance(within, list):
        _inside(within, last, override, False)
        within[int(last)] = value
    elif isinstance(within, dict):
        within[last] = value
    else:
        raise ConfigError(f"'{override}': {'.'.join(map(str, path))} is {within!r} and has no '{last}' in it.")
    source.lines[(*path, last)] = 0


def _inside(within: Any, part: str, override: str, make: bool) -> Any:
    if isinstance(within, dict):
        return within.setdefault(part, {}) if make else within[part]
    if isinstance(within, list) and part.isdecimal() and int(part) < len(within):
        return within[int(part)]
    raise ConfigError(f"'{override}': there is no '{part}' in {within!r}.")
