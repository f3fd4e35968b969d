"""Where and how a run computes: the device, the parallel wrappers, compiling, determinism, seeds.

How a step is made (precision, accumulation, clipping) is in `farabio_like.optim.steps`.
"""

from __future__ import annotations

import contextlib
import operator
import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from . import components
from .config import settings
from .distributed import fsdp
from .errors import ConfigError

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def seed_everything(seed: int | None) -> None:
    """Seed the random generators of Python, NumPy and torch with all its devices; None leaves them alone."""
    if seed is not None:
        seed = operator.index(seed)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def prepare_modules(trainer: ConvnetTrainer) -> None:
    """Move models and criteria to the device, into channels_last, and compile the models, as the settings say.

    A model is compiled in place (``Module.compile``), so it stays what it is, and its keys stay plain.
    """
    models = components.modules_of(trainer)
    for module in (*models, *components.each(trainer.criterion)):
        if isinstance(module, nn.Module):
            # Modules in shards go there piece by piece: all of them may be too large for one device.
            if not (fsdp.wanted(trainer) and any(p.requires_grad for p in module.parameters())):
                module.to(trainer.device)
            if trainer._channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if trainer._compile is not False:
        arguments = {} if trainer._compile is True else dict(trainer._compile)
        for module in models:
            try:
                module.compile(**arguments)
            except Exception as error:  # an argument, a mode or a backend that torch does not have
                raise ConfigError(
                    f"{type(trainer).__name__}: _compile is {arguments or True}, and torch.compile says: {error}"
                ) from error


def make_deterministic() -> tuple[Any, ...]:
    """Let torch use deterministic algorithms only; return what `restore_determinism` needs.

    See torch's notes on reproducibility: https://docs.pytorch.org/docs/stable/notes/randomness.html.
    """
    cudnn = torch.backends.cudnn
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    before = (*algorithms, cudnn.deterministic, cudnn.benchmark, os.environ.get(_CUBLAS))
    if torch.cuda.is_available():
        os.environ.setdefault(_CUBLAS, ":4096:8")  # read when cuBLAS starts in this process
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    return before


def restore_determinism(before: tuple[Any, ...]) -> None:
    """Put back what `make_deterministic` has changed."""
    algorithms, warn_only, deterministic, benchmark, workspace = before
    torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    if workspace is None:
        os.environ.pop(_CUBLAS, None)


@contextlib.contextmanager
def determinism(on: bool) -> Iterator[None]:
    """Use deterministic algorithms only inside, where `on`."""
    before = make_deterministic() if on else None
    try:
        yield
    finally:
        if before is not None:
            restore_determinism(before)


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
    settings.check_value("_device", asked)
    if asked == "auto":
        if torch.cuda.is_available():
            asked = "cuda"
        else:
            asked = "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(asked)
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
    settings.check_value("_data_parallel", data_parallel)
    if data_parallel is None or isinstance(data_parallel, bool):
        return None
    indices = list(data_parallel)
    visible = torch.cuda.device_count()
    if len(set(indices)) < len(indices) or any(not 0 <= index < visible for index in indices):
        raise ConfigError(f"_data_parallel lists the devices {indices}; torch sees {visible} CUDA devices.")
    return indices


def data_parallel(module: nn.Module, devices: list[int] | None, device: torch.device) -> nn.Module:
    """Wrap `module` for several GPUs of this process; on another device than a GPU the wrapper just calls it.

    Parameters
    ----------
    module : nn.Module
    devices : list of int or None
        CUDA indices; None for all that are visible.
    device : torch.device
        Where the module and the batches are: the first of the GPUs.
    """
    if isinstance(module, nn.DataParallel):
        return module
    if device.type == "cuda" and devices is None:
        others = [index for index in range(torch.cuda.device_count()) if index != device.index]
        devices = [device.index, *others]
    wrapped = nn.DataParallel(module, device_ids=devices)
    if device.type != "cuda":
        wrapped.device_ids = []  # the user asked for the CPU on a machine with GPUs
    return wrapped
