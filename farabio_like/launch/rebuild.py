"""`rebuild`: a trainer from the folder of a run, with the code that is kept there."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import yaml

from .. import trainers
from ..checkpoint import access
from ..errors import ConfigError
from ..rundir import layout
from ..trainer import ConvnetTrainer
from . import imports
from .trainer_class import trainer_class

LARGEST_CONFIG = 1 << 25  # bytes


def rebuild(run_folder: str | os.PathLike[str]) -> ConvnetTrainer:
    """Build the trainer of a run anew, from the copy of its code in the run's folder and from its configuration.

    The weights are those of a new trainer: `ConvnetTrainer.load_model` loads those of the run.

    Parameters
    ----------
    run_folder : path

    Returns
    -------
    ConvnetTrainer

    Raises
    ------
    ConfigError
        If it is no run folder, or its code is not enough to build the trainer.
    """
    folder = Path(run_folder).expanduser()
    code = folder / layout.CODE
    try:
        found = yaml.safe_load(access.read_text(folder / layout.CONFIG, folder, LARGEST_CONFIG))
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no run folder: it has no {layout.CONFIG}.") from None
    name: Any = found.get("class")
    with imports.code_first([code]):
        where = str(folder / layout.CONFIG)
        made = trainer_class(f"{_file_with(code, str(name))}:{name}", [code], where)
        return made(found.get("config"))


def _file_with(code: Path, name: str) -> str:
    """Return the one file of a copy of code that has a class, relative to the copy."""
    if name in trainers.__all__:
        raise ConfigError(
            f"the run in {code.parent} was started by a script that gave its parts to {name}: they cannot be made "
            "anew from the run's folder. Start it from a configuration file: farabio-like run config.yml"
        )
    there = []
    for path in sorted(code.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
            there.append(path.relative_to(code).as_posix())
    if len(there) != 1:
        found = f"in several files: {', '.join(there)}" if there else "nowhere"
        raise ConfigError(f"{code}: the class {name} of the run is there {found}; expected it in one file.")
    return there[0]
