"""``farabio-like average``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import checkpoint
from ..checkpoint.averaged import average_of
from ..errors import ConfigError, printable
from ..rundir import index, layout, reader


def average(
    run: Annotated[Path, typer.Argument(help="A run folder, as in runs/Digits/1.")],
    last: Annotated[int | None, typer.Option(min=2, help="The newest so many; default: all that were kept.")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--checkpoint", "-c", help="One in checkpoints/, by its name; again for more.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: averaged.pth in the folder.")] = None,
) -> None:
    """Write the mean of the weights of several checkpoints of a run, for trainer.load_model and for predict.

    A callback keeps several: Checkpoint(every_epochs=1). The same epoch under two names counts once. Counters, such as
    those of batch norm, are taken from the newest.
    """
    reader.read(run)  # is it a run
    there = index.checkpoints(run)
    if name:
        by_name = {path.stem: path for path in there} | {path.name: path for path in there}
        for each in name:
            if each not in by_name:
                raise ConfigError(f"{run} has no checkpoint {each!r}. There are: {', '.join(p.stem for p in there)}.")
        there = [path for path in there if path in {by_name[each] for each in name}]
    state, used = average_of(there, last)
    target = output if output is not None else run / layout.AVERAGED
    checkpoint.save(state, target)
    print(printable(f"the mean of {', '.join(path.name for path in used)}: {target}"))
