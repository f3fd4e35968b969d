"""Signals that ask a run to save or to end: noted when they come, obeyed where a step is complete."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ..data.worker_processes import is_main_thread
from .requests import Requests

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1


@contextlib.contextmanager
def handled(requests: Requests) -> Iterator[None]:
    """Note signals in ``requests.signals`` instead of obeying them at once; a second Ctrl-C stops at once.

    Handlers that were there before are called too, and are in force again afterwards. What the process
    ignores stays ignored. Python allows handlers in the main thread only; elsewhere nothing is noted.
    What has come too late for the run to see to it is obeyed in the end.
    """
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and name in (*requests.signals, *requests.asked):
            requests.signals = [other for other in requests.signals if other != name]
            requests.asked = [other for other in requests.asked if other != name]
            raise KeyboardInterrupt
        if name not in requests.signals:
            requests.signals.append(name)
        previous = before[number]
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)

    if is_main_thread() and requests.notes_signals != id(requests):
        for name in NAMES:
            number = getattr(signal, name, None)
            # None: a handler that Python did not set, and could not set again.
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.getsignal(number)
                signal.signal(number, note)
        requests.notes_signals = id(requests) if before else None
    late: BaseException | None = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            requests.notes_signals = None
            collect(requests)
            late = ending(requests)
            requests.asked = [name for name in requests.asked if name not in NAMES]
    if late is not None:
        raise late


def collect(requests: Requests) -> None:
    """Move what has come to what is asked of the run; called where nothing else changes ``requests.asked``.

    See the note at `Requests`.
    """
    while requests.signals:
        name = requests.signals.pop(0)
        if name not in requests.asked:
            requests.asked.append(name)


def stops_at_once(requests: Requests, error: BaseException) -> bool:
    """Return whether a run ends by a second Ctrl-C, or one that was not noted: nothing more is saved or drawn."""
    return isinstance(error, KeyboardInterrupt) and not {"SIGINT", "SIGTERM"} & set(requests.asked)


def ending(requests: Requests) -> BaseException | None:
    """Return the exception by which a run ends that a signal has asked to end, None for no such signal."""
    if "SIGINT" in requests.asked:
        return KeyboardInterrupt()
    return SystemExit(143) if "SIGTERM" in requests.asked else None


def obey(requests: Requests) -> None:
    """End the run if a signal asked for it, after a save.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C.
    SystemExit
        With the status 143, after SIGTERM.
    """
    error = ending(requests)
    if error is not None:
        raise error
