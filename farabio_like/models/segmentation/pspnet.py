"""PSPNet (Zhao et al. 2017, "Pyramid Scene Parsing Network").

The decoder, which sees a feature at four scales, and the two networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import LINEAR, MEANS_OF_CELLS, ConvBlock, ConvUnit, at_least
from .bridges import make_bridge
from .encoders import PlainEncoder, ResnetEncoder
from .heads import ConvHead
from .network import SegmentationNet
from .parts import DecoderSpec, make_part


class PyramidBranch(nn.Module):
    """Means over the cells of a grid, convolved, and interpolated to the size of the feature.

    Parameters
    ----------
    in_channels, out_channels : int
    cells : int
        Along a side of the grid.
    dims, norm
        As `PSPDecoder` takes them.
    """

    def __init__(self, in_channels: int, out_channels: int, cells: int, dims: int, norm: str) -> None:
        super().__init__()
        self.pool = MEANS_OF_CELLS[dims](cells)
        # A single cell of a single image has no deviation to be divided by.
        self.unit = ConvUnit(in_channels, out_channels, 3, dims, norm if cells > 1 else None)
        self.mode = LINEAR[dims]

    def forward(self, feature: Tensor) -> Tensor:
        """Return a feature of the same size."""
        seen = self.unit(self.pool(feature))
        return F.interpolate(seen, size=list(feature.shape[2:]), mode=self.mode, align_corners=False)


class PSPDecoder(DecoderSpec):
    """Appends to the coarsest feature what it is in the mean over grids of 1, 2, 3 and 6 cells a side, and convolves.

    A second feature is for supervision: that of the encoder before the last one, where there is one.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the bridge gives.
    dims : int
        2 for images, 3 for volumes.
    channels : int
        Of the result.
    cells : sequence of int
        Along a side of each grid. Each gives as many channels as the feature has, divided by the number of grids.
    complexity : int
        How many further 1x1 convolution units after the first one.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        dims: int = 2,
        *,
        channels: int = 512,
        cells: Sequence[int] = (1, 2, 3, 6),
        complexity: int = 0,
        norm: str = "batch",
    ) -> None:
        at_least(1, channels=channels, **{f"cells[{i}]": number for i, number in enumerate(cells)})
        width = in_channels[-1]
        narrow = max(1, width // max(1, len(cells)))
        super().__init__([channels, *in_channels[-2:-1]], [in_strides[-1], *in_strides[-2:-1]])
        self.branches = nn.ModuleList(PyramidBranch(width, narrow, number, dims, norm) for number in cells)
        self.block = ConvBlock(width + narrow * len(cells), channels, complexity, 1, dims, norm)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the feature for the head, and the one before the last."""
        scales = [features[-1]]
        for branch in self.branches:
            scales.append(branch(features[-1]))
        return [self.block(torch.cat(scales, dim=1))] + features[-2:-1]


class PSPnet(SegmentationNet):
    """A pyramid scene parsing network with a plain encoder; 2.03 million parameters with one class and three channels.

    Parameters
    ----------
    num_classes : int
        Channels of the logits.
    in_channels : int
        Channels of the image.
    num_channels : int
        Of the finest feature; every coarser one has twice as many.
    num_blocks : int
        Of the encoder; between two of them the size is halved.
    dims : int
        2 for images, 3 for volumes.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    deep_supervision : bool
        In training, return further logits, of the feature of the encoder before the last one, as in the paper.
    encoder_params : mapping, optional
        Further arguments of `PlainEncoder`.
    bridge_params : mapping, optional
        Of `ConvBridge`; without them there is none.
    decoder_params : mapping, optional
        Of `PSPDecoder`.
    head_params : mapping, optional
        Of `ConvHead`.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    """

    def __init__(
        self,
        num_classes: int = 1,
        in_channels: int = 3,
        num_channels: int = 32,
        num_blocks: int = 4,
        *,
        dims: int = 2,
        norm: str = "batch",
        deep_supervision: bool = False,
        encoder_params: Mapping[str, Any] | None = None,
        bridge_params: Mapping[str, Any] | None = None,
        decoder_params: Mapping[str, Any] | None = None,
        head_params: Mapping[str, Any] | None = None,
    ) -> None:
        shape = (in_channels, num_channels, num_blocks, dims)
        encoder = make_part(PlainEncoder, shape, encoder_params, "encoder_params", norm=norm)
        bridge = make_bridge(encoder, dims, norm, bridge_params, by_default=False)
        decoder = make_part(
            PSPDecoder,
            (bridge.out_channels, bridge.out_strides, dims),
            decoder_params,
            "decoder_params",
            norm=norm,
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes, dims)
        head = make_part(ConvHead, given, head_params, "head_params", norm=norm)
        super().__init__(encoder, bridge, decoder, head, dims, deep_supervision)


class ResnetPSPnet(SegmentationNet):
    """A pyramid scene parsing network with a ResNet of torchvision as its encoder, up to the stride 8 by default.

    Parameters
    ----------
    num_classes : int
        Channels of the logits.
    in_channels : int
        Channels of the image.
    arch : str
        ``"resnet18"``, ``"resnet34"``, ``"resnet50"``, ``"resnet101"`` or ``"resnet152"``.
    pretrained : bool
        Start with torchvision's weights of ImageNet.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    deep_supervision : bool
        In training, return further logits, of the feature of the encoder before the last one, as in the paper.
    encoder_params : mapping, optional
        Further arguments of `ResnetEncoder`, ``dict(state_dict="resnet34-b627a593.pth")`` say.
    bridge_params : mapping, optional
        Of `ConvBridge`; without them there is none.
    decoder_params : mapping, optional
        Of `PSPDecoder`.
    head_params : mapping, optional
        Of `ConvHead`.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.
    CheckpointError
        For weights that cannot be fetched, read, or are those of another network.
    """

    def __init__(
        self,
        num_classes: int = 1,
        in_channels: int = 3,
        arch: str = "resnet34",
        pretrained: bool = False,
        *,
        norm: str = "batch",
        deep_supervision: bool = False,
        encoder_params: Mapping[str, Any] | None = None,
        bridge_params: Mapping[str, Any] | None = None,
        decoder_params: Mapping[str, Any] | None = None,
        head_params: Mapping[str, Any] | None = None,
    ) -> None:
        encoder = make_part(
            ResnetEncoder, (arch, pretrained, in_channels), encoder_params, "encoder_params", depth=3, norm=norm
        )
        bridge = make_bridge(encoder, 2, norm, bridge_params, by_default=False)
        decoder = make_part(
            PSPDecoder,
            (bridge.out_channels, bridge.out_strides),
            decoder_params,
            "decoder_params",
            norm=norm,
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes)
        head = make_part(ConvHead, given, head_params, "head_params", norm=norm)
        super().__init__(encoder, bridge, decoder, head, deep_supervision=deep_supervision)
