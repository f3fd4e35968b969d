"""Weights of torchvision's ResNets: fetched, read, fitted to an encoder."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError

MOST_NAMED = 5  # keys in a message
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # what DataParallel and torch.compile put before a name


def import_torchvision() -> Any:
    """Return torchvision, or say why it cannot be imported.

    Raises
    ------
    ConfigError
    """
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        # A torchvision that was built for another torch raises a RuntimeError about a missing operator.
        raise ConfigError(
            f"A Resnet encoder needs torchvision, and it cannot be imported with torch {torch.__version__}: {error}. "
            "Each torchvision fits one torch; install the two together: pip install --upgrade torch torchvision"
        ) from error
    return torchvision


def pretrained_state(arch: str) -> Mapping[str, Tensor]:
    """Return torchvision's newest weights of ImageNet, from its cache or from the internet.

    Raises
    ------
    CheckpointError
        If they cannot be fetched; it names the file and the argument that takes it.
    """
    weights = import_torchvision().models.get_model_weights(arch).DEFAULT
    try:
        return weights.get_state_dict(check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        file = weights.url.rpartition("/")[2]
        raise CheckpointError(
            f"The pretrained weights of {arch} could not be fetched: {error}. Fetch {weights.url} where there is "
            f"internet, and write encoder_params=dict(state_dict='path/to/{file}') instead of pretrained=True."
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


def adapt_filters(filters: Tensor, in_channels: int) -> Tensor:
    """Return filters for another number of channels.

    For one channel they are summed, so that a grey image gives what it gave as three equal channels. For more they are
    repeated in turn and scaled by the ratio of the numbers, so that equal channels give that, too, where three divides
    the number.

    Parameters
    ----------
    filters : Tensor
        Shape (K, C, H, W).
    in_channels : int

    Returns
    -------
    Tensor
        Shape (K, in_channels, H, W).
    """
    before = filters.shape[1]
    if in_channels == 1:
        return filters.sum(1, keepdim=True)
    return filters[:, torch.arange(in_channels) % before] * (before / in_channels)


def load_resnet(encoder: nn.Module, in_channels: int, state: Mapping[str, Tensor]) -> list[str]:
    """Load weights of a ResNet, and return the names of those that an encoder has no layer for.

    Parameters
    ----------
    encoder : Module
        With torchvision's names.
    in_channels : int
        Of its images.
    state : mapping of str to Tensor
        With torchvision's names; ``module.`` or ``_orig_mod.`` of a wrapper before them is left out.

    Returns
    -------
    list of str
        Names as ``"fc.*"``: the classifier, and layers deeper than the encoder.

    Raises
    ------
    CheckpointError
        For weights that are missing, unknown, or of another shape.
    """
    own = encoder.state_dict()
    state = {_WRAPPERS.sub("", str(name)): value for name, value in state.items()}
    absent = [f"{name}." for name in ("layer1", "layer2", "layer3", "layer4", "fc") if not hasattr(encoder, name)]
    kept = {name: value for name, value in state.items() if not name.startswith(tuple(absent))}
    left_out = [f"{prefix}*" for prefix in absent if any(name.startswith(prefix) for name in state)]
    filters = kept.get("conv1.weight")
    if isinstance(filters, Tensor) and filters.ndim == 4 and filters.shape[1] == 3 != in_channels:
        kept["conv1.weight"] = adapt_filters(filters, in_channels)
    # Files from before torch 0.4.1 have no such counter.
    missing = [name for name in own if name not in kept and not name.endswith("num_batches_tracked")]
    unknown = [name for name in kept if name not in own]
    others = [
        f"{name} {tuple(getattr(value, 'shape', ()))} for {tuple(own[name].shape)}"
        for name, value in kept.items()
        if name in own and getattr(value, "shape", None) != own[name].shape
    ]
    if missing or unknown or others:
        found = [("missing", missing), ("unknown", unknown), ("of another shape", others)]
        raise CheckpointError(
            "The weights are not those of this encoder: "
            + "; ".join(f"{len(names)} {kind}: {', '.join(names[:MOST_NAMED])}" for kind, names in found if names)
            + ". Expected the state_dict of torchvision's ResNet of the same arch."
        )
    encoder.load_state_dict(kept, strict=False)
    return left_out
