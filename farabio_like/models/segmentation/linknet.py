"""LinkNet (Chaurasia and Culurciello 2017, "LinkNet: Exploiting Encoder Representations").

The decoder, which adds the features of the encoder to its own, and the two networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...errors import ConfigError
from ..blocks import ConvUnit, Upsample, at_least, fit
from .bridges import make_bridge
from .encoders import PlainEncoder, ResnetEncoder
from .heads import ConvHead
from .network import SegmentationNet
from .parts import DecoderSpec, make_part


class LinknetStep(nn.Module):
    """Convolve a feature, upsample it, convolve, and add the next finer one.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the coarse feature, of the finer one.
    factor : int
        How much finer the finer feature is.
    dims, upsample, complexity, norm, reduction
        As `LinknetDecoder` takes them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: int,
        dims: int,
        upsample: str,
        complexity: int,
        norm: str,
        reduction: int,
    ) -> None:
        super().__init__()
        width = out_channels if reduction == 1 else max(1, in_channels // reduction)
        self.before = ConvUnit(in_channels, width, 3 if reduction == 1 else 1, dims, norm)
        self.upsample = Upsample(width, width, factor, upsample, dims)
        units = [ConvUnit(width, width, 3, dims, norm) for _ in range(complexity)]
        if reduction > 1:
            units.append(ConvUnit(width, out_channels, 1, dims, norm))
        self.after = nn.Sequential(*units)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return a feature of the size of the skip."""
        above = fit(self.upsample(self.before(coarse)), list(skip.shape[2:]))
        return self.after(above) + skip


class LinknetDecoder(DecoderSpec):
    """From the coarsest feature upwards: convolve, upsample, convolve, add the next finer feature.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the bridge gives: two features or more.
    dims : int
        2 for images, 3 for volumes.
    reduction : int
        1: 3x3 convolutions of all channels. More: the paper's way, where a 1x1 convolution divides the channels by
        this number before the upsampling, and another one brings them to those of the finer feature at the end.
    upsample : str
        ``"interpolation"`` or ``"convolution"``.
    complexity : int
        How many further 3x3 convolution units, after the upsampling.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        dims: int = 2,
        *,
        reduction: int = 1,
        upsample: str = "interpolation",
        complexity: int = 1,
        norm: str = "batch",
    ) -> None:
        at_least(1, reduction=reduction)
        at_least(0, complexity=complexity)
        if len(in_channels) < 2:
            raise ConfigError(f"LinknetDecoder of {len(in_channels)} feature; expected two features or more.")
        super().__init__(in_channels[:-1], in_strides[:-1])
        self.steps = nn.ModuleList(
            LinknetStep(
                in_channels[level + 1],
                in_channels[level],
                in_strides[level + 1] // in_strides[level],
                dims,
                upsample,
                complexity,
                norm,
                reduction,
            )
            for level in reversed(range(len(in_channels) - 1))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the feature after every step, the finest first."""
        coarse = features[-1]
        outputs: list[Tensor] = []
        for index, step in enumerate(self.steps):
            coarse = step(coarse, features[len(features) - 2 - index])
            outputs.insert(0, coarse)
        return outputs


class Linknet(SegmentationNet):
    """A LinkNet with a plain encoder; 7.07 million parameters with one class and three channels.

    Parameters
    ----------
    num_classes : int
        Channels of the logits.
    in_channels : int
        Channels of the image.
    num_channels : int
        Of the finest feature; every coarser one has twice as many.
    num_blocks : int
        Of the encoder; between two of them the size is halved, and once more below them.
    dims : int
        2 for images, 3 for volumes.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    deep_supervision : bool
        In training, return further logits, of every coarser feature of the decoder.
    encoder_params : mapping, optional
        Further arguments of `PlainEncoder`.
    bridge_params : mapping, optional
        Of `ConvBridge`.
    decoder_params : mapping, optional
        Of `LinknetDecoder`.
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
        bridge = make_bridge(encoder, dims, norm, bridge_params, by_default=True)
        decoder = make_part(
            LinknetDecoder,
            (bridge.out_channels, bridge.out_strides, dims),
            decoder_params,
            "decoder_params",
            norm=norm,
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes, dims)
        head = make_part(ConvHead, given, head_params, "head_params", upsample="convolution", complexity=1, norm=norm)
        super().__init__(encoder, bridge, decoder, head, dims, deep_supervision)


class ResnetLinknet(SegmentationNet):
    """A LinkNet with a ResNet of torchvision as its encoder.

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
        In training, return further logits, of every coarser feature of the decoder.
    encoder_params : mapping, optional
        Further arguments of `ResnetEncoder`, ``dict(state_dict="resnet34-b627a593.pth")`` say.
    bridge_params : mapping, optional
        Of `ConvBridge`; without them there is none.
    decoder_params : mapping, optional
        Of `LinknetDecoder`; the ``reduction`` is 4 by default, as in the paper.
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
        encoder = make_part(ResnetEncoder, (arch, pretrained, in_channels), encoder_params, "encoder_params", norm=norm)
        bridge = make_bridge(encoder, 2, norm, bridge_params, by_default=False)
        decoder = make_part(
            LinknetDecoder,
            (bridge.out_channels, bridge.out_strides),
            decoder_params,
            "decoder_params",
            reduction=4,
            norm=norm,
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes)
        head = make_part(ConvHead, given, head_params, "head_params", upsample="convolution", complexity=1, norm=norm)
        super().__init__(encoder, bridge, decoder, head, deep_supervision=deep_supervision)
