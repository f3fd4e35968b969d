"""Which loggers a run has, what they are given without being asked, and what `trainer.loggers` is."""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import components, distributed
from ..callbacks import dispatch
from ..callbacks.base import Callback, Logger
from ..config import settings
from ..config.config import to_dict
from ..config.secrets import Secrets
from ..errors import ConfigError, HookError
from .intervals import Intervals, flat
from .jsonl import IntervalLines
from .names import LOGGERS, asked_for
from .worker import Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..trainer import ConvnetTrainer

RECORDS = ("rewind", "start", "scalars", "images", "figure", "matrix", "text", "flush", "finish")


class Loggers:
    """What ``trainer.loggers`` is: gives a record to every logger of the run that is going on.

    Without loggers, and outside of a run, the methods do nothing. A call only appends to a queue, and never
    raises for what a logger does with it. What is handed over belongs to the loggers: do not write to it.

    Parameters
    ----------
    workers : sequence of Worker
    step : int
        What is recorded belongs to it, unless a call says otherwise.
    """

    __slots__ = ("_step", "_workers")

    def __init__(self, workers: Sequence[Worker], step: int) -> None:
        self._workers = workers
        self._step = step

    def __iter__(self) -> Iterator[Logger]:
        return iter([worker.logger for worker in self._workers])

    def __len__(self) -> int:
        return len(self._workers)

    def scalars(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers.

        Parameters
        ----------
        values : mapping of str to a number or a one-element tensor
            A tensor is read back on the logger's thread. ``train/`` and ``valid/`` before names put curves together.
        step : int, optional
        """
        copy, at = dict(values), self._step if step is None else step
        for worker in self._workers:
            worker.put_numbers(copy, at)

    def images(self, name: str, images: Tensor, step: int | None = None) -> None:
        """Record a batch of images; a grid of them is shown.

        Parameters
        ----------
        name : str
        images : Tensor
            Shape (N, H, W), (N, 1, H, W) or (N, 3, H, W). Floats from 0 to 1, bytes, or the classes of a mask
            (any other integers), which get colours. On any device; it is copied on the logger's thread.
        step : int, optional

        Raises
        ------
        HookError
            For another type or shape.
        """
        if not isinstance(images, Tensor) or not (images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))):
            found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise HookError(
                f"loggers.images({name!r}) got {found}; expected a tensor of the shape (N, H, W), (N, 1, H, W) or "
                "(N, 3, H, W). Write self.loggers.images('inputs', self.inputs[:16])."
            )
        version = None if images.is_inference() else images._version
        for worker in self._workers:
            worker.put("images", name, (images, version), self._step if step is None else step)

    def figure(self, name: str, figure: Figure, step: int | None = None) -> None:
        """Record a figure of matplotlib; it is drawn on the logger's thread."""
        for worker in self._workers:
            worker.put("figure", name, figure, self._step if step is None else step)

    def matrix(self, name: str, matrix: Any, labels: Sequence[str] | None = None, step: int | None = None) -> None:
        """Record a confusion matrix, a row for each true class."""
        for worker in self._workers:
            names = None if labels is None else list(labels)
            worker.put("matrix", name, matrix, names, self._step if step is None else step)

    def text(self, name: str, text: str, step: int | None = None) -> None:
        """Record a text; it takes the place of the one with the same name."""
        for worker in self._workers:
            worker.put("text", name, text, self._step if step is None else step)


class Recording:
    """The loggers of a trainer and their threads, during a run.

    A copy of a trainer, and one that is sent to another process, has none.
    """

    def __init__(self) -> None:
        self.named: dict[str, Logger] = {}  # those made by name are the same in the next run
        self.workers: list[Worker] = []
        self.status = "running"  # of the run: its test does not change it
        self.intervals: tuple[Intervals, IntervalLines] | None = None

    def __reduce__(self) -> Any:
        return type(None), ()

    def logger(self, asked: Any) -> Logger:
        """Return a logger, made if it is asked for by name."""
        if not isinstance(asked, str):
            return asked
        if asked not in self.named:
            self.named[asked] = make(asked)
        return self.named[asked]

    def every(self, steps: int) -> tuple[Intervals, IntervalLines]:
        """Return what takes and what writes the running loss."""
        if self.intervals is None or self.intervals[0].every != steps:
            self.intervals = Intervals(steps), IntervalLines()
        return self.intervals


def csv_without_folder(trainer: ConvnetTrainer) -> str | None:
    """Return what is wrong with ``"csv"`` among the loggers of a run without a folder, or None."""
    asked = asked_for(trainer._loggers)
    if trainer._logdir is not None or "csv" not in asked:
        return None
    where = f"_loggers[{asked.index('csv')}]" if isinstance(trainer._loggers, (list, tuple)) else "_loggers"
    return (
        f"{where} is 'csv', which writes into the run folder, and _logdir is None. Write "
        "self._loggers = CSVLogger('metrics.csv')."
    )


def start(trainer: ConvnetTrainer) -> None:
    """Start the threads of the loggers. Called before `on_train_start`, and after `start_logger` for those named there.

    Raises
    ------
    ConfigError
        For loggers and an interval that cannot be.
    """
    settings.check(trainer, ("_loggers", "_log_interval"))
    said = csv_without_folder(trainer)
    if said is not None:
        raise ConfigError(f"{type(trainer).__name__}: {said}")
    if not distributed.is_main():
        return
    state = trainer._run_state
    recording = state.recording = state.recording or Recording()
    found = [recording.logger(each) for each in asked_for(trainer._loggers)]
    callbacks = components.each(trainer.callbacks, list, tuple)
    listeners: list[Callback] = [logger for logger in found if not any(logger is other for other in callbacks)]
    found = [each for each in found if each in listeners]
    found += [each for each in callbacks if isinstance(each, Logger) and _records(each)]
    if trainer._log_interval is not None:
        intervals, lines = recording.every(trainer._log_interval)
        listeners.append(intervals)
        found += [lines] if trainer.run_dir is not None else []
    if listeners:
        state.listeners = dispatch.listeners([*callbacks, *listeners])
    new = [logger for logger in found if not any(logger is worker.logger for worker in recording.workers)]
    if not new:
        return
    if state.rewind_to is not None and trainer.run_dir is not None:
        for logger in new:
            _rewind(logger, trainer.run_dir, *state.rewind_to)
    # What their threads import too: two threads that import the same package at once find it half there.
    with contextlib.suppress(ImportError):
        for package in ("matplotlib.figure", "PIL.Image"):
            importlib.import_module(package)
    config, about = to_dict(trainer.config), _about(trainer, "running")
    workers = [Worker(logger, config, trainer.run_dir) for logger in new]
    Loggers(workers, state.progress.step).text("run info", about)
    for worker in workers:
        recording.workers.append(worker)
        worker.thread.start()


def _rewind(logger: Logger, run_dir: Path, epoch: int, step: int) -> None:
    """Rewind a logger; whatever it raises is no reason not to train."""
    try:
        logger.rewind(run_dir, epoch, step)
    except Exception as error:
        warnings.warn(
            f"{type(logger).__name__} could not take out what was recorded after epoch {epoch}, step {step} "
            f"({type(error).__name__}: {Secrets().text(str(error))}). The run goes on; these records may be there "
            "twice.",
            stacklevel=4,
        )


@contextlib.contextmanager
def during_test(trainer: ConvnetTrainer) -> Iterator[None]:
    """Let the loggers of a run that is over record its test; those of a run that goes on are there."""
    state = trainer._run_state
    if state.running is not None or state.recording is None:
        yield
        return
    start(trainer)
    try:
        yield
    except BaseException as error:
        end(trainer, _status(error))
        raise
    end(trainer, state.recording.status)


def make(name: str) -> Logger:
    """Return a new logger by its name."""
    shipped = LOGGERS[name]
    return getattr(importlib.import_module(f".{shipped.module}", __package__), shipped.cls)(**shipped.arguments)


def log_epoch(trainer: ConvnetTrainer, entry: Mapping[str, Any]) -> None:
    """Record the metrics of an epoch or of a test, and the learning rate and the seconds of the first."""
    recording = trainer._run_state.recording
    if recording is None or not recording.workers:
        return
    trainer.loggers.scalars(numbers_of(entry))


def log_evaluation(trainer: ConvnetTrainer, record: Mapping[str, Any]) -> None:
    """Record the metrics of an evaluation within an epoch, over the steps: they have no ``"epoch"`` among them."""
    recording = trainer._run_state.recording
    if recording is not None and recording.workers:
        values = {f"valid/{name}": v for name, v in record["valid"].items() if isinstance(v, (int, float))}
        trainer.loggers.scalars(values, record["step"])


def finish(trainer: ConvnetTrainer, error: BaseException | None) -> None:
    """End the threads; each has as long as its logger's ``close_seconds``, and longer while it gets on."""
    trainer._run_state.rewind_to = None  # a test of the run starts the loggers once more
    recording = trainer._run_state.recording
    if recording is None or not recording.workers:
        return
    recording.status = _status(error)
    end(trainer, recording.status)


def _status(error: BaseException | None) -> str:
    return "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"


def end(trainer: ConvnetTrainer, status: str) -> None:
    """End the threads of loggers with a status of the run."""
    recording = trainer._run_state.recording
    if recording is None or not recording.workers:
        return
    trainer.loggers.text("run info", _about(trainer, status))
    started = time.monotonic()
    for worker in recording.workers:
        worker.end(status)
    for worker in recording.workers:
        worker.wait(started, trainer._run_state.console.line)
        worker.leave()
    recording.workers = []


def numbers_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the single numbers of an entry of the history, with ``train/``, ``valid/`` or ``test/`` before metrics."""
    values: dict[str, Any] = {"epoch": entry["epoch"]}
    for part in ("train", "valid", "test"):
        for name, value in entry.get(part, {}).items():
            if isinstance(value, (int, float)):
                values[f"{part}/{name}"] = value
    values.update(flat("lr", entry.get("lr")))
    if "seconds" in entry:
        values["seconds"] = entry["seconds"]
    return values


def _records(logger: Logger) -> bool:
    return any(getattr(type(logger), name) is not getattr(Logger, name) for name in RECORDS)


def _about(trainer: ConvnetTrainer, status: str) -> str:
    """Return the lines about a run that every logger shows."""
    state = trainer._run_state
    modules = components.modules_of(trainer)
    count = sum(p.numel() for module in modules for p in module.parameters() if not components.is_lazy(p))
    lines = [
        f"{type(trainer).__name__}: {status}",
        f"{count:,} parameters on {trainer.device}",
        f"epochs {trainer._start_epoch} to {trainer._num_epochs}, {len(state.history)} done",
    ]
    if state.best is not None:
        lines.append(f"best {state.best.part} {state.best.metric} {state.best.value:.6g} {state.best.place}")
    if trainer.run_dir is not None:
        lines.append(f"files in {trainer.run_dir}")
    config = to_dict(trainer.config)
    secrets = Secrets(config)
    lines += [f"torch {torch.__version__}", *(f"{key}: {value}" for key, value in secrets.values(config).items())]
    return secrets.text("\n".join(lines))
