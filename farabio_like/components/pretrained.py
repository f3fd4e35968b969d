"""Weights that others have trained: those of torchvision, fetched, and files of weights, read without running code.

Which network they fit is known where the network is.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError


def import_torchvision(who: str) -> Any:
    """Return torchvision, or say why it cannot be imported.

    Parameters
    ----------
    who : str
        Who needs it, for the message.

    Raises
    ------
    ConfigError
    """
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        # A torchvision that was built for another torch raises a RuntimeError about a missing operator.
        raise ConfigError(
            f"{who} needs torchvision, and it cannot be imported with torch {torch.__version__}: {error}. "
            "Each torchvision fits one torch; install the two together: pip install --upgrade torch torchvision"
        ) from error
    return torchvision


def pretrained_state(arch: str, who: str, instead: str) -> Mapping[str, Tensor]:
    """Return torchvision's newest weights of ImageNet, from its cache or from the internet.

    Parameters
    ----------
    arch : str
        As torchvision names it: ``"resnet34"``.
    who : str
        Who needs them, for a message.
    instead : str
        What to write to take a file, with ``{file}`` for its name.

    Raises
    ------
    CheckpointError
        If they cannot be fetched; it names the file and the argument that takes it.
    """
    weights = import_torchvision(who).models.get_model_weights(arch).DEFAULT
    try:
        return weights.get_state_dict(check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        file = weights.url.rpartition("/")[2]
        raise CheckpointError(
            f"The pretrained weights of {arch} could not be fetched: {error}. Fetch {weights.url} where there is "
            f"internet, and write {instead.format(file=file)}."
        ) from error


def read_state(path: str | PathLike[str]) -> Mapping[str, Tensor]:
    """Read a file of weights; nothing in it is run.

    Raises
    ------
    FileNotFoundError
    CheckpointError
        If it is damaged, or no file of weights.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        reason = str(error).partition("\n")[0]
        size = os.path.getsize(path)
        raise CheckpointError(f"{path} ({size:,} bytes) is no file of weights, or damaged: {reason}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}; expected a dict of tensors by name.")
    return state
