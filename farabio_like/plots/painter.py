"""Pictures drawn in a thread of its own, so seldom that they cost a run little."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from . import figure as figures
from .curves import curves

SHARE = 0.05  # of an epoch's time that a drawing may take
FIRST_GUESS = 1.0  # seconds of a drawing, before one was made


class Painter:
    """Draws the curves on a thread of its own, one drawing at a time.

    Attributes
    ----------
    seconds : float
        The processor time that the last drawing took.
    """

    def __init__(self) -> None:
        self.seconds = FIRST_GUESS
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the thread: a copy of a trainer has none under way."""
        return {"seconds": self.seconds, "thread": None, "error": None}

    def draw(self, history: list[dict[str, Any]], best_epoch: float | None, path: Path) -> None:
        """Begin a drawing, unless it would take too much of the last epoch's time, or one is under way."""
        if self.seconds > SHARE * history[-1]["seconds"] or (self.thread is not None and self.thread.is_alive()):
            return
        self.thread = threading.Thread(target=self._draw, args=(list(history), best_epoch, path), name="curves")
        self.thread.start()

    def _draw(self, history: list[dict[str, Any]], best_epoch: float | None, path: Path) -> None:
        try:
            from . import picture  # noqa: F401  matplotlib is imported once; that is not what a drawing takes

            started = time.thread_time()
            figures.save(curves(history, best_epoch), path)
            self.seconds = time.thread_time() - started
        except Exception as error:
            self.error = error  # drawn again, and reported, at the end of the run
            self.seconds = float("inf")

    def join(self) -> None:
        """Wait for the drawing under way."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
