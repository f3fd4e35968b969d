"""Metric objects, torchmetrics' or of their shape, during one pass over a loader."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..duck_typing import attribute, has_methods, has_state, own_attributes
from ..errors import HookError
from .running import _OWN_RECORDS


class MetricObjects:
    """The objects in ``self.metrics`` (torchmetrics or of its shape) during one pass over a loader.

    Parameters
    ----------
    metrics : None, one metric, or dict of metrics
        Anything with ``update(prediction, target)``, ``compute()`` and ``reset()``. Numbers, strings and lists
        are a subclass's own records under the same name and are left alone.
    device : torch.device
    """

    def __init__(self, metrics: Any, device: torch.device) -> None:
        self.metrics = metrics_in(metrics)
        self.updated = False
        _check_no_list(metrics)
        for name, metric in self.metrics.items():
            missing = [method for method in ("update", "compute", "reset") if not callable(attribute(metric, method))]
            if missing:
                raise HookError(
                    f"self.metrics[{name!r}] is a {type(metric).__name__} without {', '.join(missing)}; give a "
                    "torchmetrics object (pip install torchmetrics), or put a number into self.batch_metrics."
                )
            metric.reset()
            if has_methods(metric, "to"):
                metric.to(device)

    def update(self, prediction: Any, target: Any) -> None:
        """Add one batch to every metric."""
        self.updated = True
        prediction = prediction.detach() if isinstance(prediction, Tensor) else prediction
        for metric in self.metrics.values():
            metric.update(prediction, target)

    def used(self) -> dict[str, Any]:
        """Return the metrics to which anything was added."""
        # A step without outputs may have updated a metric by itself.
        return {name: m for name, m in self.metrics.items() if self.updated or attribute(m, "update_called") is True}

    def state_dict(self) -> dict[str, Any]:
        """Return what was added so far: the states of torchmetrics objects, the ``state_dict`` of others."""
        found = {}
        for name, metric in self.metrics.items():
            parts = _torchmetrics(metric)
            if parts:
                found[name] = {
                    key: {"count": part._update_count, "values": {n: getattr(part, n) for n in part._defaults}}
                    for key, part in parts.items()
                }
            elif has_state(metric):
                found[name] = metric.state_dict()
        return {"updated": self.updated, "metrics": found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.updated = state.get("updated", False)
        for name, values in state.get("metrics", {}).items():
            metric = self.metrics.get(name)
            for key, part in _torchmetrics(metric).items():
                part._update_count, part._computed = values[key]["count"], None
                for field in part._defaults:
                    setattr(part, field, _to(values[key]["values"][field], part.device))
            if metric is not None and not _torchmetrics(metric):
                metric.load_state_dict(values)

    def compute(self) -> dict[str, Any]:
        """Return every metric over what was added: a float, or a list of floats for one value per class."""
        values: dict[str, Any] = {}
        for name, metric in self.used().items():
            value = metric.compute()
            for key, part in value.items() if isinstance(value, Mapping) else [(name, value)]:
                values[str(key)] = part
        return values


def metrics_in(metrics: Any) -> dict[str, Any]:
    """Return the metric objects of ``self.metrics`` by name; a subclass's own records are left out."""
    given = metrics if isinstance(metrics, Mapping) else {"metric": metrics}
    return {name: metric for name, metric in given.items() if not isinstance(metric, _OWN_RECORDS)}


def _check_no_list(metrics: Any) -> None:
    """Raise for metric objects in a list, which would be taken for a record and never be updated."""
    for place, value in [("", metrics), *(metrics.items() if isinstance(metrics, Mapping) else ())]:
        for part in value[:100] if isinstance(value, (list, tuple)) else ():  # a record may be long
            if has_methods(part, "update", "compute", "reset"):
                where = f"self.metrics[{place!r}]" if value is not metrics else "self.metrics"
                raise HookError(
                    f"{where} is a {type(value).__name__} with a {type(part).__name__} in it; expected one metric, or "
                    f"a dict of them by name. Write self.metrics = {{'score': {type(part).__name__}(...)}}."
                )


@contextlib.contextmanager
def contents_kept(metrics: Mapping[str, Any]) -> Iterator[None]:
    """Let metric objects be used for something else; afterwards they have, in place, what they had gathered before."""
    # Not networks inside a metric, which do not change.
    parts = {id(part): part for m in metrics.values() for part in (m, *_torchmetrics(m).values())}
    tables = [table for part in parts.values() if (table := own_attributes(part)) is not None]
    kept = [{name: _copied(name, value) for name, value in table.items()} for table in tables]
    try:
        yield
    finally:
        for table, values in zip(tables, kept, strict=True):
            table.clear()
            table.update(values)


def _torchmetrics(metric: Any) -> dict[str, Any]:
    """Return the torchmetrics objects in a metric: itself, or the parts of a collection."""
    modules = metric.named_modules() if isinstance(metric, torch.nn.Module) else ()
    return {
        name: part
        for name, part in modules
        if type(attribute(part, "_update_count")) is int and isinstance(attribute(part, "_defaults"), dict)
    }


def _copied(name: str, value: Any) -> Any:
    """Return a copy of what a metric has gathered; functions and modules stay, for they are known elsewhere too."""
    if callable(value) or name in ("_modules", "_parameters"):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # a file, a lock: nothing that is gathered
        return value


def _to(value: Any, device: torch.device) -> Any:
    return [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
