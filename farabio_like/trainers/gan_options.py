"""The options of `GanTrainer` by name, and what each may be. What they do is said in `gan`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config.allowed import Allowed, flag, one_of, positive, whole
from .ready_made import part_of_one, several


def _from_zero(what: str, example: float) -> Allowed:
    def holds(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf

    return Allowed(f"{what}, a number from 0 up", holds, example)


def _per_network(allowed: Allowed) -> Allowed:
    """Return what allows a value for all networks, or a dict with one for each."""

    def holds(value: Any) -> bool:
        parts = value.values() if isinstance(value, Mapping) else (value,)
        return all(part is not None and allowed.holds(part) for part in parts)

    return Allowed(f"{allowed.expected}, or a dict of them by network", holds, allowed.example)


def _is_decay(value: Any) -> bool:
    return value is None or part_of_one("the average").holds(value)


OPTIONS: dict[str, Allowed] = {
    "lr": _per_network(positive(example=2e-4)),
    "batch_size": whole(1, example=64),
    "num_workers": whole(0, example=2),
    "loss": Allowed("the name of a loss, or an AdversarialLoss", lambda v: isinstance(v, str) or callable(v), "hinge"),
    "latent_size": several("numbers", 1, 100, alone=True),
    "conditional": flag(),
    "d_steps": whole(1, of="steps", example=1),
    "g_steps": whole(1, of="steps", example=1),
    "d_statistics": flag(),
    "smoothing": part_of_one("the label"),
    "image_noise": _from_zero("a standard deviation", 0.1),
    "gradient_penalty": one_of(None, "wgan-gp", "r1"),
    "penalty_weight": _from_zero("a weight", 10.0),
    "ema_decay": Allowed("None, or a number from 0 to below 1", _is_decay, 0.999),
    "samples": whole(0, of="images", example=64),
}
