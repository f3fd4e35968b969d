"""`FunctionMetric`: any function of prediction and target as a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .metric import MetricCallback, joined, keep

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class FunctionMetric(MetricCallback):
    """Measures any function of prediction and target, per batch or once per loader.

    Parameters
    ----------
    name : str
    function : callable
        Takes prediction and target, on the device and without gradients; returns a number or a tensor with one
        element, for ``per="loader"`` also a list or tensor with one value per class.
    per : {"batch", "loader"}
        ``"batch"``: called with every batch, the values are averaged by their samples, as ``batch_metrics`` are.
        ``"loader"``: called once with all predictions and targets of a loader, kept on the device until then, for
        what is no mean over batches.
    **options
        ``loaders``, ``prediction``, ``target``, ``prefix``: see `MetricCallback`.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    DataError
        For ``per="loader"``, when prediction or target is no tensor.

    Examples
    --------
    ``FunctionMetric("mae", lambda prediction, target: (prediction - target).abs().mean())``
    """

    def __init__(self, name: str, function: Callable[[Any, Any], Any], per: str = "batch", **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(name, str) or not callable(function):
            raise ConfigError(
                f"FunctionMetric({name!r}, {function!r}): expected a name and a function. "
                'Write FunctionMetric("mae", lambda prediction, target: (prediction - target).abs().mean()).'
            )
        if per not in ("batch", "loader"):
            raise ConfigError(f'FunctionMetric({name!r}, per={per!r}): expected "batch" or "loader".')
        if self.prefix + name == "loss":
            raise ConfigError('FunctionMetric("loss", ...): this name is that of the loss itself; take another one.')
        self.name = name
        self.function = function
        self.per = per

    def announces(self) -> dict[str, bool | None] | None:
        """Return the name."""
        return {f"{self.prefix}{self.name}": None}

    def update(self, state: dict[str, Any], prediction: Any, target: Any) -> None:
        """Keep the batch."""
        for part, value in (("prediction", prediction), ("target", target)):
            if not isinstance(value, Tensor):
                raise DataError(
                    f"FunctionMetric({self.name!r}, per='loader') got a {type(value).__name__} as {part}; expected a "
                    f"tensor. Write {part}=lambda trainer: ..., which takes it out, or per='batch'."
                )
            keep(state, part, value)

    def compute(self, state: dict[str, Any]) -> dict[str, Any]:
        """Call the function with everything."""
        return {self.name: self.function(joined(state, "prediction"), joined(state, "target"))}

    def _add(self, trainer: ConvnetTrainer, loader: str) -> None:
        if self.per == "loader":
            super()._add(trainer, loader)
        else:
            name = self.prefix + self.name
            self._check_free(name, trainer.batch_metrics)
            with torch.no_grad():
                trainer.batch_metrics[name] = self.function(*self._taken(trainer, loader))
