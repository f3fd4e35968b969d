"""`build`: a trainer from configuration files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..trainer import ConvnetTrainer
from . import imports
from .trainer_class import trainer_class


def build(*files: str | os.PathLike[str], overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> ConvnetTrainer:
    """Build a trainer from configuration files, which are merged in their order.

    Parameters
    ----------
    *files : path
    overrides : sequence of str
        ``"settings.num_epochs=3"``, ``"+config.lr=0.1"``, ``"~scheduler"``.
    allow : sequence of str
        Modules from which components may come, beside torch, torchvision, this package and the modules that lie
        beside the configuration.

    Returns
    -------
    ConvnetTrainer

    Raises
    ------
    ConfigError
        With file and line, for what is wrong in a configuration.
    """
    path = Path(files[0])
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    folders = [path.resolve().parent]
    with imports.code_first(folders):
        made = trainer_class(found.get("trainer"), folders, str(path))
        return made(found.get("config"))
