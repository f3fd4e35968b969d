"""Where a run computes: the device and the parallel wrappers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import ConfigError


def resolve_device(asked: Any) -> torch.device:
    """Return the device for the setting ``_device``.

    Parameters
    ----------
    asked : str, int or torch.device
        ``"auto"`` takes CUDA, then Apple's MPS, then the CPU, whichever is there first.

    Raises
    ------
    ConfigError
        If there is no such device here.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            asked = "cuda"
        else:
            asked = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"_device is {asked!r}; expected 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or a torch.device."
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"_device is {str(asked)!r}, but torch sees no CUDA device. Write _device = 'auto'.")
        # With its index, so that it equals the device of a tensor that lives there.
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        if device.index >= torch.cuda.device_count():
            raise ConfigError(f"_device is {str(asked)!r}, but torch sees {torch.cuda.device_count()} CUDA devices.")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("_device is 'mps', but torch sees no MPS device. Write _device = 'auto'.")
        device = torch.device("mps", 0)
    return device


def device_list(data_parallel: Any) -> list[int] | None:
    """Return the CUDA indices for the setting ``_data_parallel``; None means all that are visible.

    Raises
    ------
    ConfigError
        If the setting is neither a flag nor a list of visible devices.
    """
    if data_parallel is None or isinstance(data_parallel, bool):
        return None
    if not isinstance(data_parallel, (list, tuple)) or not all(type(index) is int for index in data_parallel):
        raise ConfigError(
            f"_data_parallel is {data_parallel!r}; expected None, True, False or a list of device numbers, [0, 1] say."
        )
    indices = list(data_parallel)
    visible = torch.cuda.device_count()
    if len(set(indices)) < len(indices) or any(not 0 <= index < visible for index in indices):
        raise ConfigError(f"_data_parallel lists the devices {indices}; torch sees {visible} CUDA devices.")
    return indices


def data_parallel(module: nn.Module, devices: list[int] | None) -> nn.Module:
    """Wrap `module` for several GPUs of this process; without a GPU the wrapper just calls it."""
    return module if isinstance(module, nn.DataParallel) else nn.DataParallel(module, device_ids=devices)
