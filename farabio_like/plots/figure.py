"""An empty figure, its file, and names that fit into it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
LARGEST = 1e100  # of a number that is drawn

LONGEST_NAME = 28  # characters of a class or a metric


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, whose parts make room for each other."""
    from .picture import Picture  # with matplotlib, which is imported when something is drawn

    return Picture(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: str | Path) -> None:
    """Save a figure as a picture, complete whenever it is there; its folder is made when it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.unlink(missing_ok=True)  # it may be a link
        figure.savefig(unfinished, dpi=DPI, format=path.suffix[1:] or "png")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def shorten(text: str, most: int = LONGEST_NAME) -> str:
    """Return `text` with its middle left out where it is longer than `most` characters."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def label(text: str, most: int = LONGEST_NAME) -> str:
    """Return a name as matplotlib takes it for what it is: a dollar begins no mathematics, an underscore hides nothing.

    Parameters
    ----------
    text : str
    most : int
        Characters; the middle of a longer one is left out.
    """
    shown = shorten(printable(text), most).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # a legend leaves out what begins with one


def can_be_drawn(value: Any) -> bool:
    """Return whether a value is a number that an axis has room for, with others of the other sign."""
    return isinstance(value, (int, float)) and abs(value) < LARGEST
