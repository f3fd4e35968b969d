"""When the pictures of a run are drawn: curves now and then while it goes on, everything at its end.

What they look like is in `farabio_like.plots`, the page that shows them in `farabio_like.report`.
"""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import components, distributed, plots

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer

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

    def draw(self, history: list[dict[str, Any]], best_epoch: int | None, path: Path) -> None:
        """Begin a drawing, unless it would take too much of the last epoch's time, or one is under way."""
        if self.seconds > SHARE * history[-1]["seconds"] or (self.thread is not None and self.thread.is_alive()):
            return
        self.thread = threading.Thread(target=self._draw, args=(list(history), best_epoch, path), name="curves")
        self.thread.start()

    def _draw(self, history: list[dict[str, Any]], best_epoch: int | None, path: Path) -> None:
        try:
            from . import figure  # noqa: F401  matplotlib is imported once; that is not what a drawing takes

            started = time.thread_time()
            plots.save(plots.curves(history, best_epoch), path)
            self.seconds = time.thread_time() - started
        except Exception as error:
            self.error = error  # drawn again, and reported, at the end of the run
            self.seconds = float("inf")

    def join(self) -> None:
        """Wait for the drawing under way."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None


def draw_epoch(trainer: ConvnetTrainer) -> None:
    """Draw the curves so far, where that costs little."""
    state = trainer._run_state
    if state.run is not None and distributed.is_main():
        best = state.best[3] if state.best else None
        state.pictures.draw(state.history, best, state.run.path / "plots" / "curves.png")


def draw_run(trainer: ConvnetTrainer) -> None:
    """Draw the pictures that follow from the history, if there is any, and write the report. A failure is a warning."""
    state = trainer._run_state
    if state.run is None or not distributed.is_main():
        return
    if state.history:
        _draw_history(trainer, state.run.path)
    write_report(trainer)


def _draw_history(trainer: ConvnetTrainer, folder: Path) -> None:
    state = trainer._run_state
    from . import report

    named = [getattr(callback, "class_names", None) for callback in components.each(trainer.callbacks, list)]
    class_names = next((names for names in named if names), None)
    best = state.best[3] if state.best else None
    try:
        plots.save(plots.curves(state.history, best), folder / "plots" / "curves.png")
        report.draw_bars(folder, state.history, best, class_names)
    except ImportError as error:
        state.console.once(f"no curves: {error}. Install them: pip install matplotlib")
    except Exception as error:
        warnings.warn(f"the pictures of {folder} could not be drawn: {error!r}", stacklevel=2)


def write_report(trainer: ConvnetTrainer) -> None:
    """Write ``report.html``. A failure is a warning: it must not hide the result of a run."""
    state = trainer._run_state
    if state.run is None or state.running == "train" or not distributed.is_main():
        return
    from . import report

    try:
        report.write(state.run.path)
    except ImportError as error:
        state.console.once(f'no report: {error}. Install it: pip install "farabio-like[report]"')
    except Exception as error:
        warnings.warn(f"the report of {state.run.path} could not be written: {error!r}", stacklevel=2)
