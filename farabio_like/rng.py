"""Random numbers: the state of every generator as plain data, and drawing beside a run without a trace in it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .duck_typing import attribute, is_a


def get_state(*loaders: Any, devices: bool = True) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, torch, its devices and of these loaders.

    Parameters
    ----------
    *loaders : iterable of batches
        The generators of a ``DataLoader`` and of its samplers.
    devices : bool
        Whether those of torch's other devices are wanted.

    Returns
    -------
    dict
        For `set_state`, or for a file after `packed`.
    """
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=True),
        "torch": torch.get_rng_state(),
        "loaders": [generator.get_state() for loader in loaders for generator in _generators(loader)],
    }
    if devices and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if devices and torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def packed(state: dict[str, Any]) -> dict[str, Any]:
    """Return what `get_state` returned as tensors and plain data; what is packed already stays."""
    if isinstance(state["python"], list):
        return state
    version, words, gauss = state["python"]
    algorithm, keys, position, has_gauss, cached = state["numpy"]
    return {
        **state,
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [algorithm, torch.tensor(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }


def set_state(state: dict[str, Any] | None, *loaders: Any) -> None:
    """Give the generators the states that `get_state` returned for the same loaders, packed or not.

    None changes nothing.
    """
    if state is None:
        return
    version, words, gauss = state["python"]
    random.setstate((version, words if isinstance(words, tuple) else tuple(words.tolist()), gauss))
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys if isinstance(keys, np.ndarray) else keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    generators = [generator for loader in loaders for generator in _generators(loader)]
    for generator, own in zip(generators, state["loaders"], strict=False):
        generator.set_state(own)
    if "cuda" in state and torch.cuda.is_available():
        # The devices may be fewer than they were.
        for device, own in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(own, device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextlib.contextmanager
def preserved_rng(*loaders: Any, devices: bool = True) -> Iterator[None]:
    """Give every generator that `get_state` knows its state back."""
    state = get_state(*loaders, devices=devices)
    try:
        yield
    finally:
        set_state(state, *loaders)


def _generators(loader: Any) -> list[torch.Generator]:
    batch_sampler = attribute(loader, "batch_sampler")
    holders = (loader, attribute(loader, "sampler"), batch_sampler, attribute(batch_sampler, "sampler"))
    found = [attribute(holder, "generator") for holder in holders if holder is not None]
    return [generator for generator in found if is_a(generator, torch.Generator)]
