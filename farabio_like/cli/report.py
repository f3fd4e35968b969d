"""``farabio-like report``."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import report as page
from ..errors import printable
from ..packages import needs


def report(run: Annotated[str, typer.Argument(help="A run folder, as in runs/Digits/1.")]) -> None:
    """Write report.html into a run folder again, from its files alone; also of a run that was killed."""
    needs("jinja2", "the report", extra="report")
    print(printable(str(page.rewrite(run))))
