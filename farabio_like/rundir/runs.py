"""The runs below a log folder: the next one's folder, the newest weights."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint import access
from ..errors import ConfigError
from . import layout


def new_folder(logdir: str | Path, owner: type, name: str | None = None) -> Path:
    """Make the folder of the next run of a trainer's class; one with a name may be there."""
    parent = layout.class_folder(logdir, owner)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if name is not None:
            (parent / name).mkdir(exist_ok=True)
            return parent / name
        number = max((int(folder.name) for folder in layout.folders_of(logdir, owner)), default=0) + 1
        while True:
            try:
                (parent / str(number)).mkdir()
                break
            except FileExistsError:  # another process took the number, or a file has it
                number += 1
    except OSError as error:
        raise ConfigError(
            f"_logdir is {str(logdir)!r}, but {error.filename or parent} cannot be made or written: "
            f"{error.strerror}. Choose another place, or _logdir = None to write nothing."
        ) from error
    return parent / str(number)


def newest_weights(logdir: str | Path, owner: type) -> Path | None:
    """Return the best (else the saved, else the last) weights of the newest run that has any."""
    best, last = (Path(layout.CHECKPOINTS, name) for name in (layout.BEST, layout.LAST))
    for folder in reversed(layout.folders_of(logdir, owner)):
        for name in (best, layout.WEIGHTS, last):
            if (folder / name).is_file() and access.problem_of(folder / name, folder) is None:
                return folder / name
    return None
