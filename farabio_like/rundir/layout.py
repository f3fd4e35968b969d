"""Where things lie: the files of a run folder by name, and the run folders below a log folder.

Nothing is made, read or written here, and no name of a run's file is spelled anywhere else; a logger's or a callback's
own files are its own affair.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

# In the folder of a run.
CONFIG = "config.yaml"
LAUNCH = "run.yaml"  # there where a configuration file has made the trainer
ENVIRONMENT = "environment.json"
CODE = "code"  # a folder
INPUT = "input.json"  # how a picture becomes an input, and what the outputs mean
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"  # a folder
WEIGHTS = "model.pth"
AVERAGED = "averaged.pth"
PLOTS = "plots"  # a folder
REPORT = "report.html"
NOTES = "notes.txt"  # there where something could not be said on the terminal
LOCK = ".lock"  # there while a process trains the run
FILES = (CONFIG, LAUNCH, ENVIRONMENT, METRICS, WEIGHTS, REPORT, LOCK)

# In the folder of its checkpoints.
LAST, BEST, CRASH, INDEX = "last.ckpt", "best.ckpt", "crash.ckpt", "index.json"

# In the folder of its pictures.
CURVES, PER_CLASS = "curves.png", "per_class.png"


def class_folder(logdir: str | Path, cls: type) -> Path:
    """Return the folder below a log folder that holds the runs of a trainer's class."""
    return Path(logdir).expanduser() / cls.__name__


def folders_of(logdir: str | Path, cls: type) -> list[Path]:
    """Return the run folders of a trainer's class below a log folder, by number, the oldest first."""
    parent = class_folder(logdir, cls)
    runs = [path for path in parent.iterdir() if path.name.isdecimal() and path.is_dir()] if parent.is_dir() else []
    return sorted(runs, key=lambda path: int(path.name))


def runs_below(folder: str | Path) -> list[Path]:
    """Return the run folders in a folder, or in the folders of classes in it; those that are numbered by number."""
    found = [path.parent for pattern in (CONFIG, f"*/{CONFIG}", f"*/*/{CONFIG}") for path in Path(folder).glob(pattern)]
    return sorted(found, key=lambda path: (path.parent, not path.name.isdecimal(), path.name.zfill(20)))


def shown(path: Path) -> str:
    """Return a path as people read it: below the working folder without that, else whole."""
    try:
        inside = path.is_relative_to(os.getcwd())
    except OSError:  # somebody has removed the working folder
        inside = False
    return os.path.relpath(path) if inside else str(path)


LONGEST_PART = 60  # characters of a name within the name of a file


def in_file_name(name: str) -> str:
    """Return a metric's name, or a part of one, as a part of a file's name: no folder, no dot in front, not too long.

    Where more than a slash or a space is replaced, a few digits tell two names apart.
    """
    part = re.sub(r"[^\w.-]+", "_", name).lstrip(".")[:LONGEST_PART]
    same = part == re.sub(r"[/ ]", "_", name)
    return part if same else f"{part}.{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:6]}"
