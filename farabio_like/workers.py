"""Worker processes of a loader that died: which one, of what, and what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .data import Items
from .errors import DataError

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer

# What torch says: from its handler of SIGCHLD, and where it waits for a batch.
_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: (\w[\w ]*)")
_GONE = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) exited unexpectedly")


def loss(trainer: ConvnetTrainer, error: BaseException | None) -> DataError | None:
    """Return an error that says which worker died and of which signal, None where none did."""
    found = (_KILLED.search(str(error)) or _GONE.search(str(error))) if isinstance(error, RuntimeError) else None
    broken = isinstance(error, (ConnectionError, EOFError))  # it died while it handed over a batch
    if error is None or not (found or broken):
        return None
    state = trainer._run_state
    loader, ends = None, {}  # ends: what became of each worker, by its pid
    for owner in _owners(error.__traceback__):
        loader = owner.name if isinstance(owner, Items) else loader
        for number, process in enumerate(getattr(owner, "_workers", ())):
            if broken:
                process.join(1)
            if process.exitcode:
                code = process.exitcode
                how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with {code}"
                ends[str(process.pid)] = f"worker {number} (pid {process.pid}) {how}"
    if found:
        unknown = f"was killed by the signal: {found.group(2)}" if found.re is _KILLED else "is gone"
        said = [ends.get(pid, f"pid {pid} {unknown}") for pid in found.group(1).split(", ")]
    else:
        said = list(ends.values())
    if not said:
        return None
    # The news may have come anywhere, in a training step say.
    loader = loader or {"train": "train", "evaluate": "valid"}.get(state.phase or "")
    done = state.epoch_step + state.batches
    return DataError(
        f"a worker of {'the ' + loader if loader else 'a'} loader died in epoch {trainer._epoch}, after step {done}: "
        f"{', '.join(said)}. SIGKILL mostly means that memory ran out: fewer workers, smaller batches, a smaller "
        "prefetch_factor, more shared memory (docker run --shm-size). Any other end is the dataset's: num_workers=0 "
        "shows where."
    )


def _owners(traceback: TracebackType | None) -> Iterator[Any]:
    """Yield the objects whose methods an exception came through."""
    while traceback is not None:
        yield traceback.tb_frame.f_locals.get("self")
        traceback = traceback.tb_next


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
