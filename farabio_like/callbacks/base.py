"""What a callback is: its events, its order, its state, and how a function becomes one."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plots
from ..errors import ConfigError, closest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..trainer import ConvnetTrainer


# The events, in the order in which a run meets them. Each is a method that takes the trainer.
EVENTS = (
    "on_train_start",
    "on_stage_start",
    "on_train_epoch_start",
    "on_start_training_batch",
    "on_end_training_batch",
    "on_train_epoch_end",
    "on_evaluate_epoch_start",
    "on_evaluate_batch_start",
    "on_evaluate_batch_end",
    "on_evaluate_epoch_end",
    "on_epoch_end",
    "on_stage_end",
    "on_exception",
    "on_train_end",
    "on_test_start",
    "on_start_test_batch",
    "on_end_test_batch",
    "on_test_end",
)
# The loader that an event is about.
LOADER_OF = {
    "on_train_epoch_start": "train",
    "on_start_training_batch": "train",
    "on_end_training_batch": "train",
    "on_train_epoch_end": "train",
    "on_evaluate_epoch_start": "valid",
    "on_evaluate_batch_start": "valid",
    "on_evaluate_batch_end": "valid",
    "on_evaluate_epoch_end": "valid",
    "on_test_start": "test",
    "on_start_test_batch": "test",
    "on_end_test_batch": "test",
    "on_test_end": "test",
}


class CallbackOrder(IntEnum):
    """Standard values for ``Callback.order``; any integer will do."""

    Internal = 0
    Criterion = 20
    Optimizer = 40
    Scheduler = 60
    Metric = 80
    External = 100
    Other = 200


class Callback:
    """Observes a run: override the events that it needs, each gets the trainer.

    For one event the trainer's own hook comes first, then the callbacks by `order`, those of the same order
    as they were given. An event that a class does not override costs nothing. During `on_exception`,
    ``trainer.exception`` is the exception.

    Attributes
    ----------
    order : int
        See `CallbackOrder`.

    Examples
    --------
    >>> class PrintLoss(Callback):
    ...     def on_epoch_end(self, trainer):
    ...         print(trainer.epoch, trainer.epoch_metrics["train"]["loss"])
    """

    order: int = CallbackOrder.External

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_train_start``."""

    def on_stage_start(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_stage_start``: before each stage, in a run that has stages."""

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_train_epoch_start``."""

    def on_start_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_start_training_batch``: the batch is taken, no step was made with it."""

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_end_training_batch``; ``batch_metrics`` may still be added to."""

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_train_epoch_end``; ``loader_metrics`` may still be added to."""

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_evaluate_epoch_start``."""

    def on_evaluate_batch_start(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_evaluate_batch_start``."""

    def on_evaluate_batch_end(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_evaluate_batch_end``."""

    def on_evaluate_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_evaluate_epoch_end``; ``loader_metrics`` may still be added to."""

    def on_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_epoch_end``; ``history[-1]`` is this epoch's."""

    def on_stage_end(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_stage_end``."""

    def on_exception(self, trainer: ConvnetTrainer) -> None:
        """Come first when a run ends by ``trainer.exception``, which goes on afterwards."""

    def on_train_end(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_train_end``, whatever ended the run."""

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_test_start``."""

    def on_start_test_batch(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_start_test_batch``."""

    def on_end_test_batch(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_end_test_batch``."""

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Follow ``on_test_end``; ``loader_metrics`` may still be added to."""

    def listens_to(self, event: str) -> bool:
        """Return whether this object needs an event that its class overrides.

        Asked when `~ConvnetTrainer.train` or `~ConvnetTrainer.test` begins. Override it in a callback that needs
        the batches for some of its arguments only, so that it costs nothing per batch with the others.

        Parameters
        ----------
        event : str
            One of `EVENTS`.
        """
        return True

    def announces(self) -> dict[str, bool | None] | None:
        """Return the metrics that this callback will record, so that a misspelt name is found before the run.

        Returns
        -------
        dict of str to (bool or None), or None
            By name, whether higher is better; None where it cannot say. A name that ends with ``*`` stands for all that
            begin so, and may come in any epoch. None for the whole: not known before the run.
        """
        return {} if type(self).__module__.partition(".")[0] == __name__.partition(".")[0] else None

    def close(self) -> None:
        """Let go of files, threads and servers; called after every run, maybe twice."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs of this callback: tensors and plain data."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class Logger(Callback):
    """A callback that records: it comes first on every start, and last on every end and on an exception.

    One that is in ``_loggers``, or in ``callbacks``, also gets the records of the run, by the methods below. These
    are called on a thread of the logger's own, one after the other, and may take their time. An ``OSError`` that
    one of them raises says that the place where it writes is not there: the record is kept and given again. Any
    other exception is warned of once, and that record is left out. The events are called on the training thread.

    Attributes
    ----------
    close_seconds : float
        How long the end of a run waits for this logger while it writes no record; a minute at most while it does.
    deadline : float or None
        From the end of the run on: the time, by ``time.monotonic()``, after which nothing is waited for.
    """

    close_seconds: float = 5.0
    deadline: float | None = None

    def rewind(self, run_dir: Path, epoch: int, step: int) -> None:
        """Take out what was recorded after the checkpoint from which a run goes on: it is recorded again.

        Called on the training thread before `start`, once for each logger of a run that goes on in its own folder,
        after a kill say. Not called for a run that goes on in a new folder, from an older file: what was recorded
        before belongs to the run that came further. Override it in a logger that adds to something of its own, or
        what was recorded between the checkpoint and the kill is there twice. An exception is a warning, and the run
        goes on.

        Parameters
        ----------
        run_dir : Path
            The folder of the run.
        epoch : int
            The last one that is done, 0 before the end of the first. Records with a later ``"epoch"`` come again.
        step : int
            Number of training steps at the checkpoint. Records of the running loss after it come again.
        """

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Open what is written to. Called first on the logger's thread, in every run.

        Parameters
        ----------
        config : dict
            The trainer's configuration as plain data.
        run_dir : Path or None
            The folder of the run.
        """

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Record numbers. Those of an epoch have an ``"epoch"`` among them, and ``train/`` or ``valid/`` before names.

        Those of an evaluation within an epoch have ``valid/`` before their names, and no ``"epoch"``.

        Parameters
        ----------
        values : dict of str to float
        step : int
            Number of training steps so far.
        """

    def images(self, name: str, images: Any, step: int) -> None:
        """Record a batch of images: a tensor as `Loggers.images` takes it."""

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Record a figure of matplotlib."""

    def matrix(self, name: str, matrix: Any, labels: list[str] | None, step: int) -> None:
        """Record a confusion matrix, a row for each true class; by default as a figure."""
        self.figure(name, plots.confusion_matrix(matrix, labels), step)

    def text(self, name: str, text: str, step: int) -> None:
        """Record a text; it takes the place of the one with the same name."""

    def flush(self) -> None:
        """Write what waits. Called after the records of a moment, several times a second."""

    def finish(self, status: str) -> None:
        """Close. Called last, in every run.

        Parameters
        ----------
        status : {"finished", "failed", "interrupted"}
        """


class FunctionCallback(Callback):
    """A callback of one function for one event.

    Parameters
    ----------
    event : str
        One of `EVENTS`.
    function : callable
        Gets the trainer.
    order : int

    Raises
    ------
    ConfigError
        For an event that does not exist.
    """

    def __init__(
        self, event: str, function: Callable[[ConvnetTrainer], Any], order: int = CallbackOrder.External
    ) -> None:
        if event not in EVENTS:
            raise ConfigError(f"there is no event {event!r}.{closest(event, EVENTS)} There are: {', '.join(EVENTS)}.")
        self.event = event
        self.function = function
        self.order = order

    def announces(self) -> dict[str, bool | None] | None:
        """Return None: a function may record anything."""
        return None

    def __call__(self, trainer: ConvnetTrainer) -> Any:
        """Call the function, as if it had never been decorated."""
        return self.function(trainer)


def _decorator(event: str) -> Any:
    def decorate(function: Any = None, *, order: int = CallbackOrder.External) -> Any:
        if function is None:
            return lambda late: FunctionCallback(event, late, order)
        return FunctionCallback(event, function, order)

    decorate.__name__ = decorate.__qualname__ = event
    decorate.__doc__ = f"Turn a function of the trainer into a callback for ``{event}``."
    return decorate


on_train_start = _decorator("on_train_start")
on_stage_start = _decorator("on_stage_start")
on_train_epoch_start = _decorator("on_train_epoch_start")
on_start_training_batch = _decorator("on_start_training_batch")
on_end_training_batch = _decorator("on_end_training_batch")
on_train_epoch_end = _decorator("on_train_epoch_end")
on_evaluate_epoch_start = _decorator("on_evaluate_epoch_start")
on_evaluate_batch_start = _decorator("on_evaluate_batch_start")
on_evaluate_batch_end = _decorator("on_evaluate_batch_end")
on_evaluate_epoch_end = _decorator("on_evaluate_epoch_end")
on_epoch_end = _decorator("on_epoch_end")
on_stage_end = _decorator("on_stage_end")
on_exception = _decorator("on_exception")
on_train_end = _decorator("on_train_end")
on_test_start = _decorator("on_test_start")
on_start_test_batch = _decorator("on_start_test_batch")
on_end_test_batch = _decorator("on_end_test_batch")
on_test_end = _decorator("on_test_end")
