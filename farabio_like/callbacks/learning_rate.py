"""The learning rate of every step, in a file and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import distributed, plots
from ..checkpoint import access
from ..errors import ConfigError
from ..rundir import layout
from .base import Callback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..trainer import ConvnetTrainer


class LearningRateMonitor(Callback):
    """Writes the learning rate of every step to ``lr.jsonl`` and draws ``plots/learning_rate.png``.

    The history has one rate per epoch already; this is for schedulers that move every step. A line is
    ``{"epoch": 1, "step": 3, "lr": 0.1}``, with the rate that the step was made with, in the form of
    `ConvnetTrainer.get_lr`. After a resume a step may be there twice; the later line counts.

    Raises
    ------
    ConfigError
        At the start of a run without a folder.

    Examples
    --------
    ``self.callbacks = [LearningRateMonitor()]``
    """

    def __init__(self) -> None:
        self.waiting: list[dict[str, Any]] = []  # lines of this epoch, not yet in the file

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Check that there is a folder."""
        if trainer.run_dir is None:
            raise ConfigError("LearningRateMonitor has no run folder to write to; set self._logdir = 'runs'.")

    def on_start_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Note the rate."""
        self.waiting.append({"epoch": trainer.epoch, "step": trainer.step, "lr": trainer.get_lr()})

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Write the epoch's lines."""
        self._flush(_path(trainer))

    def on_train_end(self, trainer: ConvnetTrainer) -> None:
        """Write what is left and draw the picture."""
        if trainer.run_dir is None or not distributed.is_main():
            return
        self._flush(_path(trainer))
        if not _path(trainer).is_file():
            return
        try:
            figure = _figure(_path(trainer))
        except ImportError as error:
            trainer._run_state.console.once(f"no learning_rate.png: {error}. Install it: pip install matplotlib")
            return
        plots.save(figure, trainer.run_dir / layout.PLOTS / "learning_rate.png")

    def _flush(self, path: Path) -> None:
        if self.waiting and distributed.is_main():
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in self.waiting)
        self.waiting = []

    def state_dict(self) -> dict[str, Any]:
        """Return the lines that are not yet in the file."""
        return {"waiting": [dict(line) for line in self.waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.waiting = [dict(line) for line in state["waiting"]]


def _path(trainer: ConvnetTrainer) -> Path:
    assert trainer.run_dir is not None  # on_train_start has checked it
    return trainer.run_dir / "lr.jsonl"


def _figure(path: Path) -> Figure:
    from matplotlib.figure import Figure

    curves: dict[str, dict[int, float]] = {}
    for _, line in access.lines(path, path.parent):
        for name, rate in _rates(line.get("lr"), "").items():
            if plots.can_be_drawn(rate) and plots.can_be_drawn(line.get("step")):
                curves.setdefault(name, {})[line["step"]] = rate
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    for name, rates in curves.items():
        panel.plot(*zip(*sorted(rates.items()), strict=True), label=plots.label(name) or "lr")
    panel.set_xlabel("step")
    panel.set_ylabel("learning rate")
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def _rates(lr: Any, name: str) -> dict[str, float]:
    """Return what `get_lr` gives as single named rates."""
    if isinstance(lr, Mapping):
        return {key: rate for part, value in lr.items() for key, rate in _rates(value, str(part)).items()}
    if isinstance(lr, list):
        return {f"{name} group {index}".strip(): rate for index, rate in enumerate(lr)}
    return {} if lr is None else {name: lr}
