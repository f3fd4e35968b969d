"""The value of a metric as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..duck_typing import has_methods


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as plain data: a float for one number, a list for several; tensors and arrays are read."""
    return {str(name): _plain(value) for name, value in metrics.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
        return value.item() if value.numel() == 1 else value.tolist()
    # numpy's scalars are no plain data, although np.float64 is a float.
    return value.tolist() if has_methods(value, "tolist") else value
