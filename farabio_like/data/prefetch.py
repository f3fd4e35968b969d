"""The next batch on its way to a GPU while the model works on this one.

Pinned memory and a second stream, after the recipe of NVIDIA's Apex examples (``data_prefetcher`` in
``examples/imagenet/main_amp.py``) and torch's notes on CUDA streams.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from ..duck_typing import has_methods
from . import batches


def prefetched(items: Iterable[Any], device: torch.device, memory_format: torch.memory_format | None) -> Iterable[Any]:
    """Return the items of a pass, each with its batch on the device; on another one than a GPU the items as they are.

    Parameters
    ----------
    items : iterable
    device : torch.device
    memory_format : torch.memory_format or None
        As `farabio_like.data.move` takes it.
    """
    return _one_ahead(items, device, memory_format) if device.type == "cuda" else items


def _one_ahead(items: Iterable[Any], device: torch.device, memory_format: torch.memory_format | None) -> Iterator[Any]:
    stream = torch.cuda.Stream(device)
    waiting: list[Any] = []
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            yield from _arrive(waiting, stream, device)
            return
        except Exception:
            # The batches before the one that fails are trained first, as they are without prefetching.
            yield from _arrive(waiting, stream, device)
            raise
        with torch.cuda.stream(stream):
            moved = batches.move(_pinned(item), device, memory_format)
        yield from _arrive(waiting, stream, device)
        waiting.append((moved, stream.record_event()))


def _pinned(item: Any) -> Any:
    """Return an item with its tensors in pinned memory, as it is where it holds others than those of the CPU."""
    plain = (isinstance(t, Tensor) and t.device.type == "cpu" and t.layout == torch.strided for t in tensors_in(item))
    return pin_memory(item) if all(plain) else item


def _arrive(waiting: list[Any], stream: torch.cuda.Stream, device: torch.device) -> Iterator[Any]:
    """Yield the item that waits, if there is one, when the model's stream may use it."""
    if not waiting:
        return
    moved, copied = waiting.pop()
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)
    for tensor in tensors_in(moved):
        # The allocator must not give the memory to the copying stream while the model's work on it waits.
        tensor.record_stream(current)
    yield moved


def tensors_in(batch: Any) -> Iterator[Any]:
    """Yield the tensors of a batch, and objects that know their streams themselves."""
    kind = type(batch)
    if issubclass(kind, Tensor) or has_methods(batch, "record_stream"):
        yield batch
        return
    parts: Iterable[Any] = ()
    if issubclass(kind, (list, tuple)):
        parts = batch
    elif issubclass(kind, Mapping):
        parts = batch.values()
    elif dataclasses.is_dataclass(kind):
        parts = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    for part in parts:
        yield from tensors_in(part)
