"""``farabio-like run``."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from .. import distributed
from ..checks import hooks
from ..config import yaml_text
from ..errors import ConfigError, FarabioError, printable
from ..launch.build import built, plan_of
from ..launch.launched import repeatable
from ..rundir import index, layout
from ..trainer import ConvnetTrainer

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,59}", re.ASCII)


def run(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG... [KEY=VALUE]...",
            help="Configuration files, merged in their order, or the folder of a run; key=value changes what is there, "
            "+key=value adds, ~key deletes.",
        ),
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run of that name, else with the newest unfinished one.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the run's folder, in place of a number.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all of it, print the merged configuration, build nothing.")
    ] = False,
    allow: Annotated[
        list[str] | None, typer.Option(help="A module that the configuration may import from; may be given again.")
    ] = None,
) -> None:
    """Train what configuration files describe, and test it where the trainer has a test loader.

    The merged configuration and the code go into the run's folder; `run` with that folder repeats the run from there.
    """
    files = [each for each in what if not _is_override(each)]
    overrides = [each for each in what if _is_override(each)]
    if not files:
        raise ConfigError(f"there is no configuration file in: {' '.join(what)}. Write farabio-like run config.yml")
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: expected letters, digits, _, . and -, 60 at most.")
    if dry_run:
        sys.dont_write_bytecode = True
    plan = plan_of(*files, overrides=overrides, allow=allow or ())
    if dry_run:
        print(printable(yaml_text.dump(repeatable(plan)), "\n"), end="")
        return
    trainer = built(plan, name)
    resume_from: bool | Path = resume
    if name is not None:
        resume_from = _named(trainer, name, resume)
    elif resume and Path(files[0]).is_dir():
        resume_from = Path(files[0])
    _train_and_test(trainer, resume_from)


def _is_override(text: str) -> bool:
    if text.startswith("~") and not text.startswith("~/"):
        return True
    return "=" in text and not Path(text).is_file()


def _named(trainer: ConvnetTrainer, name: str, resume: bool) -> bool | Path:
    """Return what to go on from, of a run with a name."""
    if trainer._logdir is None:
        raise ConfigError(f"--name {name}: the logdir of {type(trainer).__name__} is None, so that there is no folder.")
    folder = layout.class_folder(trainer._logdir, type(trainer)) / name
    there, saved = distributed.from_main(lambda: (folder.exists(), folder.is_dir() and bool(index.checkpoints(folder))))
    if there and not resume:
        raise ConfigError(f"{folder} is there already. To go on with it: --resume. For another run: another --name.")
    return folder if saved else False


def _train_and_test(trainer: ConvnetTrainer, resume: bool | Path) -> None:
    progress = trainer._run_state.progress
    before = progress.epoch_started
    try:
        trainer.train(resume=resume)
        if not _tests(trainer):
            return
        trainer.test()
    except ConfigError:
        raise  # said in a line, whenever it is found
    except Exception as error:
        if isinstance(error, (FarabioError, OSError)) and progress.epoch_started == before:
            raise  # nothing has been trained
        traceback.print_exc()
        raise typer.Exit(1) from error


def _tests(trainer: ConvnetTrainer) -> bool:
    has_data = trainer.test_loader is not None or trainer.test_loop_iter is not None
    return has_data or not hooks.is_default(trainer, "on_test_start", "test_loop")
