"""``farabio-like ls``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, printable
from ..loggers.console import number, seconds
from ..rundir import layout, reader
from ..rundir.folder import is_held
from ..rundir.reader import RunFiles


def ls(folder: Annotated[Path, typer.Argument(help="A log folder, or a folder in it.")] = Path("runs")) -> None:
    """List the runs below a log folder: epochs, time, the best value of what is monitored, and how they ended."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Give a log folder: farabio-like ls runs")
    runs = [reader.read(path) for path in layout.runs_below(folder)]
    if not runs:
        print(f"no runs below {folder}")
        return
    rows = [("run", "class", "epochs", "time", "monitored", "best", "in", "state"), *map(_row, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _row(run: RunFiles) -> tuple[str, ...]:
    best = run.best(run.monitor)
    done = run.history[-1]["epoch"] if run.history else 0
    time = sum(entry.get("seconds", 0.0) for entry in run.history)
    asked = run.settings.get("_num_epochs", "?")
    state = "failed" if run.error else "tested" if run.test else "trained" if str(done) == asked else "unfinished"
    value, epoch = ("-", "-") if best is None else (number(best[1]), f"epoch {best[2]}")
    row = (str(run.path), run.owner, f"{done}/{asked}", seconds(time), run.monitor, value, epoch)
    return tuple(printable(cell) for cell in (*row, "running" if is_held(run.path) else state))
