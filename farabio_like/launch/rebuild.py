"""`rebuild`: a trainer from the folder of a run, with the code that is kept there."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import trainers
from ..checkpoint import access
from ..config import yaml_text
from ..errors import ConfigError
from ..rundir import RunDir, layout
from ..trainer import ConvnetTrainer
from .build import build
from .imports import Sources
from .trainer_class import trainer_class

LARGEST_CONFIG = 1 << 25  # bytes


def rebuild(
    run_folder: str | os.PathLike[str], overrides: Sequence[str] = (), allow: Sequence[str] = ()
) -> ConvnetTrainer:
    """Build the trainer of a run anew, from the copy of its code in the run's folder and from its configuration.

    The weights are those of a new trainer: ``trainer.load_model(trainer.run_dir / "checkpoints" / "best.ckpt")`` loads
    those of the run, and ``trainer.test()`` does so by itself. The code in the folder is run: of a stranger's folder,
    read it first.

    Parameters
    ----------
    run_folder : path
    overrides, allow : sequence of str
        As for `build`, of a run that a configuration file has started.

    Returns
    -------
    ConvnetTrainer
        With the folder as its ``run_dir``.

    Raises
    ------
    ConfigError
        If it is no run folder, or its code is not enough to build the trainer.
    """
    folder = Path(run_folder).expanduser()
    if (folder / layout.LAUNCH).is_file():
        trainer = build(folder, overrides=overrides, allow=allow)
    elif overrides:
        raise ConfigError(
            f"{folder} has no {layout.LAUNCH}: no configuration file has started it, which overrides change."
        )
    else:
        trainer = _from_script(folder)
    state = trainer._run_state
    state.folder = RunDir.at(folder, type(trainer))
    state.folder.check()
    trainer.run_dir = state.folder.path
    return trainer


def _from_script(folder: Path) -> ConvnetTrainer:
    """Build the trainer of a run that a script has started: its class, with the configuration that it had."""
    code, file = folder / layout.CODE, folder / layout.CONFIG
    try:
        found, _ = yaml_text.parse(access.read_text(file, folder, LARGEST_CONFIG))
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no run folder: it has no {layout.CONFIG}.") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}.") from None
    name: Any = found.get("class") if isinstance(found, dict) else None
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"{file}: class is {name!r}; expected the name of a trainer.")
    sources = Sources((code.resolve(),))
    sources.put_first()
    made = trainer_class(f"{_file_with(code, name)}:{name}", sources, str(file))
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
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
            there.append(path.relative_to(code).as_posix())
    if len(there) != 1:
        found = f"in several files: {', '.join(there)}" if there else "nowhere"
        raise ConfigError(f"{code}: the class {name} of the run is there {found}; expected it in one file.")
    return there[0]
