"""Weights of torchvision's ResNets, fitted to an encoder; `components.pretrained` fetches and reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...errors import CheckpointError

MOST_NAMED = 5  # keys in a message
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # what DataParallel and torch.compile put before a name


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
