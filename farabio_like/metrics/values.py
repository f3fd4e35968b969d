"""The value of a metric as plain data, and which of two is better."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..duck_typing import has_methods

_HIGHER_IS_BETTER = {
    *("acc", "accuracy", "ap", "auc", "auroc", "dice", "f1", "fscore", "iou", "jaccard", "kappa", "map", "mcc", "miou"),
    *("precision", "psnr", "r2", "recall", "score", "sensitivity", "specificity", "ssim"),
}
_LOWER_IS_BETTER = {"error", "loss", "distance"}


def improves(name: str, value: float, best: float, mode: str | None = None, min_delta: float = 0.0) -> bool:
    """Return whether a metric is better than the best one so far.

    Parameters
    ----------
    name : str
        Decides the direction where `mode` does not: whole words of it are looked at, so ``dice`` and ``val_acc``
        are better when higher, ``loss``, ``dice_loss`` and anything unknown when lower.
    value, best : float
    mode : "min", "max" or None
    min_delta : float
        A smaller change is no improvement.
    """
    if mode is None:
        words = {part for word in re.split(r"[^a-z0-9]+", name.lower()) for part in (word, word.rstrip("0123456789"))}
        mode = "max" if words & _HIGHER_IS_BETTER and not words & _LOWER_IS_BETTER else "min"
    return value > best + min_delta if mode == "max" else value < best - min_delta


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as plain data: a float for one number, a list for several; tensors and arrays are read."""
    return {str(name): _plain(value) for name, value in metrics.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
        return value.item() if value.numel() == 1 else value.tolist()
    # numpy's scalars are no plain data, although np.float64 is a float.
    return value.tolist() if has_methods(value, "tolist") else value
