"""Where the time of training steps goes, by torch.profiler."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import profiler

from .. import checkpoint
from ..errors import ConfigError
from .base import Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

ROWS = 30  # of the table


class Profiler(Callback):
    """Profile some training steps of a run's first epoch.

    Writes ``profile/trace.json`` (for chrome://tracing or https://ui.perfetto.dev) and
    ``profile/operators.txt``, the operators that took most time, into the run folder. When the steps are over,
    the profiler is stopped and the batch events are no longer listened to. A further ``train()`` profiles its own
    first epoch and replaces the files.

    Parameters
    ----------
    wait, warmup : int
        Steps that are left out, and steps that are profiled and thrown away, 0 or more.
    active : int
        Steps that are kept, 1 or more.

    Raises
    ------
    ConfigError
        For numbers that are not allowed; when the run starts, where it has no folder.

    Examples
    --------
    >>> Profiler(wait=5, active=10).active
    10
    """

    order = CallbackOrder.Internal

    def __init__(self, wait: int = 1, warmup: int = 1, active: int = 3) -> None:
        for name, value, least in (("wait", wait, 0), ("warmup", warmup, 0), ("active", active, 1)):
            if type(value) is not int or value < least:
                raise ConfigError(f"Profiler({name}={value!r}): expected a number of steps, {least} or more.")
        self.wait = wait
        self.warmup = warmup
        self.active = active
        self._due = False
        self._profile: Any = None
        self._steps = 0

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Check that there is a place for the files."""
        if trainer.run_dir is None:
            raise ConfigError("Profiler has no run folder to write to; set self._logdir = 'runs' in define_log_attr.")
        self._due = True

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Start the profiler in the first epoch."""
        if not self._due:
            return
        self._due, self._steps = False, 0
        folder = trainer.run_dir / "profile"  # type: ignore[operator]
        self._profile = profiler.profile(
            schedule=profiler.schedule(wait=self.wait, warmup=self.warmup, active=self.active, repeat=1),
            on_trace_ready=lambda profile: _write(profile, folder),
        )
        self._profile.start()

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Tell the profiler that a step is over."""
        if self._profile is not None:
            self._steps += 1
            self._profile.step()
            if self._steps == self.wait + self.warmup + self.active:
                self._stop()
                _stop_listening(self, trainer)

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Write what there is after an epoch of too few steps."""
        if self._profile is None:
            return
        left_out = self.wait + self.warmup
        if self._steps <= left_out:
            self._profile.on_trace_ready = None
            warnings.warn(
                f"Profiler has nothing to write: the epoch had {self._steps} steps, and the first {left_out} are left "
                "out. Give lower wait and warmup.",
                stacklevel=2,
            )
        self._stop()

    def on_exception(self, trainer: ConvnetTrainer) -> None:
        """Stop without writing."""
        if self._profile is not None:
            self._profile.on_trace_ready = None
            self._stop()

    def _stop(self) -> None:
        profile, self._profile = self._profile, None
        profile.stop()


def _write(profile: Any, folder: Path) -> None:
    """Write the trace and the table, each complete under its name or not there."""
    averages = profile.key_averages()
    device = any(event.self_device_time_total for event in averages)
    table = averages.table(sort_by="self_device_time_total" if device else "self_cpu_time_total", row_limit=ROWS)
    with tempfile.TemporaryDirectory() as temporary:
        trace = Path(temporary) / "trace.json"
        profile.export_chrome_trace(str(trace))
        checkpoint.write_durably(folder / "trace.json", lambda file: _copy(trace, file))
    checkpoint.write_durably(folder / "operators.txt", lambda file: _write_text(table, file))


def _copy(source: Path, file: IO[bytes]) -> None:
    with open(source, "rb") as original:
        shutil.copyfileobj(original, file)


def _write_text(text: str, file: IO[bytes]) -> None:
    file.write(text.encode())


def _stop_listening(callback: Callback, trainer: ConvnetTrainer) -> None:
    """Take the callback out of the batch event for the rest of the run."""
    listeners = trainer._run_state.listeners
    event = "on_end_training_batch"
    # A new list: the old one is being iterated.
    left = [method for method in listeners.get(event, ()) if getattr(method, "__self__", None) is not callback]
    if left:
        listeners[event] = left
    else:
        listeners.pop(event, None)
