"""Files of weights beside the trainer's own: the best few, and one every so many epochs, steps or minutes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import checkpoint, components, distributed
from ..checks.arguments import positive, whole_number
from ..errors import ConfigError
from ..rundir import layout
from ..training.monitor import Monitor
from .base import Callback

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class Checkpoint(Callback):
    """Keeps the weights of the best epochs, and on request of every so many epochs, steps or minutes.

    The files are in ``checkpoints/`` of the run folder: ``epoch-0005-accuracy-0.9812.ckpt`` is one of the best,
    ``epoch-0005.ckpt`` and ``step-00001200.ckpt`` are the regular ones, which stay. Of the best ones those that
    are no longer among them are deleted: files of this callback and this run, no others. In a run with
    stages each stage has its own best ones.

    Parameters
    ----------
    monitor : str
        The metric that says which epochs are the best: ``"loss"``, ``"train/loss"``, ``"valid/accuracy"``.
    top_k : int
        How many of them are kept, 0 for none. Of equal ones the older is kept; NaN and infinity never are.
    mode : "min", "max" or None
        None decides by what the metric object says, else by the name, see `farabio_like.training.monitor.Monitor`.
    every_epochs, every_steps : int, optional
    every_minutes : float, optional
        Saved after the first step after that time.

    Attributes
    ----------
    files : list of Path
        The best ones, the best first.

    Raises
    ------
    ConfigError
        For an argument that is not allowed; at the start of a run without a folder, or by a metric whose direction
        nothing tells; at the first evaluation at the latest, for a metric that is not there.

    Examples
    --------
    >>> best = Checkpoint("accuracy", top_k=2)
    >>> regular = Checkpoint(top_k=0, every_epochs=10)
    """

    def __init__(
        self,
        monitor: str = "loss",
        top_k: int = 3,
        mode: str | None = None,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        self.monitor = Monitor(monitor, mode, owner="Checkpoint")
        self.top_k = whole_number("Checkpoint(top_k)", top_k, least=0)
        self.every_epochs = None if every_epochs is None else whole_number("Checkpoint(every_epochs)", every_epochs)
        self.every_steps = None if every_steps is None else whole_number("Checkpoint(every_steps)", every_steps)
        self.every_minutes = None if every_minutes is None else positive("Checkpoint(every_minutes)", every_minutes)
        if not (self.top_k or self.every_epochs or self.every_steps or self.every_minutes):
            raise ConfigError(
                "Checkpoint with top_k=0 saves nothing. Write Checkpoint(top_k=3), or give every_epochs, every_steps "
                "or every_minutes."
            )
        self._kept: list[tuple[float, int, str]] = []  # value, epoch, name; the best first
        self._stage: str | None = None
        self._folder: Path | None = None
        self._due = 0.0

    @property
    def files(self) -> list[Path]:
        """The files of the best epochs, the best first."""
        return [self._folder / name for _, _, name in self._kept] if self._folder is not None else []

    def listens_to(self, event: str) -> bool:
        """Leave out the batches where neither steps nor minutes are counted."""
        return event != "on_end_training_batch" or bool(self.every_steps or self.every_minutes)

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Check that there is a folder, and forget the files of another run."""
        if trainer.run_dir is None:
            raise ConfigError("Checkpoint has no run folder to write to; set self._logdir = 'runs'.")
        for other in components.each(trainer.callbacks, list, tuple):
            if isinstance(other, Checkpoint) and other is not self and self.top_k and other.top_k:
                if other._label == self._label:
                    raise ConfigError(f"two Checkpoint callbacks keep the best by {self.monitor.name!r}; take one.")
        folder = trainer.run_dir / layout.CHECKPOINTS
        if trainer.step == 0 or self._folder not in (None, folder):
            self._kept = []
        self._folder = folder
        self._due = time.monotonic() + 60 * (self.every_minutes or 0)

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Save when a number of steps or minutes is full."""
        step = trainer._run_state.progress.step
        due = self.every_steps and step % self.every_steps == 0
        if self.every_minutes and distributed.is_main() and time.monotonic() >= self._due:  # one clock counts
            due = True
        if due:
            self._save(trainer, f"step-{step:08d}.ckpt")
            self._due = time.monotonic() + 60 * (self.every_minutes or 0)

    def on_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Save when the epoch is among the best, or a number of epochs is full."""
        names = []
        if self.every_epochs and trainer.epoch % self.every_epochs == 0:
            names.append(f"epoch-{trainer.epoch:04d}.ckpt")
        dropped = self._enter(trainer, names) if self.top_k else []
        if names:
            self._save(trainer, *names)
        for name in dropped:
            self._path(name).unlink(missing_ok=True)

    def _enter(self, trainer: ConvnetTrainer, names: list[str]) -> list[str]:
        """Add the epoch's name to `names` if it is among the best, return those of the ones that no longer are."""
        stage = trainer.stage.name if trainer.stage is not None else None
        if stage != self._stage:
            self._kept, self._stage = [], stage
        value = self.monitor.read(trainer)
        if value is None or not math.isfinite(value):
            return []
        name = self._name(value, trainer.epoch)
        others = [entry for entry in self._kept if entry[1] != trainer.epoch]
        sign = -1 if self.monitor.higher else 1
        ranked = sorted([*others, (value, trainer.epoch, name)], key=lambda entry: (sign * entry[0], entry[1]))
        before, self._kept = self._kept, ranked[: self.top_k]
        kept = {entry[2] for entry in self._kept}
        if name in kept:
            names.append(name)
        return [entry[2] for entry in before if entry[2] not in kept]

    @property
    def _label(self) -> str:
        return layout.in_file_name(self.monitor.name).replace("-", "_")

    def _name(self, value: float, epoch: int) -> str:
        return f"epoch-{epoch:04d}-{self._label}-{_short(value)}.ckpt"

    def _path(self, name: str) -> Path:
        assert self._folder is not None  # on_train_start came first
        return self._folder / name

    def _save(self, trainer: ConvnetTrainer, *names: str) -> None:
        first, *others = [self._path(name) for name in names]
        trainer.save_checkpoint(first)
        for other in others:
            checkpoint.link_durably(first, other)

    def state_dict(self) -> dict[str, Any]:
        """Return the names and values of the best ones, and in how many seconds the next regular one is due."""
        due = self._due - time.monotonic() if self.every_minutes else None
        return {"kept": [list(entry) for entry in self._kept], "stage": self._stage, "due": due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, after ``on_train_start``; the files are those of the run that goes on."""
        # Files of this callback alone: what is in a file is not trusted with what is deleted later.
        kept = [(float(value), int(epoch), name) for value, epoch, name in state["kept"]]
        self._kept = [entry for entry in kept if entry[2] == self._name(*entry[:2])]
        self._stage = state["stage"]
        if self.every_minutes and state["due"] is not None:
            self._due = time.monotonic() + state["due"]


def _short(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"
