"""The weights of a run by the name that a command line gives them: best, last, a file, or an epoch of a stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..checkpoint import access
from ..errors import CheckpointError, closest
from ..rundir import index, layout

NAMES = {"best": layout.BEST, "last": layout.LAST}


def checkpoint_file(folder: Path, name: str | None = None, stages: Any = None, first: int = 1) -> Path:
    """Return the file of a run's weights.

    Parameters
    ----------
    folder : Path
        Of the run.
    name : str, optional
        ``"best"``, ``"last"``, the name of a file in ``checkpoints``, with its suffix or without, or ``"stage2.5"``:
        epoch 5 of the second stage, or of the stage of this name. Default: the best, else ``model.pth``, else the last.
    stages : sequence of Stage, optional
        Those of the run.
    first : int
        The number of its first epoch.

    Raises
    ------
    FileNotFoundError
        Where there is none, with the names that there are.
    CheckpointError
        For a link that leads out of the folder, and for what is no file.
    """
    inner = folder / layout.CHECKPOINTS
    if name is None:
        wanted = [inner / layout.BEST, folder / layout.WEIGHTS, inner / layout.LAST]
    elif name in NAMES:
        wanted = [inner / NAMES[name]]
    elif re.fullmatch(r".+\.\d+", name):
        number = _epoch(name, stages, first)
        wanted = [] if number is None else sorted(inner.glob(f"epoch-{number:04d}*.ckpt"))
        wanted.append(inner / name)
    else:
        wanted = [inner / name, inner / f"{name}.ckpt"] if Path(name).name == name else []
    for path in wanted:
        if path.is_file() or path.is_symlink():
            problem = access.problem_of(path, folder)
            if problem is not None:
                raise CheckpointError(f"{path} cannot be read: {problem}.")
            return path
    there = [path.stem for path in index.checkpoints(folder)]
    asked = "any weights" if name is None else f"the weights {name!r}"
    raise FileNotFoundError(
        f"{folder} does not have {asked}.{closest(name or '', there)} There are: {', '.join(there) or 'none'}."
        + (" Epochs are kept by callbacks: Checkpoint(every_epochs=1)." if name and "." in name else "")
    )


def _epoch(name: str, stages: Any, first: int) -> int | None:
    """Return the number in the run of an epoch of a stage, None where there is no such stage or epoch."""
    stage, _, number = name.rpartition(".")
    counted = re.fullmatch(r"stage(\d+)", stage)
    done = first - 1
    if not stages:
        return done + int(number) if counted and int(counted[1]) == 1 and int(number) > 0 else None
    names = [each.name for each in stages]
    place = names.index(stage) if stage in names else int(counted[1]) - 1 if counted else -1
    if not 0 <= place < len(stages) or not 0 < int(number) <= stages[place].num_epochs:
        return None
    return done + sum(each.num_epochs for each in stages[:place]) + int(number)
