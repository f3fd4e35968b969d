"""The run that goes on: its counters, what is said of it, and its folder: its own, or a new one with what was done."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import checkpoint, distributed, rundir
from ..checkpoint import sharded
from ..distributed import fsdp
from ..errors import ConfigError
from ..rundir import index, layout
from ..state.run_state import first_epoch
from . import contents, find, rank_part
from . import data as samples
from .capture import made_with
from .restore import Resumption

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def resume_run(trainer: ConvnetTrainer, resume_from: Any, other_data: bool = False) -> None:
    """Find the checkpoint to go on from, and the folder: its own, unless that run has come further since."""
    state = trainer._run_state
    found = distributed.from_main(lambda: find.find(trainer, resume_from))
    if found is None:
        return
    saved, path = found
    saved = sharded.read_shards(saved, path, fsdp.mesh_of(trainer))
    state.resumption = Resumption(rank_part.own_part(trainer, saved), str(path))
    with contents.using(path, "run/data"):
        samples.take_back(trainer, saved["run"].get("data", {}), str(path), other_data)
    state.resumption.counters(trainer)
    _announce(trainer, saved, path)
    folder = path.parent.parent

    def newest() -> bool:
        there = index.checkpoints(folder) if path.parent.name == layout.CHECKPOINTS else []
        whole_run = resume_from is True or Path(resume_from).expanduser().is_dir()
        return bool(there) and (whole_run or there[0].samefile(path))

    if trainer._logdir is not None and distributed.from_main(newest):
        state.folder = rundir.RunDir.at(folder, type(trainer))
        trainer.run_dir = state.folder.path
        # Of a checkpoint that was written in the last hook of an epoch, the history has that epoch, which comes again.
        done = state.progress.last_epoch_done
        state.rewind_to = trainer._start_epoch - 1 if done is None else done, state.progress.step
        distributed.from_main(partial(_put_in_order, trainer, state.folder, saved, path))
    state.saved_step = state.progress.step
    if saved["run"]["epoch"] is None and first_epoch(trainer) > trainer._num_epochs:
        state.console.line(f"already at epoch {saved['epoch']} of {trainer._num_epochs}: nothing is left to train")
    elif saved["run"]["finished"] and resume_from is True and saved["run"]["num_epochs"] >= trainer._num_epochs:
        state.requests.stop = True
        state.console.line(
            f"stop_train() ended this run in epoch {saved['epoch']}, and it was ended before all was done that comes "
            f"after; train(resume={str(path)!r}) goes on with further epochs"
        )


def _announce(trainer: ConvnetTrainer, saved: dict[str, Any], path: Path) -> None:
    """Say from where the run goes on, and in what it cannot be as it was."""
    say, run = trainer._run_state.console.line, saved["run"]
    if saved["class"] != type(trainer).__qualname__:
        say(f"resuming a {saved['class']} as a {type(trainer).__qualname__}")
    position = run["epoch"]
    where = f"the end of epoch {saved['epoch']}"
    if position is not None:
        phase = f"batch {position['batches']}" if position["phase"] == "train" else "the training batches"
        where = f"{phase} of epoch {saved['epoch']}"
    say(f"resuming from {path}: after {where}, step {saved['step']}")
    if path.name == layout.CRASH and position is not None:
        several = run["made_with"].get("number of processes", 1) > 1
        rest = ", and it has metrics and gathered gradients of the first process alone" if several else ""
        say(f"  written after an error: its random numbers may not be those of a run without it{rest}")
    unmeasured = rank_part.unmeasured(trainer, run)
    if unmeasured:
        say(
            f"  there were more processes: {', '.join(unmeasured)} of epoch {saved['epoch']} leave out what those had "
            "trained"
        )
    now = made_with(trainer)
    differences = [
        f"{name} was {run['made_with'][name]}, is {now[name]}"
        for name in now
        if name in run["made_with"] and run["made_with"][name] != now[name]
    ]
    if differences:
        say("  different now (an optimizer keeps what it had): " + "; ".join(differences))


def _put_in_order(trainer: ConvnetTrainer, run: rundir.RunDir, saved: dict[str, Any], path: Path) -> None:
    """Take out of the folder of a run that goes on what is half written, or later than its checkpoint."""
    state = trainer._run_state
    try:
        run.check()
        run.hold()
        for swept in (path.parent, run.path):
            checkpoint.sweep(swept)
        if path.name == layout.BEST:  # killed before it had its second name, or that file is damaged
            checkpoint.link_durably(path, run.last)
            index.write_index(run.path, saved, [run.last, path])
        sharded.sweep(path.parent)
        assert state.rewind_to is not None
        epoch, step = state.rewind_to
        done = [entry for entry in state.history if entry["epoch"] <= epoch]
        run.rewind(done, step, state.best, (state.resumption.position or {}).get("evaluations", ()))
    except OSError as error:
        run.release()
        raise ConfigError(
            f"the run folder {run.path} cannot be written: {error.strerror or error}. Go on from a copy of it, by "
            "train(resume=path)."
        ) from error


def bring_along(trainer: ConvnetTrainer, run: rundir.RunDir) -> None:
    """Give a run that goes on in a new folder its epochs, and its best one; without the file, it has no best one."""
    state = trainer._run_state
    path = Path(state.resumption.file)
    if state.best is not None:
        best = state.best
        found = distributed.from_main(lambda: find.find_best(best, [path, path.with_name(layout.BEST)]))
        if found is None:
            state.console.line(
                f"  the file of epoch {best.epoch}, the best so far, is not there: the next one is the best"
            )
            state.best = None
        else:
            distributed.from_main(partial(checkpoint.link_durably, found, run.best))
    distributed.from_main(
        partial(
            run.rewind,
            *(state.history, state.progress.step, state.best, (state.resumption.position or {}).get("evaluations", ())),
        )
    )
    if "shards" not in state.resumption.saved:
        # Killed before its first save, the run goes on with this one, not with the best.
        distributed.from_main(partial(checkpoint.link_durably, path, run.last))
