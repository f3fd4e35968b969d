"""Feature pyramid networks (Lin et al. 2017, "Feature Pyramid Networks for Object Detection").

The decoder, the head (Kirillov et al. 2019, "Panoptic Feature Pyramid Networks"), and the two networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...errors import ConfigError
from ..blocks import CONVOLUTIONS, ConvUnit, Upsample, at_least, fit
from .bridges import make_bridge
from .encoders import PlainEncoder, ResnetEncoder
from .heads import ConvHead, doublings
from .network import SegmentationNet
from .parts import DecoderSpec, HeadSpec, make_part


class FPNStep(nn.Module):
    """Upsample a level of the pyramid, and add the next finer feature.

    Parameters
    ----------
    in_channels : int
        Of the finer feature.
    pyramid_channels : int
    factor : int
        How much finer it is.
    dims : int
        2 for images, 3 for volumes.
    """

    def __init__(self, in_channels: int, pyramid_channels: int, factor: int, dims: int) -> None:
        super().__init__()
        self.lateral = CONVOLUTIONS[dims](in_channels, pyramid_channels, 1)
        self.upsample = Upsample(pyramid_channels, pyramid_channels, factor, dims=dims)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return a level of the size of the skip."""
        return self.lateral(skip) + fit(self.upsample(coarse), list(skip.shape[2:]))


class FPNDecoder(DecoderSpec):
    """A pyramid of features with equal channels: every feature plus the upsampled coarser one.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the bridge gives.
    dims : int
        2 for images, 3 for volumes.
    pyramid_channels : int
        Of every level.
    finest_stride : int
        Features of a smaller stride are left out.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        dims: int = 2,
        *,
        pyramid_channels: int = 256,
        finest_stride: int = 1,
    ) -> None:
        at_least(1, pyramid_channels=pyramid_channels)
        strides = [stride for stride in in_strides if stride >= finest_stride]
        if not strides:
            raise ConfigError(
                f"FPNDecoder with finest_stride={finest_stride}, and no feature of {list(in_strides)} is as coarse."
            )
        super().__init__([pyramid_channels] * len(strides), strides)
        channels = list(in_channels[-len(strides) :])
        self.top = CONVOLUTIONS[dims](channels[-1], pyramid_channels, 1)
        self.steps = nn.ModuleList(
            FPNStep(channels[level], pyramid_channels, strides[level + 1] // strides[level], dims)
            for level in reversed(range(len(strides) - 1))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the levels, the finest first."""
        coarse = self.top(features[-1])
        outputs = [coarse]
        for index, step in enumerate(self.steps):
            coarse = step(coarse, features[len(features) - 2 - index])
            outputs.insert(0, coarse)
        return outputs


class FPNHead(HeadSpec):
    """Convolves and upsamples every level up to the finest one, adds them, and classifies the sum.

    A level of twice the stride has one doubling more, and a 3x3 convolution unit before each (Kirillov et al. 2019,
    figure 3). The last doubling is linear, so it is done once, of the sum of all levels but the finest. The logits are
    interpolated from there to the image's size.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the decoder gives; each stride is a power of two times the first.
    num_classes : int
    dims : int
        2 for images, 3 for volumes.
    channels : int
        Of the convolutions.
    upsample : str
        ``"interpolation"`` or ``"convolution"``.
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
        channels: int = 256,
        upsample: str = "interpolation",
        norm: str = "batch",
    ) -> None:
        at_least(1, num_classes=num_classes, channels=channels)
        super().__init__(num_classes)
        if in_strides[0] in in_strides[1:]:
            raise ConfigError(
                f"FPNHead of levels of the strides {list(in_strides)}; expected one level of the smallest. Use "
                "ConvHead."
            )
        self.finest = ConvUnit(in_channels[0], channels, 3, dims, norm)
        self.coarser = nn.ModuleList(
            _branch(width, channels, doublings(stride // in_strides[0]), dims, upsample, norm)
            for width, stride in zip(in_channels[1:], in_strides[1:], strict=True)
        )
        self.upsample = Upsample(channels, channels, 2, upsample, dims, smooth=True)
        self.logits = ConvHead([channels], in_strides[:1], num_classes, dims)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits of the image's size."""
        merged = self.finest(features[0])
        size = list(merged.shape[2:])
        half = [(length + 1) // 2 for length in size]
        coarse: list[Tensor] = []
        for index, branch in enumerate(self.coarser):
            level = fit(branch(features[index + 1]), half)
            coarse = [level if index == 0 else coarse[0] + level]
        if len(coarse) > 0:
            merged = merged + fit(self.upsample(coarse[0]), size)
        return self.logits([merged])


def _branch(in_channels: int, channels: int, units: int, dims: int, upsample: str, norm: str) -> nn.Sequential:
    """Return so many convolution units with a doubling between each two."""
    layers: list[nn.Module] = [ConvUnit(in_channels, channels, 3, dims, norm)]
    for _ in range(units - 1):
        layers += [
            Upsample(channels, channels, 2, upsample, dims, smooth=True),
            ConvUnit(channels, channels, 3, dims, norm),
        ]
    return nn.Sequential(*layers)


class FPNUnet(SegmentationNet):
    """A feature pyramid network with a plain encoder; 11.46 million parameters with one class and three channels.

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
        Of `FPNDecoder`.
    head_params : mapping, optional
        Of `FPNHead`.

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
            FPNDecoder,
            (bridge.out_channels, bridge.out_strides, dims),
            decoder_params,
            "decoder_params",
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes, dims)
        head = make_part(FPNHead, given, head_params, "head_params", norm=norm)
        super().__init__(encoder, bridge, decoder, head, dims, deep_supervision)


class ResnetFPNUnet(SegmentationNet):
    """A feature pyramid network with a ResNet of torchvision as its encoder.

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
        Of `FPNDecoder`; the pyramid begins at the stride 4 by default.
    head_params : mapping, optional
        Of `FPNHead`; it has 128 channels by default.

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
            FPNDecoder,
            (bridge.out_channels, bridge.out_strides),
            decoder_params,
            "decoder_params",
            finest_stride=4,
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes)
        head = make_part(FPNHead, given, head_params, "head_params", channels=128, norm=norm)
        super().__init__(encoder, bridge, decoder, head, deep_supervision=deep_supervision)
