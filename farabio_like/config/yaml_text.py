"""YAML as plain data with the line of every value, and plain data as YAML.

It is read event by event: nothing is made but dicts, lists, text, numbers, booleans and None. What a word means is
said by YAML 1.2, with one difference: a number with zeros in front of it is text. So ``yes``, ``012``, ``1:30`` and
dates are the text that they are, and ``1e-3`` is a number. This is imported where such a file is read or written.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from ..errors import ConfigError, printable

LARGEST = 1 << 23  # characters of a file
MOST_PARTS = 1_000_000  # of a file
MOST_REPEATED = 100_000  # parts that aliases and merge keys repeat
DEEPEST = 100  # lists and dicts in one another
LONGEST_NUMBER = 1000  # digits

WIDEST = 1 << 30  # characters of a line that is written: none is folded
# By YAML 1.1, section 5.1.
FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_OTHER_BASE = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"
_KINDS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}

Path = tuple[Any, ...]


def scalar(text: str) -> Any:
    """Return what a word without quotes means: None, a boolean, a number, or itself.

    Raises
    ------
    ValueError
        For a number too large to be one.
    """
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text) or _OTHER_BASE.fullmatch(text):
        if len(text) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(text)} digits")
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{text[:40]} is too large for a number; infinity is written .inf")
        return value
    if special := _SPECIAL.fullmatch(text):
        return math.nan if special[3] else -math.inf if special[1] == "-" else math.inf
    return text


def parse(text: str) -> tuple[Any, dict[Path, int]]:
    """Return what a text says, and the line of every value by its path.

    Raises
    ------
    ConfigError
        With the line, for what is no YAML, no plain data, or too much.
    """
    if len(text) > LARGEST:
        raise ConfigError(f"it has more than {LARGEST} characters")
    if forbidden := FORBIDDEN.search(text):
        raise ConfigError(f"{_line_at(text, forbidden.start())}: the character {printable(forbidden[0])}")
    reader = _Reader(text)
    return reader.document(), reader.lines


def _line_at(text: str, position: int) -> str:
    before = re.findall(r"\r\n|\r|\n", text[:position])
    return f"line {len(before) + 1}"


class _Reader:
    """Makes plain data of the events of one document; its depth is bounded, so that recursion is safe."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._events = self._counted()
        self._anchors: dict[str, tuple[Any, int]] = {}  # the value and its number of parts
        self._parts = self._repeated = 0

    def document(self) -> Any:
        """Return the value of the one document."""
        event = next(self._events, None)
        if event is None:
            return None
        value = self._value(event, ())
        event = next(self._events, None)
        if event is not None:
            raise _at(event, "a second document begins; expected one in a file")
        return value

    def _counted(self) -> Iterator[yaml.Event]:
        """Yield the events of nodes, as many as are read; to find them, PyYAML calls nothing recursively."""
        # The one in C is 20 times as fast.
        events = yaml.parse(self._text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        depth = 0
        while True:
            try:
                event = next(events, None)
            except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape that is no character
                raise ConfigError(self._said(error)) from error
            if event is None:
                return
            self._parts += 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise _at(event, f"more than {DEEPEST} lists and dicts in one another")
            if self._parts > MOST_PARTS:
                raise _at(event, f"more than {MOST_PARTS} parts")
            if isinstance(event, (yaml.NodeEvent, yaml.CollectionEndEvent)):
                yield event

    def _said(self, error: Exception) -> str:
        mark = getattr(error, "problem_mark", None)
        said = str(getattr(error, "problem", None) or error)
        if mark is None:
            return said
        lines = self._text.splitlines()
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: mark.column + 1] or "\\t" in said:
            said = "a tab; expected spaces"
        return f"line {mark.line + 1}: {said}"

    def _value(self, event: yaml.Event, path: Path) -> Any:
        self.lines[path] = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._parts + self._repeated
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        else:
            kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
            if event.tag not in (None, "!", _TAG + kind):
                raise _at(event, f"the tag {_short(event.tag)}; expected plain data")
            value = self._dict(path) if kind == "map" else self._list(path)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._parts + self._repeated - before + 1
        return value

    def _alias(self, event: yaml.AliasEvent) -> Any:
        if event.anchor not in self._anchors:
            raise _at(event, f"there is no whole &{event.anchor} before *{event.anchor}")
        value, parts = self._anchors[event.anchor]
        self._repeated += parts
        if self._repeated > MOST_REPEATED:
            raise _at(event, f"aliases repeat more than {MOST_REPEATED} parts")
        return copy.deepcopy(value)

    def _list(self, path: Path) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.CollectionEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _dict(self, path: Path) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: list[dict[Any, Any]] = []
        seen: dict[Any, int] = {}
        while not isinstance(event := next(self._events), yaml.CollectionEndEvent):
            is_merge = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<"
            key = "<<" if is_merge else self._key(event)
            mark = (key, is_merge)
            if mark in seen:
                raise _at(event, f"the key {_short(str(key))} is there already, in line {seen[mark]}")
            seen[mark] = event.start_mark.line + 1
            of_value = next(self._events)
            value = self._value(of_value, (*path, key))
            if not is_merge:
                found[key] = value
                continue
            merged += value if isinstance(value, list) else [value]
            if not all(isinstance(each, dict) for each in merged):
                raise _at(of_value, "<<: expected a dict, or a list of them: <<: *name")
        for each in merged:  # those before win, and what stands here above all
            found = {**each, **found}
        return found

    def _key(self, event: yaml.Event) -> Any:
        key = self._anchors.get(event.anchor, (None, 0))[0] if isinstance(event, yaml.AliasEvent) else None
        if isinstance(event, yaml.ScalarEvent):
            key = _scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = key, 1
        if isinstance(key, str) or type(key) is int:
            return key
        shown = _short(event.value) if isinstance(event, yaml.ScalarEvent) else "a list or dict"
        raise _at(event, f"the key {shown or 'without a name'}; expected text: in quotes, if that is meant")


def _scalar(event: yaml.ScalarEvent) -> Any:
    plain = event.tag is None and event.implicit[0]
    tag = None if event.tag in (None, "!") else event.tag
    if tag is None and not plain:
        return event.value
    kind = None if tag is None else _KINDS.get(tag.removeprefix(_TAG)) if tag.startswith(_TAG) else None
    if tag is not None and kind is None:
        raise _at(event, f"the tag {_short(tag)}; expected plain data")
    if kind is str:
        return event.value
    try:
        value = scalar(event.value)
    except ValueError as error:
        raise _at(event, str(error)) from None
    value = float(value) if kind is float and type(value) is int else value
    if kind is not None and type(value) is not kind:
        raise _at(event, f"{_short(event.value)} is no {_short(str(tag))}")
    return value


def _at(event: yaml.Event, said: str) -> ConfigError:
    return ConfigError(f"line {event.start_mark.line + 1}: {said}")


def _short(text: str) -> str:
    text = text.replace(_TAG, "!!")
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def dump(data: Any) -> str:
    """Return plain data as block YAML, in its order.

    A string takes one line, and is one for readers of YAML 1.1 and of 1.2.
    """

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_representer(str, _represented)
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=WIDEST)


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = repr(text)  # no text: part of a path, say, of bytes that are none
    if not text.isprintable():
        style = '"'  # the one with escapes
    elif text[:1] in "+-.0123456789":
        style = "'"  # PyYAML quotes what YAML 1.1 takes for a number; 1e-3 and 0o17 are some in 1.2
    return dumper.represent_scalar(f"{_TAG}str", text, style)
