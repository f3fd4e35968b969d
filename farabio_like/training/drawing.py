"""The pictures and the report that a run leaves in its folder, and when they are drawn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .. import components, distributed, plots, report
from ..duck_typing import attribute
from ..rundir import layout

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def best_place(trainer: ConvnetTrainer) -> float | None:
    """Return where the best is on the axis of the epochs."""
    best = trainer._run_state.best
    if best is None or best.step is None:
        return None if best is None else best.epoch
    for entry in trainer._run_state.history:
        for record in entry.get("evaluations", ()):
            if (record["epoch"], record["step"]) == (best.epoch, best.step):
                return plots.place_of(entry, record)
    return None


def draw_epoch(trainer: ConvnetTrainer) -> None:
    """Draw the curves so far, where that costs little."""
    state = trainer._run_state
    if state.folder is not None and distributed.is_main():
        best = best_place(trainer)
        state.pictures.draw(state.history, best, state.folder.path / layout.PLOTS / layout.CURVES)


def draw_run(trainer: ConvnetTrainer) -> None:
    """Draw the pictures that follow from the history, if there is any, and write the report. A failure is a warning."""
    state = trainer._run_state
    if state.folder is None or not distributed.is_main():
        return
    if state.history:
        _draw_history(trainer, state.folder.path)
    write_report(trainer)


def _draw_history(trainer: ConvnetTrainer, folder: Path) -> None:
    state = trainer._run_state
    named = [attribute(callback, "class_names") for callback in components.each(trainer.callbacks, list, tuple)]
    class_names = next((names for names in named if isinstance(names, (list, tuple)) and names), None)
    best = state.best.epoch if state.best else None
    try:
        plots.save(plots.curves(state.history, best_place(trainer)), folder / layout.PLOTS / layout.CURVES)
        report.draw_bars(folder, state.history, best, class_names)
    except ImportError as error:
        state.console.once(f"no curves: {error}. Install them: pip install matplotlib")
    except Exception as error:
        warnings.warn(f"the pictures of {folder} could not be drawn: {error!r}", stacklevel=2)


def write_report(trainer: ConvnetTrainer) -> None:
    """Write ``report.html``. A failure is a warning: it must not hide the result of a run."""
    state = trainer._run_state
    if state.folder is None or state.running == "train" or not distributed.is_main():
        return
    try:
        report.write(state.folder.path)
    except ImportError as error:
        state.console.once(f'no report: {error}. Install it: pip install "farabio-like[report]"')
    except Exception as error:
        warnings.warn(f"the report of {state.folder.path} could not be written: {error!r}", stacklevel=2)
