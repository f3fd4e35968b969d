"""The runs below a log folder: the next number, the newest weights."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError


def new_folder(logdir: str | Path, owner: type) -> Path:
    """Make the folder of the next run of a trainer's class."""
    parent = Path(logdir).expanduser() / owner.__name__
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max(run_numbers(parent), default=0) + 1
        while True:
            try:
                (parent / str(number)).mkdir()
                break
            except FileExistsError:  # another process took the number
                number += 1
    except OSError as error:
        raise ConfigError(
            f"_logdir is {str(logdir)!r}, but {error.filename or parent} cannot be made or written: "
            f"{error.strerror}. Choose another place, or _logdir = None to write nothing."
        ) from error
    return parent / str(number)


def run_numbers(parent: Path) -> list[int]:
    """Return the numbers of the runs in the folder of a trainer's class."""
    return [int(path.name) for path in parent.iterdir() if path.name.isdecimal()] if parent.is_dir() else []


def newest_weights(logdir: str | Path, owner: type) -> Path | None:
    """Return the best (else the last, else the saved) weights of the newest run that has any."""
    parent = Path(logdir).expanduser() / owner.__name__
    for number in sorted(run_numbers(parent), reverse=True):
        for name in ("checkpoints/best.ckpt", "model.pth", "checkpoints/last.ckpt"):
            if (parent / str(number) / name).is_file():
                return parent / str(number) / name
    return None
