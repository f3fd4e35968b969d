"""When a run writes its checkpoints, and into which files."""

from __future__ import annotations

import math
import sys
import traceback
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .. import checkpoint, components, distributed
from ..checkpoint import sharded
from ..config.settings import Default
from ..distributed import ddp, fsdp
from ..errors import CheckpointError
from ..loggers.console import write_line
from ..optim import nonfinite
from ..rundir import index, layout
from ..state import signals
from . import capture

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

LARGEST_KEPT = 1 << 26  # bytes of the parameters of a best epoch that waits in memory


def schedule_next(trainer: ConvnetTrainer) -> None:
    """Note when the next save within an epoch is due."""
    state = trainer._run_state
    state.next_save, state.next_save_time = math.inf, math.inf
    if trainer._save_steps is not None:
        state.next_save = (state.progress.step // trainer._save_steps + 1) * trainer._save_steps
    if trainer._save_minutes is not None:
        state.next_save = state.progress.step + 1  # the clock is looked at after every step
        state.next_save_time = perf_counter() + 60 * trainer._save_minutes


def after_epoch(trainer: ConvnetTrainer, best: bool, last: bool) -> None:
    """Save an epoch that is done, or put it off, see `PutOff`."""
    state = trainer._run_state
    assert state.folder is not None
    at_once = last or bool(state.requests.asked)
    if not (best or at_once or trainer._epoch % trainer._save_epoch == 0):
        return
    if not at_once and _is_put_off(trainer) and (not best or _keep(trainer)):
        state.put_off.behind = trainer._epoch
        return
    started = perf_counter()
    # The best first: of a process that is killed between the two names, it is the newest to go on from.
    write(trainer, [state.folder.best, state.folder.last] if best else [state.folder.last])
    state.put_off.saved(started)
    schedule_next(trainer)


def _is_put_off(trainer: ConvnetTrainer) -> bool:
    asked_for = type(trainer._save_epoch) is not Default
    if asked_for or trainer._save_steps is not None or trainer._save_minutes is not None:
        return False
    # Of several ranks the first one's clock counts.
    return distributed.from_main(lambda: not trainer._run_state.put_off.is_due(trainer._unsaved_seconds))


def _keep(trainer: ConvnetTrainer) -> bool:
    """Keep the whole state of the best epoch in memory, unless it is large or in shards; return whether it is kept."""
    if not components.modules_of(trainer):
        return True  # there is nothing to save, see `write`
    size = sum(parameter.nbytes for _, parameter in components.named_parameters(trainer))
    if size > LARGEST_KEPT or fsdp.are_in(trainer):
        return False
    saved = _state_of_all(trainer)
    if nonfinite.weights_are_finite(trainer) and distributed.is_main():
        trainer._run_state.put_off.waiting = checkpoint.snapshot(saved)
    return True


def write_best(trainer: ConvnetTrainer) -> None:
    """Write the best epoch, if it waits."""
    state = trainer._run_state
    if state.put_off.waiting is not None:
        state.writer.finish()  # two at once would write one index
        _store_waiting(trainer, state.put_off.waiting)


def _store_waiting(trainer: ConvnetTrainer, waiting: dict[str, Any]) -> None:
    """Write the best epoch, as the last one too: what comes next may not be finite, and is not written then."""
    state = trainer._run_state
    assert state.folder is not None
    _store(trainer, waiting, [state.folder.best, state.folder.last])
    if state.put_off.waiting is waiting:  # in the background, a better one may wait by now
        state.put_off.waiting = None


def catch_up(trainer: ConvnetTrainer) -> None:
    """Save the last epoch, if that was put off: a subclass with a train_loop of its own may end after any epoch."""
    state = trainer._run_state
    if state.put_off.behind is not None and state.folder is not None:
        write(trainer, [state.folder.last])
        state.put_off.behind = None


def after_step(trainer: ConvnetTrainer) -> None:
    """Write what is due, now that a step is complete with its callbacks and metrics; then end if a signal asks it."""
    state = trainer._run_state
    asked = [name for name in state.requests.asked if name in signals.NAMES]
    saves, state.requests.saves = state.requests.saves, []
    # Of several ranks the first one's clock counts, see rank_requests.after_step.
    due = bool(asked) or (state.ranks is None and perf_counter() >= state.next_save_time)
    if trainer._save_steps is not None and state.progress.step % trainer._save_steps == 0:
        due = True
    settle, state.settle = state.settle, None
    if settle is not None and settle() and state.folder is not None:
        if not _is_put_off(trainer) or not _keep(trainer):
            saves.insert(0, state.folder.best)
    if due and state.folder is not None:
        saves.insert(0, state.folder.last)
    if saves:
        write(trainer, saves)
    if due:
        schedule_next(trainer)
    elif state.progress.step >= state.next_save:
        state.next_save = state.progress.step + 1
    state.requests.asked = [name for name in asked if name != "SIGUSR1"]
    signals.obey(state.requests)


def write(trainer: ConvnetTrainer, paths: list[Path], together: bool = True) -> None:
    """Write one checkpoint under these names, unless the weights are not finite; all ranks call it, or one alone."""
    if not components.modules_of(trainer):
        return
    state = trainer._run_state
    if fsdp.are_in(trainer):
        if together and nonfinite.weights_are_finite(trainer):
            for folder in dict.fromkeys(path.parent for path in paths):  # each needs shards beside it
                _write_now(trainer, [path for path in paths if path.parent == folder])
        return
    waiting = state.put_off.waiting
    saved, weights = _state_of_all(trainer, together), nonfinite.weights(trainer)
    if together and state.ranks is not None:
        if not distributed.is_main():
            nonfinite.weights_are_finite(trainer)  # the first rank looks when it writes, and would end alone
            return

    def job(of_now: tuple[dict[str, Any], dict[str, Any]]) -> None:
        saved, weights = of_now
        if waiting is not None:
            _store_waiting(trainer, waiting)
        if nonfinite.weights_are_finite(trainer, weights):
            _store(trainer, saved, paths)

    # In the background copies of the tensors are written: the run goes on changing the tensors themselves.
    state.writer.write(job, (saved, weights), trainer._async_checkpoint)


def _state_of_all(trainer: ConvnetTrainer, together: bool = True) -> dict[str, Any]:
    """Return the state of the run, with what each of several ranks has for itself where all of them call it."""
    several = together and trainer._run_state.ranks is not None
    if several:
        ddp.sync_buffers(trainer)  # or a resumed rank would go on with the statistics of the first one
    saved = capture.capture_run(trainer)
    if several:
        own, _ = sharded.split_off(capture.capture_rank(trainer), "/run")  # the state has the same tensors
        saved["run"]["ranks"] = distributed.gather_on_main(checkpoint.snapshot(own))
    return saved


def _write_now(trainer: ConvnetTrainer, paths: list[Path]) -> None:
    """Write one checkpoint under these names of one folder; all ranks call it."""
    trainer._run_state.writer.finish()  # two at once would write one index
    write_best(trainer)
    saved = _state_of_all(trainer)
    if fsdp.are_in(trainer):
        saved = sharded.write_shards(saved, paths[0].parent)
    _store(trainer, saved, paths)


def _store(trainer: ConvnetTrainer, saved: dict[str, Any], paths: list[Path]) -> None:
    """Write the file, and put the folder in order where it is the run's own; one rank does it."""
    state = trainer._run_state
    checkpoint.save(saved, *paths)
    if distributed.is_main() and state.folder is not None and paths[0].parent == state.folder.last.parent:
        index.write_index(state.folder.path, saved, paths)
        sharded.sweep(state.folder.last.parent)
        state.saved_step = saved["step"]


def save_checkpoint(trainer: ConvnetTrainer, path: Path) -> None:
    """Do what `ConvnetTrainer.save_checkpoint` says."""
    state = trainer._run_state
    if state.running == "train" and state.progress.phase == "train" and state.loader is not None:
        state.requests.saves.append(path)
        state.requests.asked.append("save")
    elif state.running == "train" and state.progress.phase == "train" and state.means is not None:
        state.requests.saves.append(path)  # in on_train_epoch_end, which would be called again: done after it
    else:
        _write_now(trainer, [path])


def after_training(trainer: ConvnetTrainer) -> None:
    """Write what was asked for at the end of an epoch's training batches; its evaluation begins."""
    requests = trainer._run_state.requests
    saves, requests.saves = requests.saves, []
    if saves:
        write(trainer, saves)


def save_what_is_left(trainer: ConvnetTrainer, error: BaseException) -> None:
    """After an error, save the last complete step; into a file of its own, unless a signal ended the run.

    Of several ranks the first one writes what it has, for the weights are those of all; never over a file that all
    have written together. What goes wrong here is printed: the error that ends the run comes out.
    """
    state = trainer._run_state
    stopped = "SIGINT" in state.requests.asked or "SIGTERM" in state.requests.asked
    at_once = signals.stops_at_once(state.requests, error)
    if state.ranks is not None:
        # Alone, a rank has its own shards only; one that starts again goes on exactly, from the last common save.
        if not distributed.is_main() or fsdp.are_in(trainer) or distributed.starts_again():
            return
        stopped = False  # torchrun ends by SIGTERM what another rank's failure has left
    if state.folder is None:
        return
    try:
        try:
            state.writer.finish()
        finally:
            write_best(trainer)  # whatever has ended the run: it is in no file yet
        if at_once or isinstance(error, CheckpointError):
            return
        between_epochs = state.progress.phase is None
        # An epoch whose own end has failed, a scheduler's step say, is not done.
        if between_epochs and state.put_off.behind != state.progress.last_epoch_done:
            return
        if state.progress.complete_step <= state.saved_step or nonfinite.bad_weights(trainer):
            return
        stopped = stopped or (between_epochs and state.ranks is None)
        name = layout.LAST if stopped else layout.CRASH
        write(trainer, [state.folder.last.with_name(name)], together=False)
        if not stopped:
            state.console.line(
                f"what was trained until the error is in {layout.shown(state.folder.last.with_name(name))}"
            )
    except Exception as further:
        write_line("another error, while saving after the one that ends the run:", sys.stderr)
        write_line("".join(traceback.format_exception(further)).rstrip(), sys.stderr)
