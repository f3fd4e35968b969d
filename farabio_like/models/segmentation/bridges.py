"""Bridges: what happens to features between the encoder and the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..blocks import MAXIMA, ConvBlock, at_least
from .parts import BridgeSpec, EncoderSpec, make_part


class IdentityBridge(BridgeSpec):
    """Passes the features on.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the encoder gives.
    """

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the features as they are."""
        return features


class ConvBridge(BridgeSpec):
    """Adds a feature of half the size: the bottom of a U-Net (Ronneberger et al. 2015).

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the encoder gives.
    dims : int
        2 for images, 3 for volumes.
    out_channels : int, optional
        Of the further feature; default: twice those of the coarsest one.
    complexity : int
        How many further convolution units after the first.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        dims: int = 2,
        *,
        out_channels: int | None = None,
        complexity: int = 1,
        norm: str = "batch",
    ) -> None:
        width = in_channels[-1] * 2 if out_channels is None else out_channels
        at_least(1, out_channels=width)
        super().__init__([*in_channels, width], [*in_strides, in_strides[-1] * 2])
        self.pool = MAXIMA[dims](2, ceil_mode=True)
        self.block = ConvBlock(in_channels[-1], width, complexity, dims=dims, norm=norm)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the features and the further one."""
        return features + [self.block(self.pool(features[-1]))]


def make_bridge(
    encoder: EncoderSpec, dims: int, norm: str, params: Mapping[str, Any] | None, by_default: bool
) -> BridgeSpec:
    """Return a `ConvBridge` if the network has one by default or its arguments are given, else an `IdentityBridge`."""
    if params is None and not by_default:
        return IdentityBridge(encoder.out_channels, encoder.out_strides)
    return make_part(ConvBridge, (encoder.out_channels, encoder.out_strides, dims), params, "bridge_params", norm=norm)
