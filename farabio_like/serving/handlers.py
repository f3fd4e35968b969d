"""What sees each request and its answer: a database, a logger of this package, a class of the user's.

Handlers run on a thread of their own and can slow no request. The chart of the last hour is drawn by `monitor`.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..callbacks.base import Logger

MOST_KEPT = 10_000  # exchanges that wait for the handlers; further ones are counted and left out


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    Parameters
    ----------
    time : float
        When it came, in seconds since 1970.
    source : str
        ``"http"`` or ``"queue"``.
    client : str
        The address of the client; empty for the queue.
    items : list
        What `Predictor.decode` is given. Empty where the request could not be read.
    status : int
    seconds : float
        From the first byte to the answer.
    media_type : str
        Of the answer.
    answer : bytes
    """

    time: float
    source: str
    client: str
    items: list[Any]
    status: int
    seconds: float
    media_type: str
    answer: bytes


class Handler:
    """Base of what sees each request and its answer; override `handle`."""

    def start(self) -> None:
        """Called once, on the thread of the handlers, before the first exchange."""

    def handle(self, exchange: Exchange) -> None:
        """Called for each request after its answer was sent. What it raises is printed once, and changes nothing."""

    def close(self) -> None:
        """Called once, after the last exchange."""


class SQLiteHandler(Handler):
    """Writes a row for each request into the table ``exchanges`` of a SQLite file.

    Parameters
    ----------
    path : str or Path
    most_characters : int
        Of an answer in JSON, which is kept; other answers are not.
    """

    def __init__(self, path: str | Path, most_characters: int = 10_000) -> None:
        self.path = Path(path)
        self.most_characters = most_characters

    def start(self) -> None:
        """Open the file, and make the table where there is none."""
        self.database = sqlite3.connect(self.path, isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS exchanges (id INTEGER PRIMARY KEY, time REAL, source TEXT, client TEXT, "
            "items INTEGER, status INTEGER, seconds REAL, media_type TEXT, bytes INTEGER, answer TEXT)"
        )

    def handle(self, exchange: Exchange) -> None:
        """Insert a row."""
        text = None
        if exchange.media_type == "application/json":
            text = exchange.answer.decode("utf-8", "replace")[: self.most_characters]
        row = (exchange.time, exchange.source, exchange.client, len(exchange.items), exchange.status)
        row += (exchange.seconds, exchange.media_type, len(exchange.answer), text)  # type: ignore[assignment]
        self.database.execute(f"INSERT INTO exchanges VALUES (NULL{', ?' * len(row)})", row)

    def close(self) -> None:
        """Close the file."""
        self.database.close()


class LoggerHandler(Handler):
    """Gives the numbers of every few seconds to a logger of this package: TensorBoard, MLflow, a CSV file, ...

    Parameters
    ----------
    logger : Logger
    folder : str or Path
        Where a logger that writes files puts them.
    seconds : float
        How often.
    """

    def __init__(self, logger: Logger, folder: str | Path, seconds: float = 10.0) -> None:
        self.logger = logger
        self.folder = Path(folder)
        self.seconds = seconds
        self.times: list[float] = []
        self.errors = 0
        self.total = 0

    def start(self) -> None:
        """Open the logger."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logger.start({}, self.folder)
        self.next = time.monotonic() + self.seconds

    def handle(self, exchange: Exchange) -> None:
        """Count the request; write what has been counted when it is time."""
        self.times.append(exchange.seconds)
        self.errors += exchange.status >= 400
        if time.monotonic() >= self.next:
            self._write()

    def _write(self) -> None:
        times, number = sorted(self.times), len(self.times)
        self.total += number
        values = {
            "serve/requests": float(number),
            "serve/errors": float(self.errors),
            "serve/p50": times[number // 2],
            "serve/p99": times[min(number - 1, number * 99 // 100)],
        }
        self.times, self.errors, self.next = [], 0, time.monotonic() + self.seconds
        self.logger.scalars(values, self.total)

    def close(self) -> None:
        """Write the rest, and close the logger."""
        if self.times:
            self._write()
        self.logger.finish("finished")


class Recorder:
    """The thread of the handlers and the queue before it.

    Parameters
    ----------
    handlers : sequence of Handler
    """

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self.handlers = list(handlers)
        self.left_out = 0
        self._queue: queue.Queue[Exchange | None] = queue.Queue(MOST_KEPT)
        self._said: set[int] = set()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, where there are handlers."""
        if self.handlers:
            self._thread = threading.Thread(target=self._run, name="farabio-like-handlers", daemon=True)
            self._thread.start()

    def put(self, exchange: Exchange) -> None:
        """Hand an exchange over; never waits."""
        if self.handlers:
            try:
                self._queue.put_nowait(exchange)
            except queue.Full:
                self.left_out += 1

    def close(self, seconds: float = 5.0) -> None:
        """End the thread, after what waits was handled."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=seconds)
            self._thread.join(seconds)

    def _run(self) -> None:
        working = [handler for handler in self.handlers if self._try(handler, "start")]
        while (exchange := self._queue.get()) is not None:
            for handler in working:
                self._try(handler, "handle", exchange)
        for handler in working:
            self._try(handler, "close")

    def _try(self, handler: Handler, method: str, *arguments: Exchange) -> bool:
        try:
            getattr(handler, method)(*arguments)
        # A handler's mistake is no request's.
        except Exception:
            if id(handler) not in self._said:
                self._said.add(id(handler))
                print(f"{type(handler).__name__}.{method} failed; said once:", file=sys.stderr)
                traceback.print_exc()
            return False
        return True
