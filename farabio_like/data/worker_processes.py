"""Worker processes of a loader that died: noticed where a batch is waited for; which one, of what, what to do."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from torch.utils.data import dataloader
from torch.utils.data._utils import signal_handling

from ..errors import DataError
from .loaders import Items

ASK_AGAIN = 0.05  # seconds until the news of a worker's death is told again, if no batch is waited for
PATIENCE = 10.0  # seconds after which it is told anywhere: a batch may be waited for in a way of the user's own


@contextlib.contextmanager
def workers_watched() -> Iterator[None]:
    """Let torch say that a loader's worker has died only where a batch is waited for.

    Its handler raises an error wherever the main thread is. Amid a step of an optimizer some weights would have
    moved and others not, and the step would count as one that was not taken.
    """
    install = getattr(signal_handling, "_set_SIGCHLD_handler", None)
    if install is None or not hasattr(signal, "SIGCHLD") or not is_main_thread():
        yield
        return
    if signal.getsignal(signal.SIGCHLD) not in (signal.SIG_IGN, None):
        install()  # or the first loader with workers would do so amid the run
    torchs: Any = signal.getsignal(signal.SIGCHLD)
    if not _tells_of_workers(torchs):
        yield
        return

    died: RuntimeError | None = None
    since = 0.0
    again: threading.Timer | None = None

    def wait_for_a_fetch(number: int, frame: FrameType | None) -> None:
        nonlocal died, since, again
        try:
            torchs(number, frame)
        except RuntimeError as error:  # once for a death
            died, since = error.with_traceback(None), time.monotonic()
        if died is None:
            return
        while frame is not None and frame.f_code.co_filename != dataloader.__file__:
            frame = frame.f_back
        if frame is not None or time.monotonic() - since > PATIENCE:
            said, died = died, None
            raise said
        if again is not None:
            again.cancel()
        again = threading.Timer(ASK_AGAIN, signal.pthread_kill, (threading.main_thread().ident, number))
        again.daemon = True
        again.start()

    signal.signal(signal.SIGCHLD, wait_for_a_fetch)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, torchs)
        if again is not None:
            again.cancel()


@contextlib.contextmanager
def deaf_to_workers() -> Iterator[None]:
    """Keep torch from raising an error, wherever the main thread is, because a loader's worker died.

    It would cut off the end of a run that ends by this very death.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not _tells_of_workers(handler) or not is_main_thread():
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # which lets the news go by
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def is_main_thread() -> bool:
    """Return whether this is the thread in which Python runs handlers of signals."""
    return threading.current_thread() is threading.main_thread()


def _tells_of_workers(handler: Any) -> bool:
    """Return whether a handler of SIGCHLD is torch's, or the one that calls it."""
    return getattr(handler, "__module__", "") in (signal_handling.__name__, __name__)


# What torch says: from its handler of SIGCHLD, and where it waits for a batch.
_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: (\w[\w ]*)")
_GONE = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) exited unexpectedly")


def lost_worker(error: BaseException | None, loader: str | None, where: str) -> DataError | None:
    """Return an error that says which worker died and of which signal, None where none did.

    Parameters
    ----------
    error : BaseException or None
        What was raised.
    loader : str or None
        ``"train"``, ``"valid"`` or ``"test"``: which one is read, if the error does not tell.
    where : str
        In which epoch and after which step, for the message.
    """
    found = (_KILLED.search(str(error)) or _GONE.search(str(error))) if isinstance(error, RuntimeError) else None
    broken = isinstance(error, (ConnectionError, EOFError))  # it died while it handed over a batch
    if error is None or not (found or broken):
        return None
    ends = {}  # what became of each worker, by its pid
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
    return DataError(
        f"a worker of {'the ' + loader if loader else 'a'} loader died {where}: "
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
