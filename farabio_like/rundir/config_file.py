"""``config.yaml``: plain data as YAML, and the values of such a file as a reader wants to see them.

This is imported where such a file is written or read, not before: who imports the package does not wait for PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ..checkpoint.plain import written
from ..config import yaml_text
from ..errors import ConfigError, printable

# Of a file that is read; the settings come after the configuration, so these are far beyond any that a run writes.
LARGEST = 1 << 23  # characters
MOST_PARTS = 300_000  # keys, values, and both ends of lists and dicts
DEEPEST = 100  # lists and dicts in one another
MOST_SHOWN = 1 << 25  # characters: a value comes with its path, so that a small file could ask for a great many


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return values as block YAML, in their order; what is no plain data appears as its ``repr``.

    A string takes one line, and is one for readers of YAML 1.1 and of 1.2.
    """
    return yaml_text.dump(written(values))


def values(text: str) -> tuple[dict[str, str], list[str]]:
    r"""Return what a ``config.yaml`` says, of a damaged one what can be read.

    It may be a stranger's: no object is made from it and no alias followed, which is shown as ``*name``. Characters
    that a terminal would obey, or that cannot be seen, are shown as ``\U0000001B``.

    Returns
    -------
    values : dict of str to str
        By dotted path every scalar, as it is written, and ``[]`` or ``{}`` for an empty list or dict.
    problems : list of str
        What could not be read.
    """
    found: dict[str, str] = {}
    problems = []
    if len(text) > LARGEST:
        problems.append(f"it has more than {LARGEST} characters. The rest is left out.")
    # PyYAML would read nothing at all of a text with one character that YAML does not allow.
    text = yaml_text.FORBIDDEN.sub("\ufffd", text[:LARGEST])
    # The settings come last and say what the numbers mean: damage before them does not hide them.
    settings = re.search("^settings:", text, re.MULTILINE)
    cut = settings.start() if settings is not None else len(text)
    for part in (text[:cut], "\n" * text.count("\n", 0, cut) + text[cut:]):  # with the numbers of the lines
        try:
            found.update(_leaves(part))
        except ConfigError as error:
            problems.append(f"{error}. What follows there is left out.")
    return found, problems


def _leaves(text: str) -> Iterator[tuple[str, str]]:
    events = _events(text)
    room = MOST_SHOWN
    for event in events:
        for path, value in _leaves_of(event, events, ""):
            room -= len(path) + len(value)
            if room < 0:
                raise ConfigError("its values and their paths are too long to be shown")
            yield path, value


def _leaves_of(event: yaml.Event, events: Iterator[yaml.Event], path: str) -> Iterator[tuple[str, str]]:
    """Yield the leaves of the node that begins with an event; it is no deeper than `_events` allows."""
    if not isinstance(event, yaml.CollectionStartEvent):
        yield path, _shown(event)
        return
    is_dict = isinstance(event, yaml.MappingStartEvent)
    count = 0
    while not isinstance(part := next(events), yaml.CollectionEndEvent):
        name = str(count)
        if is_dict:
            name = _shown(part)
            part = next(events)
        yield from _leaves_of(part, events, f"{path}.{name}" if path else name)
        count += 1
    if not count:
        yield path, "{}" if is_dict else "[]"


def _shown(event: yaml.Event) -> str:
    """Return a scalar or alias as it is written, without quotes and escapes that only YAML needs."""
    if isinstance(event, yaml.CollectionStartEvent):
        raise ConfigError(f"line {event.start_mark.line + 1}: a list or dict as a key")
    text = f"*{event.anchor}" if isinstance(event, yaml.AliasEvent) else event.value
    return printable(text)


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield the events of a text's nodes, as many as are read here; to find them, PyYAML calls nothing recursively."""
    # The one in C is 20 times as fast. For writing, the one in Python: it does not escape an emoji.
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    depth = number = 0
    while True:
        try:
            event = next(events, None)
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape that is no character
            mark = getattr(error, "problem_mark", None)
            where = f"line {mark.line + 1}: " if mark is not None else ""
            raise ConfigError(f"{where}{getattr(error, 'problem', None) or error}") from error
        if event is None:
            break
        number += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or number > MOST_PARTS:
            limit = f"{DEEPEST} lists and dicts in one another" if depth > DEEPEST else f"{MOST_PARTS} parts"
            raise ConfigError(f"line {event.start_mark.line + 1}: more than {limit}")
        if isinstance(event, (yaml.CollectionStartEvent, yaml.CollectionEndEvent, yaml.ScalarEvent, yaml.AliasEvent)):
            yield event
