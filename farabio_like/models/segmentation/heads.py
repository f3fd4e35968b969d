"""Heads: features of a decoder become logits of the image's size. The head of the FPN stands in `fpn`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...errors import ConfigError
from ..blocks import CONVOLUTIONS, ConvBlock, ConvUnit, Upsample, at_least
from .parts import HeadSpec


def doublings(factor: int) -> int:
    """Return how often a size is doubled to be `factor` times as large.

    Raises
    ------
    ConfigError
        If the factor is no power of two.
    """
    if factor & (factor - 1):
        raise ConfigError(f"the size is doubled up to a factor of {factor}; expected a power of two. Use ConvHead.")
    return factor.bit_length() - 1


class ConvHead(HeadSpec):
    """Convolves the first feature at its own size, and goes to logits of the image's size in one leap.

    ``"interpolation"`` is a 1x1 convolution whose result is interpolated linearly; ``"convolution"`` a transposed one,
    whose kernel and stride are the feature's stride.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the decoder gives.
    num_classes : int
    dims : int
        2 for images, 3 for volumes.
    upsample : str
        ``"interpolation"`` or ``"convolution"``.
    complexity : int
        How many 3x3 convolution units before that; they have half the channels.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        num_classes: int = 1,
        dims: int = 2,
        *,
        upsample: str = "interpolation",
        complexity: int = 0,
        norm: str = "batch",
    ) -> None:
        at_least(1, num_classes=num_classes)
        at_least(0, complexity=complexity)
        super().__init__(num_classes)
        width = in_channels[0]
        layers: list[nn.Module] = []
        if complexity:
            width = max(1, width // 2)
            layers.append(ConvBlock(in_channels[0], width, complexity - 1, dims=dims, norm=norm))
        if upsample == "interpolation":
            layers.append(CONVOLUTIONS[dims](width, num_classes, 1))
        layers.append(Upsample(width, num_classes, in_strides[0], upsample, dims, smooth=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits of the image's size."""
        return self.layers(features[0])


class UpsampleHead(HeadSpec):
    """Steps that double the size with half the channels, up to the image's size, and a 1x1 convolution.

    A step is a 1x1 convolution unit, the upsampling, and 3x3 convolution units. At the stride 1 there is no step.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the decoder gives; the first stride is a power of two.
    num_classes : int
    dims : int
        2 for images, 3 for volumes.
    upsample : str
        ``"interpolation"`` or ``"convolution"``.
    complexity : int
        How many further convolution units after the first one of a step.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        num_classes: int = 1,
        dims: int = 2,
        *,
        upsample: str = "interpolation",
        complexity: int = 0,
        norm: str = "batch",
    ) -> None:
        at_least(1, num_classes=num_classes)
        super().__init__(num_classes)
        width = in_channels[0]
        steps: list[nn.Module] = []
        for _ in range(doublings(in_strides[0])):
            narrow = max(1, width // 2)
            steps += [
                ConvUnit(width, narrow, 1, dims, norm),
                Upsample(narrow, narrow, 2, upsample, dims),
                ConvBlock(narrow, narrow, complexity, dims=dims, norm=norm),
            ]
            width = narrow
        self.steps = nn.Sequential(*steps)
        self.classify = CONVOLUTIONS[dims](width, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits of the image's size."""
        return self.classify(self.steps(features[0]))
