"""The thread between a run and a logger: the training thread only appends to a bounded queue.

It keeps what could not be written and gives it again, and says so once; it knows no particular logger.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..callbacks.base import Logger
from ..config.secrets import Secrets
from .console import write_line

MOST_NUMBERS = 100_000  # records of scalars that wait; the oldest go first
MOST_PICTURES = 16  # images, figures, matrices and texts that wait: they may hold memory of a GPU
TICK = 0.2  # seconds between two looks at the queue; nothing wakes the thread, which would cost the training one
LONGEST_PAUSE = 8.0  # seconds between two tries while nothing can be written
LONGEST_WAIT = 60.0  # seconds that the end of a run waits for a logger that gets on
SILENT_WAIT = 2.0  # seconds of waiting after which it is said


class Changed(Exception):
    """A tensor was written to after it had been handed over."""


class Worker:
    """Gives the records of a run to one logger, on a thread of its own.

    Parameters
    ----------
    logger : Logger
    config : dict
    run_dir : Path or None
    """

    def __init__(self, logger: Logger, config: dict[str, Any], run_dir: Path | None) -> None:
        self.logger = logger
        self.name = type(logger).__name__
        self.config, self.run_dir = config, run_dir
        self.numbers: deque[tuple[Any, ...]] = deque(maxlen=MOST_NUMBERS)
        self.pictures: deque[tuple[Any, ...]] = deque(maxlen=MOST_PICTURES)
        self.given = self.taken = 0
        self.held: tuple[Any, ...] | None = None  # could not be written so far
        self.started = self.off = self.down = self.complained = False
        self.pause = 1.0
        self.status = ""
        self.ending = threading.Event()
        # A daemon: one that hangs in somebody else's code must not keep the process.
        self.thread = threading.Thread(target=self._run, name=f"{self.name} of farabio_like", daemon=True)
        logger.deadline = None

    def put_numbers(self, values: dict[str, Any], step: int) -> None:
        """Queue scalars. Called on the training thread."""
        self.given += 1
        self.numbers.append((self.given, "scalars", values, step))

    def put(self, method: str, *arguments: Any) -> None:
        """Queue anything else. Called on the training thread."""
        self.given += 1
        self.pictures.append((self.given, method, *arguments))

    @property
    def waiting(self) -> int:
        """How many records are not written."""
        return len(self.numbers) + len(self.pictures) + (self.held is not None)

    def end(self, status: str) -> None:
        """Ask the thread to write what is left and to close; it has until the logger's deadline."""
        self.status = status
        self._give(time.monotonic() + self.logger.close_seconds)
        self.ending.set()

    def wait(self, since: float, say: Callable[[str], None]) -> None:
        """Wait for the thread, which was asked to end: for ``close_seconds`` from its last record on, within a minute.

        Parameters
        ----------
        since : float
            When it was asked, by ``time.monotonic()``.
        say : callable
            Gets a line where this lasts.
        """
        seconds = self.logger.close_seconds
        last, seen, said = since + max(LONGEST_WAIT, seconds), (self.started, self.taken), False
        until = since + seconds
        while self.thread.is_alive() and (now := time.monotonic()) < until:
            self.thread.join(min(0.2, until - now))
            if (progress := (self.started, self.taken)) != seen:
                seen, until = progress, min(last, time.monotonic() + seconds)
                self._give(until)
            if not said and now > since + SILENT_WAIT:
                said = True
                say(f"waiting for {self.name}, which has {self.waiting} records to write; Ctrl-C leaves it")

    def leave(self) -> None:
        """Say so if the thread has not ended in its time: it hangs in somebody else's code."""
        if self.thread.is_alive():
            _warn(
                f"{self.name} has not ended in {self.logger.close_seconds:g} seconds after what it wrote last: it is "
                f"left alone, and its last {self.waiting} records may be lost."
            )

    def _give(self, until: float) -> None:
        self.logger.deadline = until - 0.2 * self.logger.close_seconds  # what is left is for closing

    def _run(self) -> None:
        pause = TICK
        while True:
            ending = self.ending.wait(pause)
            pause = self._work()
            if ending:
                break
        self._close()

    def _work(self) -> float:
        """Write what waits; return the seconds until the next time."""
        if self.off:
            self.numbers.clear()
            self.pictures.clear()
            return TICK
        try:
            if not self.started:
                self.logger.start(self.config, self.run_dir)
                self.started = True
            self._drain()
            self.logger.flush()
        except OSError as error:
            return self._gone(error)
        except Exception as error:
            self.off = not self.started
            self._complain(error)
            return TICK
        self._back()
        return TICK

    def _drain(self) -> None:
        while (record := self.held or self._next()) is not None:
            self.held = record
            try:
                _, method, *arguments = record
                if method == "scalars":
                    arguments[0] = {name: float(value) for name, value in arguments[0].items()}
                elif method == "images":
                    arguments[1] = _unchanged(*arguments[1])
                    # Given again, it is the copy that is given.
                    self.held = (record[0], method, arguments[0], (arguments[1], None), arguments[2])
                getattr(self.logger, method)(*arguments)
            except OSError:
                raise  # `held` is given again
            except Exception as error:
                self._complain(error)
            self.held = None
            if self.logger.deadline is not None and time.monotonic() > self.logger.deadline:
                return
            time.sleep(0)  # lets the training thread have the interpreter

    def _next(self) -> tuple[Any, ...] | None:
        """Take the older one of the two first records."""
        numbers, pictures = self.numbers, self.pictures
        try:
            # The queues may have lost the record that was looked at, never the last one.
            first = pictures if pictures and (not numbers or pictures[0][0] < numbers[0][0]) else numbers
            record = first.popleft()
        except IndexError:
            return None
        self.taken += 1
        return record

    def _gone(self, error: OSError) -> float:
        if not self.down:
            self.down, self.pause = True, 0.5
            _warn(
                f"{self.name} cannot write ({self._said(error)}). The run goes on; what it records is kept "
                "and sent again."
            )
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        return self.pause

    def _back(self) -> None:
        if self.down:
            self.down = False
            lost = self.given - self.taken - self.waiting
            _warn(
                f"{self.name} writes again; {f'{lost} records were too many to keep' if lost else 'nothing is lost'}."
            )

    def _complain(self, error: Exception) -> None:
        if not self.complained:
            self.complained = True
            rest = "It is switched off" if self.off else "That record is left out"
            _warn(f"{self.name} failed ({self._said(error)}). {rest}, and the run goes on.")

    def _said(self, error: Exception) -> str:
        return f"{type(error).__name__}: {Secrets(self.config).text(str(error))}"  # an address may hold a password

    def _close(self) -> None:
        left = self.waiting
        try:
            if self.started:
                self.logger.finish(self.status)
        except OSError as error:
            if not self.down:
                self._gone(error)
        except Exception as error:
            self._complain(error)
        try:
            self.logger.close()
        except Exception as error:
            self._complain(error)
        if self.down:
            lost = f"{left} records" if left else "the last records"
            _warn(f"{self.name} could not write to the end: {lost} are lost.")


def _unchanged(images: Tensor, version: int | None) -> Tensor:
    """Return a copy on the CPU of a tensor that was handed over, if it still is what it was."""
    copy = images.detach().cpu()
    copy = copy.clone() if copy.data_ptr() == images.data_ptr() else copy
    if version is not None and images._version != version:
        raise Changed("images were written to after they had been handed over; hand over a clone()")
    return copy


def _warn(text: str) -> None:
    try:
        warnings.warn(f"{time.strftime('%H:%M:%S')} {text}", stacklevel=3)
    except UserWarning:  # warnings are errors in this process; on this thread that would end the logger
        write_line(text, sys.stderr)
