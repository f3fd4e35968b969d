"""Signals that ask a run to save or to end: noted when they come, obeyed where a step is complete."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch.utils.data import dataloader
from torch.utils.data._utils import signal_handling

if TYPE_CHECKING:
    from .loop import RunState

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1
ASK_AGAIN = 0.05  # seconds until the news of a worker's death is told again, if no batch is waited for
PATIENCE = 10.0  # seconds after which it is told anywhere: a batch may be waited for in a way of the user's own


@contextlib.contextmanager
def noted(state: RunState) -> Iterator[None]:
    """Note signals in ``state.signals`` instead of obeying them at once; a second Ctrl-C stops at once.

    Handlers that were there before are called too, and are in force again afterwards. What the process
    ignores stays ignored. Python allows handlers in the main thread only; elsewhere nothing is noted.
    What has come too late for the run to see to it is obeyed in the end.
    """
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and name in (*state.signals, *state.asked):
            state.signals = [other for other in state.signals if other != name]
            state.asked = [other for other in state.asked if other != name]
            raise KeyboardInterrupt
        if name not in state.signals:
            state.signals.append(name)
        previous = before[number]
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)

    if _is_main_thread() and state.notes_signals != id(state):
        for name in NAMES:
            number = getattr(signal, name, None)
            # None: a handler that Python did not set, and could not set again.
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.getsignal(number)
                signal.signal(number, note)
        state.notes_signals = id(state) if before else None
    late: BaseException | None = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            state.notes_signals = None
            take(state)
            late = ending(state)
            state.asked = [name for name in state.asked if name not in NAMES]
    if late is not None:
        raise late


def take(state: RunState) -> None:
    """Move what has come to what is asked of the run; called where nothing else changes ``state.asked``.

    A signal may come between any two lines: the handler adds to one list, and only this takes from it.
    """
    while state.signals:
        name = state.signals.pop(0)
        if name not in state.asked:
            state.asked.append(name)


@contextlib.contextmanager
def workers_watched() -> Iterator[None]:
    """Let torch say that a loader's worker has died only where a batch is waited for.

    Its handler raises an error wherever the main thread is. Amid a step of an optimizer some weights would have
    moved and others not, and the step would count as one that was not taken.
    """
    install = getattr(signal_handling, "_set_SIGCHLD_handler", None)
    if install is None or not hasattr(signal, "SIGCHLD") or not _is_main_thread():
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
    if not _tells_of_workers(handler) or not _is_main_thread():
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # which lets the news go by
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def stops_at_once(state: RunState, error: BaseException) -> bool:
    """Return whether a run ends by a second Ctrl-C, or one that was not noted: nothing more is saved or drawn."""
    return isinstance(error, KeyboardInterrupt) and not {"SIGINT", "SIGTERM"} & set(state.asked)


def ending(state: RunState) -> BaseException | None:
    """Return the exception by which a run ends that a signal has asked to end, None for no such signal."""
    if "SIGINT" in state.asked:
        return KeyboardInterrupt()
    return SystemExit(143) if "SIGTERM" in state.asked else None


def obey(state: RunState) -> None:
    """End the run if a signal asked for it, after a save.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C.
    SystemExit
        With the status 143, after SIGTERM.
    """
    error = ending(state)
    if error is not None:
        raise error


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _tells_of_workers(handler: Any) -> bool:
    """Return whether a handler of SIGCHLD is torch's, or the one that calls it."""
    return getattr(handler, "__module__", "") in (signal_handling.__name__, __name__)
