"""Which network weights belong to: told by the names and shapes of its layers. Files are read elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from .parts import MILLIONTHS, SCALES, SuperResolutionNet
from .rrdbnet import RRDBNet
from .srresnet import SRResNet


def network_of(state: Mapping[str, Any], where: str) -> SuperResolutionNet | None:
    """Return the network of this package whose weights these are, with them; None for those of another network.

    Parameters
    ----------
    state : mapping of str to Tensor
        A ``state_dict``.
    where : str
        Where it comes from, for the message.

    Raises
    ------
    CheckpointError
        If a part of them is missing, or of another shape.
    """
    first, settings = state.get("first.weight", state.get("first.0.weight")), state.get("settings")
    if not isinstance(first, Tensor) or first.ndim != 4 or "head.2.weight" not in state:
        return None
    dense = "first.weight" in state
    blocks = 1 + max((int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))), default=-1)
    steps = sum(bool(re.fullmatch(r"upsampling\.\d+\.weight", name)) for name in state)
    if blocks < 1 or steps < 1:
        return None
    arguments: dict[str, Any] = {"blocks": blocks, "channels": first.shape[1], "features": first.shape[0]}
    if not isinstance(settings, Tensor) or tuple(settings.shape) != (2,):
        raise CheckpointError(
            f"{where} has no entry settings, which says the scale. Load the weights into the network that they are of, "
            "by load_state_dict, and save its state_dict."
        )
    scale, residual = settings.tolist()
    arguments.update(scale=scale, residual_scale=residual / MILLIONTHS)
    if dense:
        growth = state.get("blocks.0.0.convolutions.0.weight")
        arguments["growth"] = growth.shape[0] if isinstance(growth, Tensor) else 0
    try:
        if scale not in SCALES or len(SCALES[scale]) != steps:
            raise ValueError(f"settings say a scale of {scale}, and there are {steps} steps of upsampling")
        with torch.device("meta"):
            network = (RRDBNet if dense else SRResNet)(**arguments)
        network = network.to_empty(device="cpu")
        network.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:  # a ConfigError is a ValueError
        reason = str(error).replace("\n\t", " ")
        raise CheckpointError(
            f"{where} holds no whole weights of a {'RRDBNet' if dense else 'SRResNet'}: {reason}"
        ) from error
    return network.requires_grad_(False).eval()
