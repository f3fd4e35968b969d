"""Streams that several workers read: whether each worker reads its own part, or all of them the whole."""

from __future__ import annotations

import hashlib
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterDataPipe

from ..duck_typing import attribute, own_attributes
from .counting import Counted

DEEPEST = 6  # containers within containers
_said: weakref.WeakSet[Any] = weakref.WeakSet()  # loaders, each once


class SharedStream:
    """Looks at the first batch of each worker of a loader over an ``IterableDataset``, and warns where all are alike.

    A data set that divides itself has to ask for the number of its worker. One that has not asked does not divide
    itself, unless the loader's ``worker_init_fn`` does it; then it counts whether the first batches are equal.

    Parameters
    ----------
    loader : iterable of batches
    name : str
    """

    def __init__(self, loader: Any, name: str) -> None:
        self.loader, self.name = loader, name
        self.workers = attribute(loader, "num_workers", 0)
        self.first: set[str | None] = set()

    def look(self, index: int, batch: Counted) -> None:
        """Look at a batch; those of the workers come in turn."""
        if index >= self.workers or self.loader in _said:
            return
        divided = self.loader.worker_init_fn is not None or isinstance(self.loader.dataset, IterDataPipe)
        self.first.add(digest(batch.batch))
        alike = index == self.workers - 1 and len(self.first) == 1 and None not in self.first
        if not (batch.asked or divided) or alike:
            _said.add(self.loader)
            try:
                samples = f"each of its {len(self.loader.dataset)} samples"
            except (TypeError, NotImplementedError):
                samples = "each of its samples"
            warnings.warn(
                f"self.{self.name}_loader reads a {type(self.loader.dataset).__name__} by {self.workers} workers, and "
                f"nothing divides it among them: {samples} comes {self.workers} times. Write in its __iter__: info = "
                "torch.utils.data.get_worker_info(), and give every info.num_workers-th sample from info.id on; or "
                "write num_workers=1.",
                stacklevel=2,
            )


def digest(value: Any) -> str | None:
    """Return a number for the content of a batch or of a sample, None where it holds what cannot be compared."""
    found = hashlib.sha256()
    return found.hexdigest() if _feed(found, value, 0) else None


def _feed(found: Any, value: Any, depth: int) -> bool:
    """Add a value to a digest; return whether that was possible."""
    kind = type(value)
    found.update(kind.__name__.encode() + b"(")
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not value.is_nested and not value.is_quantized
        if not plain or value.device.type == "meta":
            return False
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return True
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.hasobject:
            return False
        found.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        return True
    if kind in (int, float, complex, bool, type(None), str, bytes):
        found.update(repr(value).encode("utf-8", "surrogatepass"))
        return True
    parts: Iterable[Any] | None = None
    if isinstance(value, Mapping):
        parts = [part for pair in value.items() for part in pair]
    elif isinstance(value, (list, tuple)):
        parts = value
    elif callable(attribute(value, "tobytes")):  # a picture
        found.update(value.tobytes())
        return True
    else:
        own = own_attributes(value)
        parts = [part for pair in own.items() for part in pair] if own else None
    return parts is not None and depth < DEEPEST and all(_feed(found, part, depth + 1) for part in parts)
