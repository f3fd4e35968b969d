"""``farabio-like upscale``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..upscale.command import run


def upscale(
    run_or_weights: Annotated[str, typer.Argument(help="The folder of a run, a checkpoint, or a file of weights.")],
    source: Annotated[str, typer.Argument(metavar="IN", help="An image, or a folder of images and those within it.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Where they go, under the same names.")],
    tile: Annotated[int, typer.Option(help="Pixels of the side of a tile.")] = 256,
    overlap: Annotated[int, typer.Option(help="Pixels around a tile.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Make again what is there already.")] = False,
) -> int:
    """Make images larger by a network that was trained. Killed, and called again, it goes on."""
    return run(run_or_weights, source, target, tile, overlap, device, again)
