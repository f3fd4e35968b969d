"""Which checkpoint a run goes on from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import checkpoint, distributed
from ..checkpoint import access, sharded
from ..errors import CheckpointError, ConfigError
from ..metrics.direction import Best
from ..rundir import layout
from ..rundir.index import checkpoints, is_closed, is_finished, sweep_unfinished
from . import contents

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def of_this_job(trainer: ConvnetTrainer) -> Path | None:
    """Return the folder of the run that ``torchrun`` has restarted, None for a first start, or without a checkpoint."""
    if not distributed.restarts() or trainer._logdir is None:
        return None
    for folder in reversed(layout.folders_of(trainer._logdir, type(trainer))):
        try:
            job = access.read_object(folder / layout.ENVIRONMENT, folder).get("torchrun_job")
        except (OSError, ValueError):
            continue
        if job == distributed.job():
            return folder if checkpoints(folder) else None
    return None


def find(trainer: ConvnetTrainer, resume: Any) -> tuple[dict[str, Any], Path] | None:
    """Return the state to go on from and its file, None where there is none yet.

    Parameters
    ----------
    trainer : ConvnetTrainer
    resume : True or path
        True: of the newest run of this class that did not finish. A path: a checkpoint, or the folder of a run. Of a
        run its newest checkpoint that is intact. A run is finished when its last epoch is done, or it was ended by
        ``stop_train()``, and all that comes after was done too; one that has fewer epochs than there are to be now
        goes on where none is unfinished.

    Raises
    ------
    FileNotFoundError
        For a path that is not there.
    CheckpointError
        If there are checkpoints and none can be used.
    """
    if resume is not True:
        if not isinstance(resume, (str, os.PathLike)):
            raise ConfigError(f"train(resume={resume!r}): expected True, False, or the path of a checkpoint or a run.")
        path = Path(resume).expanduser()
        if path.is_dir():
            return _newest(trainer, path)
        return _read(path), path
    if trainer._logdir is None:
        raise ConfigError("train(resume=True) looks in the log folder, and _logdir is None. Give a path.")
    finished: tuple[dict[str, Any], Path] | None = None
    for folder in reversed(layout.folders_of(trainer._logdir, type(trainer))):
        if not checkpoints(folder):
            sweep_unfinished(folder)
            continue
        if finished is not None and is_finished(folder) and is_closed(folder):
            continue
        found = _newest(trainer, folder)
        if not found[0]["run"]["finished"] or not is_closed(folder):
            return found
        finished = finished or found
    if finished is not None:
        saved, path = finished
        last, asked = saved["run"]["num_epochs"], trainer._num_epochs
        if asked > last:
            return finished
        how = "was ended by stop_train() in" if saved["epoch"] < asked else "is already at"
        trainer._run_state.console.line(
            f"{_run_of(path)} {how} epoch {saved['epoch']} of {asked}: starting a new run; "
            f"train(resume={str(_run_of(path))!r}) goes on with that one"
        )
        return None
    parent = layout.class_folder(trainer._logdir, type(trainer))
    trainer._run_state.console.line(f"nothing to resume in {parent}: starting from epoch {trainer._start_epoch}")
    return None


def _run_of(path: Path) -> Path:
    return path.parent.parent if path.parent.name == layout.CHECKPOINTS else path.parent


def find_best(best: Best, paths: list[Path]) -> Path | None:
    """Return the file that holds the best epoch, as a state notes it; none whose weights are in shards."""
    for path in paths:
        try:
            found = _read(path)
        except (CheckpointError, OSError):
            continue
        run = found["run"]
        within = run["epoch"] is None if best.step is None else found["step"] == best.step
        same = run["best"] is not None and Best(*run["best"]) == best and found["epoch"] == best.epoch
        if same and within and "shards" not in found:
            return path
    return None


def _newest(trainer: ConvnetTrainer, folder: Path) -> tuple[dict[str, Any], Path]:
    # First those that are not opened, to name them.
    there = sorted(checkpoints(folder), key=lambda path: access.problem_of(path, folder) is None)
    problems = []
    for path in there:
        try:
            found = _read(path, folder)
        except (CheckpointError, OSError) as error:
            problems.append(str(error))
            continue
        for problem in problems:
            trainer._run_state.console.once(f"passed over: {problem}")
        return found, path
    if not there:
        raise FileNotFoundError(f"{folder} holds no checkpoint to resume from.")
    raise CheckpointError(f"none of the {len(there)} checkpoints in {folder} can be used:\n" + "\n".join(problems))


def _read(path: Path, folder: Path | None = None) -> dict[str, Any]:
    """Read a checkpoint of a run; one in a run's folder has to be a file inside of that."""
    problem = access.problem_of(path, folder) if folder is not None else None
    if problem is not None:
        raise CheckpointError(f"{path} cannot be read: {problem}.")
    found = checkpoint.read(path)
    if "run" not in found:
        raise CheckpointError(f"{path} holds weights alone, from which no run can go on; load them: load_model(path).")
    contents.check(found, path)
    sharded.check_folder(found, path)
    return found
