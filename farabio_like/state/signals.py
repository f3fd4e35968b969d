"""Signals that ask a run to save or to end: noted when they come, obeyed where a step is complete."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..data.worker_processes import is_main_thread

if TYPE_CHECKING:
    from .run_state import RunState


NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1


@contextlib.contextmanager
def handled(state: RunState) -> Iterator[None]:
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

    if is_main_thread() and state.notes_signals != id(state):
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
            collect(state)
            late = ending(state)
            state.asked = [name for name in state.asked if name not in NAMES]
    if late is not None:
        raise late


def collect(state: RunState) -> None:
    """Move what has come to what is asked of the run; called where nothing else changes ``state.asked``.

    A signal may come between any two lines: the handler adds to one list, and only this takes from it.
    """
    while state.signals:
        name = state.signals.pop(0)
        if name not in state.asked:
            state.asked.append(name)


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
