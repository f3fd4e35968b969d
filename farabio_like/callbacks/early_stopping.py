"""Stopping a run whose metric no longer improves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..checks.arguments import whole_number
from ..errors import ConfigError
from ..training.monitor import Monitor
from .base import Callback

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class EarlyStopping(Callback):
    """Ends the run when a metric has not improved for some evaluated epochs.

    Each stage of a run counts for itself, but it is the run that ends.

    Parameters
    ----------
    monitor : str
        ``"loss"`` (of the evaluation where there is one), ``"train/loss"``, ``"valid/accuracy"``.
    patience : int
        The evaluated epochs in a row without an improvement that end the run; 0 and 1 both mean the first one.
    min_delta : float
        A smaller change is no improvement.
    mode : "min", "max" or None
        None decides by what the metric object says, else by the name, see `farabio_like.training.monitor.Monitor`.
    baseline : float, optional
        The value that the first improvement has to beat.
    check_finite : bool
        NaN or an infinite value ends the run at once; else it is one more epoch without an improvement.

    Attributes
    ----------
    best : float or None
        The best value so far, the baseline at first.
    wait : int
        Evaluated epochs since then.

    Raises
    ------
    ConfigError
        For an argument that is not allowed; when the run starts, for a metric whose direction nothing tells; at the
        first evaluation at the latest, for one that is not there.

    Examples
    --------
    >>> stopping = EarlyStopping("accuracy", patience=5, min_delta=0.001)
    """

    def __init__(
        self,
        monitor: str = "loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str | None = None,
        baseline: float | None = None,
        check_finite: bool = True,
    ) -> None:
        if baseline is not None and not (isinstance(baseline, (int, float)) and math.isfinite(baseline)):
            raise ConfigError(f"EarlyStopping(baseline) is {baseline!r}; expected a number or None.")
        self.monitor = Monitor(monitor, mode, min_delta, owner="EarlyStopping")
        self.patience = whole_number("EarlyStopping(patience)", patience, least=0)
        self.baseline = baseline
        self.check_finite = check_finite
        self._begin(None)

    def _begin(self, stage: str | None) -> None:
        self.best = self.baseline
        self.best_epoch: int | None = None
        self.wait = 0
        self.stage = stage

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Forget another run; after a stop, a run that is asked to go on gets its patience again."""
        if trainer.step == 0:
            self._begin(None)
        elif self.wait >= self.patience:
            self.wait = 0

    def on_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Compare the epoch's value, if it was evaluated."""
        stage = trainer.stage.name if trainer.stage is not None else None
        if stage != self.stage:
            self._begin(stage)
        value = self.monitor.read(trainer)
        if value is None:
            return
        name = self.monitor.name
        if self.check_finite and not math.isfinite(value):
            self._stop(trainer, f"{name} is {value}")
        elif self.monitor.better(value, self.best):
            self.best, self.best_epoch, self.wait = value, trainer.epoch, 0
        else:
            self.wait += 1
            if self.wait >= self.patience:
                since = f"epoch {self.best_epoch}" if self.best_epoch is not None else "the baseline"
                best = "no number yet" if self.best is None else f"{self.best:.6g} ({since})"
                self._stop(trainer, f"{name} {value:.6g} is no better than {best}, for {self.wait} evaluated epochs")

    def _stop(self, trainer: ConvnetTrainer, reason: str) -> None:
        trainer._run_state.console.line(f"stopped early after epoch {trainer.epoch}: {reason}")
        trainer.stop_train()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its epoch and stage, and how long ago it was."""
        return {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait, "stage": self.stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, kinds in (("best", (int, float)), ("best_epoch", int), ("stage", str)):
            if not (state[name] is None or isinstance(state[name], kinds)):
                raise ValueError(f"{name} is {state[name]!r}")
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.wait, self.stage = state["wait"], state["stage"]
