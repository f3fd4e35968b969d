"""``farabio-like test``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..launch import rebuild


def test(
    run: Annotated[str, typer.Argument(help="A run folder, as in runs/Digits/1.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As those of run.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A module that the configuration may import from; may be given again.")
    ] = None,
) -> None:
    """Test the best weights of a run, with the code in its folder; the result goes into its files."""
    trainer = rebuild(run, overrides=overrides or (), allow=allow or ())
    trainer.test()
