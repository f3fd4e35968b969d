"""`build`: a trainer from configuration files; `plan_of`: what they say, checked and not built."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import compute
from ..config.files import read
from ..config.secrets import MASKED
from ..errors import ConfigError
from ..rundir import layout
from ..trainer import ConvnetTrainer
from ..trainers.ready_made import ReadyMadeTrainer
from .components import Component, make
from .imports import Sources, checked_allow
from .launched import FromPlan
from .plan import LaunchPlan, plan

_PATH = str | os.PathLike[str]


def build(
    *files: _PATH, overrides: Sequence[str] = (), allow: Sequence[str] = (), name: str | None = None
) -> ConvnetTrainer:
    """Build a trainer from configuration files, or from the folder of a run that such files have started.

    Parameters
    ----------
    *files : path
        Merged in their order; or one folder of a run, whose own code is used.
    overrides : sequence of str
        ``"settings.num_epochs=3"``, ``"+config.lr=0.1"``, ``"~scheduler"``.
    allow : sequence of str
        Modules from which components may come, beside torch, torchvision, this package and the modules that lie
        beside the configuration.
    name : str, optional
        Of the run's folder, in place of a number.

    Returns
    -------
    ConvnetTrainer

    Raises
    ------
    ConfigError
        With file and line, for all that is wrong in a configuration; nothing has been built then.
    """
    return built(plan_of(*files, overrides=overrides, allow=allow), name)


def plan_of(*files: _PATH, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> LaunchPlan:
    """Read and check what `build` builds; the parameters are the same."""
    paths = [Path(file).expanduser() for file in files]
    folders = [path.resolve().parent for path in paths]
    if len(paths) == 1 and paths[0].is_dir():
        run = paths[0].resolve()
        if not (run / layout.LAUNCH).is_file():
            raise ConfigError(
                f"{paths[0]} is no folder of a run that a configuration has started: it has no {layout.LAUNCH}."
            )
        paths, folders = [paths[0] / layout.LAUNCH], [run / layout.CODE]
    configuration, places, written = read(*paths, overrides=overrides)
    _no_masked(configuration, (), places.of)
    sources = Sources(tuple(dict.fromkeys(folders)), checked_allow(allow))
    return plan(configuration, written, places, sources)


def built(found: LaunchPlan, name: str | None = None) -> ConvnetTrainer:
    """Build the trainer of a plan."""
    cls = found.trainer
    trainer = cls.__new__(cls)
    vars(trainer)["_from_launch"] = {"launched": FromPlan(found, name)}
    compute.seed_everything(found.settings.get("_seed", getattr(cls, "_seed", None)))  # for what is made before it
    arguments = {key: _argument(key, part, cls) for key, part in found.arguments.items()}
    if found.callbacks and issubclass(cls, ReadyMadeTrainer):
        arguments["callbacks"] = make(found.callbacks)
        found.callbacks = []
    config = found.configuration.get("config")
    first = [] if config is None else [config]
    trainer.__init__(*first, **arguments)  # type: ignore[misc]
    return trainer


def _argument(name: str, part: Any, cls: type) -> Any:
    """Return an argument of a constructor; a ready-made trainer makes model, optimizer and scheduler itself."""
    if issubclass(cls, ReadyMadeTrainer):
        if name == "model" and part is not None:
            return partial(make, part)
        if isinstance(part, Component) and part.given:
            return part.make
        if type(part) is dict and part and all(isinstance(each, Component) and each.given for each in part.values()):
            return {key: each.make for key, each in part.items()}
    return make(part)


def _no_masked(value: Any, path: tuple[Any, ...], place: Any) -> None:
    """Raise a ConfigError for a secret that a run's folder does not hold."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _no_masked(part, (*path, key), place)
    elif value == MASKED:
        name = ".".join(map(str, path))
        raise ConfigError(
            f"{place(*path)}: {name} is a secret, which no run folder holds. Give it: {name}=..., or write "
            f"{name.rpartition('.')[2]}: ${{oc.env:NAME}} in the configuration."
        )
