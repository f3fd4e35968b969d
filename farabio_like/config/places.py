"""Where each value of a configuration was written: file and line, or an override."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[Any, ...]


class Places:
    """File and line of values, by their paths.

    Parameters
    ----------
    name : str
        What is said of a value whose place is not known.
    """

    def __init__(self, name: str = "the configuration") -> None:
        self.name = name
        self._places: dict[Path, str] = {}

    def add(self, file: str, lines: Mapping[Path, int]) -> None:
        """Take the lines of one more file: what it says takes the place of what those before said."""
        self.name = file
        self._places.update({path: f"{file}:{line}" for path, line in lines.items()})

    def put(self, path: Path, place: str) -> None:
        """Say the place of a value, and of all in it."""
        self.forget(path)
        self._places[path] = place

    def forget(self, path: Path, shifted: bool = False) -> None:
        """Forget the places of a value and of all in it, and with `shifted` of its whole list."""
        start = path[:-1] if shifted else path
        self._places = {
            each: place
            for each, place in self._places.items()
            if each[: len(start)] != start or (shifted and each == start)
        }

    def of(self, *path: Any) -> str:
        """Return the place of a value: of itself, or of what holds it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._places:
                return self._places[path[:length]]
        return self.name
