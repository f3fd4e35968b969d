"""Metrics of several ranks as those of one: what each rank has counted is sent to all, and put together there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import data, distributed
from ..errors import HookError
from .objects import MetricObjects
from .running import RunningMeans
from .values import plain_metrics

CPU = torch.device("cpu")


def of_all_ranks(means: RunningMeans, objects: MetricObjects) -> dict[str, Any]:
    """Return the metrics of a pass over a loader by all ranks; all ranks have to call it."""
    own = (means.totals(), {name: data.move(m, CPU) for name, m in objects.used().items()})
    gathered = distributed.gather_objects(own)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for totals, _ in gathered:
        for name, (total, count) in totals.items():
            sums[name] = sums.get(name, 0.0) + total
            counts[name] = counts.get(name, 0) + count
    values = {name: total / counts[name] for name, total in sums.items() if counts[name]}
    merged = MetricObjects(None, CPU)
    merged.updated = True
    for name in objects.metrics:
        used = [metrics[name] for _, metrics in gathered if name in metrics]
        if used:
            merged.metrics[name] = merged_metric(used, f"self.metrics[{name!r}]")
    return plain_metrics({**values, **merged.compute()})


def merged_metric(metrics: Sequence[Any], where: str) -> Any:
    """Return one torchmetrics object that has seen what all of these have seen.

    Raises
    ------
    HookError
        For another kind of object.
    """
    merged = copy.deepcopy(metrics[0])
    kinds = [isinstance(metric, nn.Module) for metric in metrics]
    if not all(kinds) or not any(hasattr(part, "_reductions") for part in merged.modules()):
        raise HookError(
            f"{where} is a {type(merged).__name__}, which cannot be put together from {distributed.world_size()} "
            "processes. Give a torchmetrics object (pip install torchmetrics), or a MetricCallback."
        )
    # Wrappers and collections hold metrics, so all parts of the one are merged with the same parts of the others.
    for target, *parts in zip(merged.modules(), *(metric.modules() for metric in metrics), strict=True):
        if not hasattr(target, "_reductions"):
            continue
        for name, reduction in target._reductions.items():
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], list):
                setattr(target, name, [tensor for value in values for tensor in value])
            elif isinstance(values[0], Tensor):
                stacked = torch.stack(values)
                setattr(target, name, stacked if reduction is None else reduction(stacked))
        target._update_count = sum(part._update_count for part in parts)
        target._computed = None
        target._to_sync = target.sync_on_compute = False  # it is done
    return merged
