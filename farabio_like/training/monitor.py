"""The metric that is monitored: which number it is, and which of two is the better one; one rule for all who watch.

The best epoch, early stopping, schedules and kept checkpoints read it here. What a name says of the direction is in
`metrics.direction`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import components
from ..callbacks import dispatch
from ..checks import hooks
from ..duck_typing import attribute, has_methods, is_a
from ..errors import ConfigError, closest
from ..metrics.direction import higher_by_name, higher_by_object, improves
from ..metrics.objects import metrics_in
from ..metrics.values import plain_metrics
from ..state import run_state

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

PARTS = ("train", "valid")


class Monitor:
    """A metric by its name, read at the end of an epoch.

    Parameters
    ----------
    name : str
        ``"train/loss"`` and ``"valid/loss"`` say of which loader. A name alone is the one of the evaluation; where the
        run has no evaluation, or no evaluation has it, the one of training.
    mode : "min", "max" or None
        None decides by what the metric object says (``higher_is_better``), else by the name, see
        `farabio_like.metrics.direction.higher_by_name`.
    min_delta : float
        A smaller change is no improvement.
    owner : str
        Who watches, for messages: the name of a callback, or of a setting.

    Attributes
    ----------
    part : "train", "valid" or None
    metric : str
        The name without its part.
    higher : bool or None
        Whether higher is better; None while nothing tells.

    Raises
    ------
    ConfigError
        For a name, mode or `min_delta` that is not allowed.

    Examples
    --------
    >>> Monitor("valid/accuracy").better(0.9, 0.8), Monitor("loss").better(float("nan"), None)
    (True, False)
    """

    def __init__(self, name: str, mode: str | None = None, min_delta: float = 0.0, owner: str = "monitor") -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"monitor is {name!r}; expected the name of a metric, 'loss' or 'valid/accuracy' say.")
        if mode not in (None, "min", "max"):
            raise ConfigError(f"mode is {mode!r}; expected 'min', 'max', or None for the metric's own.")
        if not isinstance(min_delta, (int, float)) or not 0 <= min_delta < math.inf:
            raise ConfigError(f"min_delta is {min_delta!r}; expected a number, 0 or more.")
        self.name = name
        self.mode = mode
        self.min_delta = min_delta
        self.owner = owner
        self.part, self.metric = parted(name)
        self.higher: bool | None = higher_by_name(self.metric) if mode is None else mode == "max"

    def better(self, value: float, best: float | None) -> bool:
        """Return whether `value` improves on `best`; NaN never does, and a first number does.

        Raises
        ------
        ConfigError
            Where nothing tells which of two is better.
        """
        if best is None:
            return not math.isnan(value)
        self.check_direction()
        return improves(bool(self.higher), value, best, self.min_delta)

    def settle(self, trainer: ConvnetTrainer) -> None:
        """Ask the metric object of this name for its direction; `mode` comes first, the name last."""
        if self.mode is None:
            said = declared(trainer).direction(self.metric)
            self.higher = higher_by_name(self.metric) if said is None else said

    def check_direction(self, there: tuple[str, ...] = ()) -> None:
        """Raise a ConfigError where nothing tells which of two values is better."""
        if self.higher is None:
            setting = self.owner.startswith("_")
            line = "self._monitor_mode = 'max', or 'min'" if setting else "mode='max', or mode='min'"
            raise ConfigError(
                f"{self._subject} is {self.name!r}, and nothing tells whether more or less of it is better."
                f"{closest(self.metric, there)} Write {line}."
            )

    def read(self, trainer: ConvnetTrainer, entry: Mapping[str, Any] | None = None) -> float | None:
        """Return the metric of the epoch that ends, None where its evaluation is not due, or was left early.

        Parameters
        ----------
        trainer : ConvnetTrainer
        entry : mapping, optional
            Of the history; default: the metrics of the epoch so far.

        Raises
        ------
        ConfigError
            If there is no such metric, or it is no single number.
        """
        self.settle(trainer)
        metrics = trainer.epoch_metrics if entry is None else entry
        part = self.part_of(trainer, metrics)
        value = plain_metrics(metrics.get(part, {})).get(self.metric)
        if part == "valid" and trainer._run_state.progress.left_early:
            return None
        if isinstance(value, (int, float)):
            return float(value)
        if value is None and self._may_come(trainer, part):
            return None
        raise ConfigError(self._problem(trainer, value, metrics))

    def part_of(self, trainer: ConvnetTrainer, metrics: Mapping[str, Any]) -> str:
        """Return of which part the metric is; between two evaluations it is that of the evaluation."""
        if self.part is not None:
            return self.part
        if self.metric in metrics.get("valid", {}):
            return "valid"
        if any(self.metric in entry.get("valid", {}) for entry in _earlier(trainer)):
            return "valid"
        return "valid" if evaluates(trainer) and not _was_evaluated(trainer) else "train"

    def _may_come(self, trainer: ConvnetTrainer, part: str) -> bool:
        """Return whether the metric may be missing in this epoch."""
        if part == "valid" and evaluates(trainer) and not evaluation_is_due(trainer):
            return True
        there_before = any(self.metric in entry.get(part, {}) for entry in _earlier(trainer))
        return there_before or declared(trainer).comes_later(self.metric)

    @property
    def _subject(self) -> str:
        return self.owner if self.owner.startswith("_") or self.owner == "monitor" else f"{self.owner}: monitor"

    def _problem(self, trainer: ConvnetTrainer, value: Any, metrics: Mapping[str, Any]) -> str:
        if value is not None:
            return f"{self._subject} is {self.name!r}, which is {value!r}; expected the name of a single number."
        there = [f"{part}/{name}" for part in PARTS for name in metrics.get(part, {})]
        guess = closest(self.name, [*there, *dict.fromkeys(parted(name)[1] for name in there)])
        return (
            f"{self._subject} is {self.name!r}, but no such metric was recorded in epoch {trainer._epoch}.{guess} "
            f"There are: {', '.join(there) or 'none'}."
        )

    def refuse_undeclared(self, trainer: ConvnetTrainer) -> None:
        """Raise a ConfigError for a metric that nothing will record, where that is known before the run."""
        known = declared(trainer)
        if known.complete and len(known.names) > 1 and not known.has(self.metric):
            raise ConfigError(
                f"{self._subject} is {self.name!r}, but no such metric will be recorded."
                f"{closest(self.metric, known.names)} There are: {', '.join(known.names)}."
            )


def parted(name: str) -> tuple[str | None, str]:
    """Return part and name of a metric: ``"valid/accuracy"`` is ``("valid", "accuracy")``, a name alone has no part."""
    part, _, rest = name.partition("/")
    return (part, rest) if part in PARTS and rest else (None, name)


class Declared:
    """The metrics that are known before a run.

    Attributes
    ----------
    names : dict of str to (bool or None)
        Of each whether higher is better, where the object that measures it says so. A name that ends with ``*`` stands
        for all that begin so, and may come in any epoch.
    later : set of str
        Those that may be missing in any epoch.
    complete : bool
        There will be no others: no method of the subclass's own, and no callback that does not say its names, runs.
    """

    def __init__(self) -> None:
        self.names: dict[str, bool | None] = {"loss": None}
        self.later: set[str] = set()
        self.complete = True

    def has(self, name: str) -> bool:
        """Return whether a metric is known."""
        return name in self.names or self.comes_later(name)

    def comes_later(self, name: str) -> bool:
        """Return whether a metric may be missing in any epoch."""
        return name in self.later or any(name.startswith(known[:-1]) for known in self.names if known.endswith("*"))

    def direction(self, name: str) -> bool | None:
        """Return what the object that measures a metric says, None where none says anything."""
        if name in self.names:
            return self.names[name]
        begins = [known[:-1] for known in self.names if known.endswith("*") and name.startswith(known[:-1])]
        return self.names.get(name[len(max(begins, key=len)) :]) if begins else None


def declared(trainer: ConvnetTrainer) -> Declared:
    """Return the metrics that metric objects, callbacks and criteria say they will record."""
    found = Declared()
    if isinstance(trainer.criterion, dict):
        found.names |= dict.fromkeys((f"loss_{name}" for name in trainer.criterion), None)
    for name, metric in metrics_in(trainer.metrics).items():
        names, known = names_of_object(str(name), metric)
        found.names |= names
        found.complete = found.complete and known
    for callback in components.each(trainer.callbacks, list, tuple):
        outer, callback = callback, dispatch.innermost(callback)
        says = callback.announces()
        found.names |= says or {}
        if outer is not callback:  # for some epochs, maybe
            found.later |= (says or {}).keys()
        # A subclass of the user's may record more than what it inherits says.
        own = type(callback).__module__.partition(".")[0] == __name__.partition(".")[0]
        found.complete = found.complete and says is not None and (own or "announces" in vars(type(callback)))
    found.complete = found.complete and hooks.runs_base_alone(trainer)
    return found


_ONE_NUMBER = ("classification", "regression", "segmentation", "clustering", "nominal", "retrieval", "image")


def names_of_object(name: str, metric: Any, joined: str = "") -> tuple[dict[str, bool | None], bool]:
    """Return the names that a metric object computes, with their directions, and whether these are all.

    Parameters
    ----------
    name : str
        Under which it is kept.
    metric : Any
        Of a collection each part has its own name.
    joined : str
        Put before the names of parts.
    """
    if is_a(metric, nn.ModuleDict) and has_methods(metric, "compute"):
        try:
            parts = dict(metric.items(copy_state=False))  # type: ignore[call-arg]  # torchmetrics' MetricCollection
        except TypeError:
            parts = dict(metric.items())
        return {f"{joined}{key}": higher_by_object(part) for key, part in parts.items()}, all(
            map(_is_one, parts.values())
        )
    return {name: higher_by_object(metric)}, _is_one(metric)


def _is_one(metric: Any) -> bool:
    """Return whether a metric object computes one value, not a dict of them, as far as that is known."""
    package, _, rest = type(metric).__module__.partition(".")
    return package == "torchmetrics" and rest.partition(".")[0] in _ONE_NUMBER


def evaluates(trainer: ConvnetTrainer) -> bool:
    """Return whether the run has an evaluation, due in this epoch or not."""
    if not trainer._has_eval:
        return False
    there = trainer.valid_loader is not None or trainer.valid_epoch_iter is not None
    return there or not hooks.is_default(trainer, "evaluate_epoch", "on_evaluate_epoch_start")


def evaluation_is_due(trainer: ConvnetTrainer, first: bool = False) -> bool:
    """Return whether this epoch is evaluated."""
    state = trainer._run_state
    if not trainer._has_eval or state.requests.exit_asked or (trainer._epoch % trainer._eval_interval and not first):
        return False
    if not evaluates(trainer):
        state.console.once(run_state.NO_VALID_LOADER)
        return False
    return True


def _earlier(trainer: ConvnetTrainer) -> Iterator[dict[str, Any]]:
    """Yield the epochs before this one, of the same stage, the newest first."""
    state = trainer._run_state
    first = 0
    if state.stage is not None and state.stage_end is not None:
        first = state.stage_end - state.stage.num_epochs + 1
    for entry in reversed(state.history):
        if entry["epoch"] < first:
            return
        if entry["epoch"] < trainer._epoch:
            yield entry


def _was_evaluated(trainer: ConvnetTrainer) -> bool:
    """Return whether the loop has evaluated this epoch or one before."""
    if evaluation_is_due(trainer) and not trainer._run_state.progress.left_early:
        return True
    return any(entry["epoch"] % trainer._eval_interval == 0 and entry.get("valid") for entry in _earlier(trainer))


# ---------------------------------------------------------------- before the run


def of_settings(trainer: ConvnetTrainer) -> Monitor:
    """Return the monitor that ``_monitor`` and ``_monitor_mode`` ask for: the loss where they name none."""
    return Monitor(trainer._monitor or "loss", trainer._monitor_mode, owner="_monitor")


def check_monitors(trainer: ConvnetTrainer) -> None:
    """Check what is monitored before the first step, as far as it is known; say where a schedule contradicts it.

    Raises
    ------
    ConfigError
        For a metric that nothing will record, or whose better direction nothing tells.
    """
    own = list(_of_run(trainer))
    there = tuple(declared(trainer).names)
    for monitor in (*own, *_of_callbacks(trainer)):
        monitor.refuse_undeclared(trainer)
        monitor.settle(trainer)
        try:
            monitor.check_direction(there)
        except ConfigError as error:
            raise ConfigError(f"{hooks.owner(trainer)}: {error}") from None
    _compare_schedules(trainer, own)


def _of_run(trainer: ConvnetTrainer) -> Iterator[Monitor]:
    for stage in trainer._stages or (None,):
        settings = {} if stage is None else stage.settings
        name, mode = settings.get("monitor", trainer._monitor), settings.get("monitor_mode", trainer._monitor_mode)
        yield Monitor(name or "loss", mode, owner="_monitor")


def _of_callbacks(trainer: ConvnetTrainer) -> Iterator[Monitor]:
    for callback in components.each(trainer.callbacks, list, tuple):
        yield from (value for value in vars(dispatch.innermost(callback)).values() if isinstance(value, Monitor))


def _compare_schedules(trainer: ConvnetTrainer, monitors: list[Monitor]) -> None:
    """Warn of a schedule that follows the monitored metric the wrong way round."""
    by_hand = hooks.stepped_schedulers(trainer)
    for where, scheduler in components.named(trainer.scheduler, "self.scheduler"):
        mode = attribute(scheduler, "mode")
        if (
            where in by_hand
            or not is_a(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            or mode not in ("min", "max")
        ):
            continue
        if all(monitor.higher is (mode == "min") for monitor in monitors):
            monitor = monitors[0]
            named = repr(monitor.name) if trainer._monitor or trainer._stages else "None, the loss"
            more, other = ("more", "max") if monitor.higher else ("less", "min")
            warnings.warn(
                f"{hooks.owner(trainer)}: {where} is a ReduceLROnPlateau with mode={mode!r}, and _monitor is {named}, "
                f"of which {more} is better: it would lower the rate while that improves. Write mode={other!r}.",
                stacklevel=5,
            )
