"""``farabio-like compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import compare as tables
from ..errors import printable


def compare(
    runs: Annotated[list[str], typer.Argument(help="Run folders, as in runs/Digits/1 runs/Digits/2.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The picture.")] = "compare.png",
    metric: Annotated[str | None, typer.Option(help="This metric alone.")] = None,
) -> None:
    """Print the best values of runs and what was set differently, and draw their curves into one picture."""
    print(tables.compare(runs, metric))
    tables.draw(runs, output, metric)
    print(printable(f"\ncurves in {output}", "\n"))
