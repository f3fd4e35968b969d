"""`MetricCallback`: what every metric over a whole loader shares; no formula lives here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import data, distributed
from ..errors import ConfigError, HookError
from .base import LOADER_OF, Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

LOADERS = ("train", "valid", "test")


class MetricCallback(Callback):
    """Base of metrics over a whole loader: override `update` and `compute`.

    `update` gets every batch, without gradients and on the device; `compute` is called once after the last one,
    and what it returns appears in ``loader_metrics``, and so in the history, the console and ``_monitor``.
    Each loader has a state of its own, a dict that starts empty with every pass, so an evaluation within a
    training epoch mixes nothing, and what a pass left behind that was ended early is forgotten.

    Parameters
    ----------
    loaders : sequence of {"train", "valid", "test"}
        Where it is measured.
    prediction, target : callable, optional
        Take the trainer, return what is measured. Default: ``trainer.outputs`` and ``trainer.targets``.
    prefix : str
        Put before every name, where two metrics would have the same.

    Raises
    ------
    ConfigError
        For another loader, something that cannot be called, and a name that another metric has already.
    HookError
        When the step has set no outputs or targets.

    Examples
    --------
    >>> class Bias(MetricCallback):
    ...     def update(self, state, prediction, target):
    ...         state["sum"] = state.get("sum", 0.0) + (prediction - target).sum()
    ...         state["count"] = state.get("count", 0) + target.numel()
    ...     def compute(self, state):
    ...         return {"bias": state["sum"] / state["count"]}
    """

    order: int = CallbackOrder.Metric

    def __init__(
        self,
        *,
        loaders: Sequence[str] = LOADERS,
        prediction: Callable[[ConvnetTrainer], Any] | None = None,
        target: Callable[[ConvnetTrainer], Any] | None = None,
        prefix: str = "",
    ) -> None:
        name = type(self).__name__
        if isinstance(loaders, str) or not loaders or not set(loaders) <= set(LOADERS):
            raise ConfigError(f'{name}(loaders={loaders!r}): expected some of {LOADERS}. Write loaders=("valid",).')
        for argument, taken, given in (("prediction", "outputs", prediction), ("target", "targets", target)):
            if given is not None and not callable(given):
                raise ConfigError(
                    f"{name}({argument}=...) is a {type(given).__name__}; expected a function of the trainer. "
                    f"Write {argument}=lambda trainer: trainer.{taken}[0]."
                )
        self.loaders = tuple(loaders)
        self.prediction = prediction
        self.target = target
        self.prefix = prefix
        self._states: dict[str, Any] = {}  # by loader: what the pass under way has gathered
        self._said: set[str] = set()

    def listens_to(self, event: str) -> bool:
        """Leave out the events of loaders that are not measured."""
        return LOADER_OF.get(event) in (None, *self.loaders)

    def announces(self) -> dict[str, bool | None] | None:
        """Return the names that `compute` gives, with the prefix, and whether higher is better; None: not known."""
        return None

    def start(self) -> Any:
        """Return the state of a new pass. Called at its first batch."""
        return {}

    def update(self, state: Any, prediction: Any, target: Any) -> None:
        """Add one batch to the state. Read nothing back from the device here."""
        raise NotImplementedError(f"{type(self).__name__} has to override update(self, state, prediction, target).")

    def compute(self, state: Any) -> dict[str, Any]:
        """Return the metrics by name: numbers, or lists or tensors with one value per class.

        Called after the last batch, unless there was none.
        """
        raise NotImplementedError(f"{type(self).__name__} has to override compute(self, state).")

    def merge(self, states: list[Any]) -> Any:
        """Return one state for those of several processes, each of which has read a part of the loader.

        Numbers and tensors are added, lists are joined, of anything else the first is taken. Override it where a
        state has something else.
        """
        if not all(isinstance(state, dict) for state in states):
            raise HookError(f"{type(self).__name__} has to override merge(self, states): its state is no dict.")
        merged: dict[str, Any] = {}
        for state in states:
            for name, value in state.items():
                adds = isinstance(value, (list, Tensor, int, float)) and not isinstance(value, bool)
                merged[name] = merged[name] + value if adds and name in merged else merged.get(name, value)
        return merged

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Forget what is left of the train pass before, if that was not this one, resumed."""
        self._begin(trainer, "train")

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Forget what is left of the valid pass before."""
        self._begin(trainer, "valid")

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Forget what is left of the test before."""
        self._begin(trainer, "test")

    def on_end_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Add a training batch."""
        self._add(trainer, "train")

    def on_evaluate_batch_end(self, trainer: ConvnetTrainer) -> None:
        """Add a valid batch."""
        self._add(trainer, "valid")

    def on_end_test_batch(self, trainer: ConvnetTrainer) -> None:
        """Add a test batch."""
        self._add(trainer, "test")

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Compute the metrics of the train pass."""
        self._finish(trainer, "train")

    def on_evaluate_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Compute the metrics of the valid pass."""
        self._finish(trainer, "valid")

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Compute the metrics of the test."""
        self._finish(trainer, "test")

    def state_dict(self) -> dict[str, Any]:
        """Return the train pass under way; a pass over another loader is never resumed."""
        state = self._states.get("resumed", self._states.get("train"))
        return {} if state is None else {"train": _copied(state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back a train pass, before or after its ``on_train_epoch_start``: its next batch goes on with it."""
        self._states = {"resumed": _copied(state["train"])} if "train" in state else {}

    def say_once(self, message: str) -> None:
        """Warn, the first time that it is asked for."""
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=2)

    def _begin(self, trainer: ConvnetTrainer, loader: str) -> None:
        self._states.pop(_pass_of(trainer, loader), None)
        if self.prediction is None:
            trainer.outputs = None  # so that a step which sets none is not measured by those of another pass

    def _add(self, trainer: ConvnetTrainer, loader: str) -> None:
        run = trainer._run_state
        if run.skip and run.ranks is not None:  # a stand-in for a batch of another rank counts nowhere
            return
        with torch.no_grad():
            prediction, target = self._taken(trainer, loader)
            self._go_on(loader)
            key = loader if len(run.evaluating) < 2 else _pass_of(trainer, loader)
            if key not in self._states:
                self._states[key] = self.start()
            self.update(self._states[key], prediction, target)

    def _go_on(self, loader: str) -> None:
        if loader == "train" and "resumed" in self._states:
            self._states["train"] = self._states.pop("resumed")

    def _taken(self, trainer: ConvnetTrainer, loader: str) -> tuple[Any, Any]:
        """Return the batch's prediction and target, detached."""
        prediction = trainer.outputs if self.prediction is None else self.prediction(trainer)
        target = trainer.targets if self.target is None else self.target(trainer)
        for argument, attribute, value in (("prediction", "outputs", prediction), ("target", "targets", target)):
            if value is None:
                own = [name for name in self.loaders if name != loader]
                raise HookError(
                    f"{type(self).__name__} has no {argument} for a {loader} batch: the step has not set "
                    f"self.{attribute}. Set it there, or write {type(self).__name__}({argument}=lambda trainer: ...)"
                    + (f", or measure elsewhere, with loaders={tuple(own)!r}." if own else ".")
                )
        return (part.detach() if isinstance(part, Tensor) else part for part in (prediction, target))  # type: ignore

    def _finish(self, trainer: ConvnetTrainer, loader: str) -> bool:
        """Put the metrics of a pass where they belong, and return whether it had any batch."""
        self._go_on(loader)
        state = self._of_all_processes(self._states.pop(_pass_of(trainer, loader), None))
        if state is None:
            return False
        with torch.no_grad():
            values = {f"{self.prefix}{name}": value for name, value in self.compute(state).items()}
        # By the loader's name: a hook of the subclass may have evaluated since, and changed loader_metrics.
        metrics = trainer.epoch_metrics.get(loader, trainer.loader_metrics)
        for name, value in values.items():
            self._check_free(name, metrics)
            metrics[name] = value.tolist() if isinstance(value, Tensor) else value
        return True

    def _of_all_processes(self, state: Any) -> Any:
        """Return the state of the whole loader, None where no process had a batch."""
        states = gather(state)
        return self.merge(states) if len(states) > 1 else next(iter(states), None)

    def _check_free(self, name: str, metrics: dict[str, Any]) -> None:
        """Raise a ConfigError if there is a metric of this name already."""
        if name in metrics:
            raise ConfigError(
                f"{type(self).__name__}: there is another metric called {name!r} already. "
                f"Write {type(self).__name__}(prefix='my_') to tell them apart."
            )


def _pass_of(trainer: ConvnetTrainer, loader: str) -> str:
    """Return the name of the state of the pass under way: one within another over the same loader has its own."""
    depth = sum(kind == loader for kind, _ in trainer._run_state.evaluating)
    return loader if depth < 2 else f"{loader} {depth}"


def gather(state: Any) -> list[Any]:
    """Return the states of all processes that had a batch of this pass: of a single one its own.

    Every process has to call it, also one that had no batch (None).
    """
    states = [state]
    if distributed.several():
        states = distributed.gather_objects(data.move(state, torch.device("cpu")))
    return [part for part in states if part is not None]


def add(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Add a tensor to what a state has under a name."""
    before = state.get(name)
    state[name] = value if before is None else before.to(value.device) + value


def keep(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Append a tensor to the list that a state has under a name; a copy, what the step reuses may change."""
    state.setdefault(name, []).append(value.clone())


def joined(state: dict[str, Any], name: str) -> Tensor:
    """Return what `keep` has kept under a name as one tensor, on the device of the last batch."""
    device = state[name][-1].device
    return torch.cat([part.to(device) for part in state[name]])


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}
