"""A batch: moved to a device, its inputs and targets, and how a message names it. Its samples: `counting`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..duck_typing import has_methods

MOST_PARTS = 5  # of a batch that are described


def move(batch: Any, device: torch.device, memory_format: torch.memory_format | None = None) -> Any:
    """Return `batch` with every tensor on `device`.

    Tuples, named tuples, lists, mappings and dataclasses keep their types; an object with a ``to`` method
    is asked to move itself; anything else is passed on unchanged. Copies to a GPU do not block. Tensors with four
    dimensions get the memory format, if one is given.
    """
    kind = type(batch)
    if issubclass(kind, Tensor):
        if memory_format is not None and batch.dim() == 4:
            return batch.to(device, non_blocking=True, memory_format=memory_format)
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if kind is list or kind is tuple:
        parts = [
            p if type(p) is Tensor and p.device == device and memory_format is None else move(p, device, memory_format)
            for p in batch
        ]
        return parts if kind is list else tuple(parts)
    if batch is None or kind in (str, bytes, int, float, bool):
        return batch
    if issubclass(kind, PackedSequence):
        return batch.to(device)  # type: ignore[arg-type]
    if issubclass(kind, tuple):
        parts = [move(part, device, memory_format) for part in batch]
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    moved: Any
    if issubclass(kind, list):
        moved = copy.copy(batch)
        moved[:] = [move(part, device, memory_format) for part in batch]
        return moved
    if issubclass(kind, dict):
        moved = copy.copy(batch)
        for key, part in batch.items():
            moved[key] = move(part, device, memory_format)
        return moved
    if dataclasses.is_dataclass(kind):
        moved = copy.copy(batch)
        for field in dataclasses.fields(batch):
            # Not setattr: the class may be frozen.
            object.__setattr__(moved, field.name, move(getattr(batch, field.name), device, memory_format))
        return moved
    if has_methods(batch, "to"):
        return batch.to(device)
    if issubclass(kind, Mapping):
        return {key: move(part, device, memory_format) for key, part in batch.items()}
    return batch


def batch_of(item: Any) -> Any:
    """Return the batch of an ``(index, batch)`` pair, and any other item as it is."""
    return item[1] if type(item) is tuple and len(item) == 2 and type(item[0]) is int else item


def inputs_and_targets(batch: Any) -> dict[str, Any]:
    """Return ``inputs`` and ``targets`` of a batch, as far as it has them.

    A pair has both; a mapping or a dataclass has those of its keys with these names; a tensor alone, or a
    list of one, is inputs without targets.
    """
    if isinstance(batch, (list, tuple)) and not isinstance(batch, PackedSequence):
        if len(batch) == 2:
            return {"inputs": batch[0], "targets": batch[1]}
        return {"inputs": batch[0], "targets": None} if len(batch) == 1 else {}
    if isinstance(batch, (Tensor, PackedSequence)):
        return {"inputs": batch, "targets": None}
    if isinstance(batch, Mapping):
        return {name: batch[name] for name in ("inputs", "targets") if name in batch}
    found = {}
    for name in ("inputs", "targets"):
        with contextlib.suppress(AttributeError, KeyError):  # an object that keeps its parts in a dict raises either
            found[name] = getattr(batch, name)
    return found


def describe_batch(batch: Any) -> str:
    """Return in a few words what a batch is, with its keys or the types of its parts."""
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with the keys {list(batch)}"
    if isinstance(batch, (list, tuple)):
        return f"a {type(batch).__name__} of {len(batch)}: {', '.join(type(part).__name__ for part in batch)}"
    return f"a {type(batch).__name__}"


def is_batch(value: Any) -> bool:
    """Return whether `value` is one batch rather than a loader of batches."""
    if isinstance(value, (Tensor, Mapping, PackedSequence)):
        return True
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], Tensor)
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(type(value), "__iter__")


def shapes_of(batch: Any) -> str:
    """Return type and shape of the tensors of a batch, in its containers."""
    if isinstance(batch, Tensor):
        device = "" if batch.device.type == "cpu" else f" on {batch.device}"
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}{device}"
    if isinstance(batch, Mapping):
        parts = [f"{key!r}: {shapes_of(part)}" for key, part in list(batch.items())[:MOST_PARTS]]
    elif isinstance(batch, (list, tuple)):
        parts = [shapes_of(part) for part in batch[:MOST_PARTS]]
    else:
        return type(batch).__name__
    more = ", ..." if len(batch) > MOST_PARTS else ""
    return f"{{{', '.join(parts)}{more}}}" if isinstance(batch, Mapping) else f"({', '.join(parts)}{more})"
