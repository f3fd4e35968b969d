"""`TorchMetric`: a torchmetrics object as a metric."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import distributed
from ..errors import ConfigError
from ..metrics.across_ranks import merged_metric
from ..training.monitor import names_of_object
from .metric import MetricCallback, gather


class TorchMetric(MetricCallback):
    """Measures with a torchmetrics object, or anything with ``update``, ``compute`` and ``reset``.

    Parameters
    ----------
    name : str
        Name of the value; of a dict of values (a ``MetricCollection``) each is called ``<name>_<key>``.
    metric : torchmetrics.Metric or MetricCollection
        Updated with prediction and target, on their device.
    **options
        ``loaders``, ``prediction``, ``target``, ``prefix``: see `MetricCallback`.

    Raises
    ------
    ConfigError
        For an object without these methods.

    Examples
    --------
    ``TorchMetric("kappa", torchmetrics.CohenKappa(task="multiclass", num_classes=10))``
    """

    def __init__(self, name: str, metric: Any, **options: Any) -> None:
        super().__init__(**options)
        missing = [method for method in ("update", "compute", "reset") if not callable(getattr(metric, method, None))]
        if missing or isinstance(metric, type):
            found = f"a {type(metric).__name__} without {', '.join(missing)}"
            found = f"the class {metric.__name__}" if isinstance(metric, type) else found
            raise ConfigError(
                f"TorchMetric({name!r}, ...) got {found}; expected a torchmetrics object "
                f"(pip install 'farabio-like[metrics]'). For a function, write FunctionMetric({name!r}, function)."
            )
        self.name = name
        self.metric = metric

    def announces(self) -> dict[str, bool | None] | None:
        """Return the names with what the metric says of its direction; of a dict of values they are not known."""
        names, known = names_of_object(f"{self.prefix}{self.name}", self.metric, f"{self.prefix}{self.name}_")
        return names if known else {**names, f"{self.prefix}{self.name}_*": None}

    def start(self) -> Any:
        """Return the metric, empty; a copy where another loader's pass has it."""
        in_use = any(state is self.metric for state in self._states.values())
        metric = copy.deepcopy(self.metric) if in_use else self.metric
        metric.reset()
        return metric

    def update(self, state: Any, prediction: Any, target: Any) -> None:
        """Update the metric, where the prediction is."""
        if isinstance(prediction, Tensor) and hasattr(state, "to") and getattr(state, "device", 0) != prediction.device:
            state.to(prediction.device)
        state.update(prediction, target)

    def compute(self, state: Any) -> dict[str, Any]:
        """Return the metric's value, or values."""
        value = state.compute()
        if isinstance(value, Mapping):
            return {f"{self.name}_{key}": part for key, part in value.items()}
        return {self.name: value}

    def _of_all_processes(self, state: Any) -> Any:
        states = gather(state)
        if not distributed.several() or not states:
            return state
        return merged_metric(states, f"TorchMetric({self.name!r}, ...)")

    def state_dict(self) -> dict[str, Any]:
        """Return what the metric has gathered of the train pass under way."""
        metric = self._states.get("resumed", self._states.get("train"))
        if metric is None or not hasattr(metric, "persistent"):
            return {}
        kept = copy.deepcopy(metric)
        kept.persistent(True)
        return {"train": dict(kept.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back a train pass, before or after its ``on_train_epoch_start``: its next batch goes on with it."""
        self._states = {}
        if "train" in state:
            metric = self._states["resumed"] = self.start()
            metric.persistent(True)
            metric.load_state_dict(state["train"])
