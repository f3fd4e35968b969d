"""Grids: rows of values, and the cells that are all their combinations. A search uses them as a pipeline does.

A row is ``{key: [values]}``, ``{key: "0-10"}`` (both ends belong to it), a list of dicts whose keys go together,
``{_folder: folder}`` or ``{_file: [files]}`` (each file's values are one entry), as in MLComp.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .source import Source, read

Cell = dict[str, Any]

MOST_CELLS = 100_000
_RANGE = re.compile(r"\s*(-?\d+)\s*-\s*(-?\d+)\s*")


def cells(rows: Any, source: Source, *path: str | int) -> list[Cell]:
    """Return the cells of a grid, the last row varying fastest.

    Parameters
    ----------
    rows : list
        As the file has it.
    source : Source
        The file, for messages; files and folders of rows are beside it.
    *path : str or int
        Where in the file the grid stands.

    Returns
    -------
    cells : list of dict
        By dotted key the values of a cell.

    Raises
    ------
    ConfigError
        For a grid without cells, a key in two rows, and a cell that is there twice.
    """
    if not isinstance(rows, list) or not rows:
        raise source.error("a grid is a list of rows, as in [{lr: [0.1, 0.01]}]; this one has none.", *path)
    entries = [_entries(row, source, *path, index) for index, row in enumerate(rows)]
    _check_keys(entries, source, *path)
    count = 1
    for row in entries:
        count *= len(row)
    if count > MOST_CELLS:
        raise source.error(f"this grid has {count} cells; {MOST_CELLS} are allowed.", *path)
    found = [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*entries)]
    seen: set[str] = set()
    for cell in found:
        text = json.dumps(cell, sort_keys=True, default=str)
        if text in seen:
            raise source.error(f"the cell {name(cell)} is there twice.", *path)
        seen.add(text)
    return found


def name(cell: Cell) -> str:
    """Return a cell's name, its ``key=value`` pairs, as in ``lr=0.1 batch_size=32``; empty for no cell."""
    return " ".join(f"{key}={shown(value)}" for key, value in cell.items())


def shown(value: Any) -> str:
    """Return a value as a command line has it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _entries(row: Any, source: Source, *path: str | int) -> list[Cell]:
    """Return what a row has one of in each cell."""
    if isinstance(row, list):
        if not row or not all(isinstance(entry, dict) and entry for entry in row):
            raise source.error(
                "a row that is a list holds dicts, as in [{lr: 0.1, epochs: 3}, {lr: 1, epochs: 1}].", *path
            )
        return [_flat(entry) for entry in row]
    if not isinstance(row, dict) or len(row) != 1:
        raise source.error(
            "a row of a grid is one key with its values, as in {lr: [0.1, 0.01]}, or a list of dicts.", *path
        )
    ((key, values),) = row.items()
    if key in ("_folder", "_file"):
        return [_flat(read(file).values) for file in _files(key, values, source, *path, key)]
    if isinstance(values, str):
        values = _range(values, source, *path, key)
    if not isinstance(values, list) or not values:
        raise source.error(f"'{key}' needs a list of values, or a range as in \"0-10\"; got {values!r}.", *path, key)
    return [{key: value} for value in values]


def _range(text: str, source: Source, *path: str | int) -> list[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise source.error(f'{text!r} is neither a list of values nor a range as in "0-10".', *path)
    first, last = map(int, match.groups())
    if last < first or last - first >= MOST_CELLS:
        raise source.error(f"the range {text!r} is empty or too long; its first number is the smaller one.", *path)
    return list(range(first, last + 1))


def _files(key: str, given: Any, source: Source, *path: str | int) -> Sequence[Path]:
    beside = source.path.parent
    if key == "_folder":
        folder = beside / str(given)
        files = sorted(each for each in folder.glob("*") if each.suffix in (".yml", ".yaml", ".json"))
        if not files:
            raise source.error(f"the folder {folder} has no .yml, .yaml or .json file.", *path)
        return files
    files = [beside / str(each) for each in (given if isinstance(given, list) else [given])]
    for file in files:
        if not file.is_file():
            raise source.error(f"there is no file {file}.", *path)
    return files


def _flat(values: dict[str, Any], prefix: str = "") -> Cell:
    """Return nested values by dotted key."""
    found: Cell = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _check_keys(entries: list[list[Cell]], source: Source, *path: str | int) -> None:
    """Raise a ConfigError for a key that two rows have, or of which two rows have a part each."""
    owner: dict[str, int] = {}
    for index, row in enumerate(entries):
        for key in dict.fromkeys(key for entry in row for key in entry):
            for other, its in owner.items():
                if its != index and (key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")):
                    said = f"'{key}'" if key == other else f"'{key}', as a part of '{other}' or around it,"
                    raise source.error(f"the key {said} is in two rows of this grid.", *path, index)
            owner[key] = index
