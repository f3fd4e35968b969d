"""Buffers, which a forward pass writes to: kept before it, and given back where it is to leave nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import components
from ..components import inventory

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class Buffers:
    """The buffers of all modules of a trainer: the statistics of batch norm layers, say.

    Parameters
    ----------
    trainer : ConvnetTrainer
    """

    def __init__(self, trainer: ConvnetTrainer) -> None:
        modules = [part.value for part in inventory.once(inventory.take(trainer).modules)]
        layers = {id(layer): layer for module in modules for layer in module.modules()}
        self._places = [(layer, name) for layer in layers.values() for name in layer._buffers]
        self._kept: list[tuple[nn.Module, str, Tensor]] = []
        # A mask of an attention is infinite from the beginning, and means it.
        self._infinite = {(id(layer), name) for layer, name, value in self._values() if not all_finite([value])}

    def keep(self) -> None:
        """Keep what they hold before a batch."""
        self._kept = [(layer, name, value.detach().clone()) for layer, name, value in self._values()]

    def give_back(self) -> None:
        """Let them hold what they held before the batch."""
        with torch.no_grad():
            for layer, name, value in self._kept:
                now = layer._buffers.get(name)
                if now is not None and now.shape == value.shape and now.dtype == value.dtype:
                    now.copy_(value)
                else:
                    layer._buffers[name] = value.clone()

    def are_finite(self) -> bool:
        """Return whether all are that were; read back once."""
        return all_finite(value for layer, name, value in self._values() if (id(layer), name) not in self._infinite)

    def _values(self) -> list[tuple[nn.Module, str, Tensor]]:
        found = ((layer, name, layer._buffers.get(name)) for layer, name in self._places)
        return [(layer, name, b) for layer, name, b in found if b is not None and not components.is_lazy(b)]


@contextlib.contextmanager
def buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give the buffers of some modules back what they held: what is passed through these leaves no trace in them.

    Not before a backward pass is through, which may read them.
    """
    found = {id(buffer): buffer for module in modules for buffer in module.buffers() if not components.is_lazy(buffer)}
    buffers = list(found.values())
    copies = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:
            with torch.no_grad():
                torch._foreach_copy_(buffers, copies)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all tensors are finite, those of whole numbers are; read back once per device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point() and not tensor.is_sparse:
            by_device.setdefault(tensor.device, []).append(tensor.detach())
    for there in by_device.values():
        if not bool(torch.stack([norm.isfinite() for norm in torch._foreach_norm(there)]).all()):
            # The norm may overflow where all is finite.
            return all(bool(tensor.isfinite().all()) for tensor in (t for part in by_device.values() for t in part))
    return True
