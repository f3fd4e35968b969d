"""The U-Net (Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation").

The decoder, the attention gates on its skips, and the two networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..blocks import CONVOLUTIONS, MEANS, ConvBlock, Upsample, fit
from .bridges import make_bridge
from .encoders import PlainEncoder, ResnetEncoder
from .heads import UpsampleHead
from .network import SegmentationNet
from .parts import DecoderSpec, make_part


class AttentionGate(nn.Module):
    """Weakens the places of a skip that a coarser feature finds unimportant.

    Oktay et al. 2018, "Attention U-Net", equations 1 and 2: a = sigmoid(psi(relu(W_x x + W_g g))), on the grid of the
    coarser feature g, then interpolated to that of the skip x; the gate gives a * x.

    Parameters
    ----------
    in_channels : int
        Of the skip.
    gate_channels : int
        Of the coarser feature.
    factor : int
        How much coarser it is.
    dims : int
        2 for images, 3 for volumes.
    """

    def __init__(self, in_channels: int, gate_channels: int, factor: int, dims: int = 2) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        inner = max(1, in_channels // 2)
        self.pool = MEANS[dims](factor, ceil_mode=True)
        self.of_skip = convolution(in_channels, inner, 1, bias=False)
        self.of_gate = convolution(gate_channels, inner, 1)
        self.psi = convolution(inner, 1, 1)
        self.upsample = Upsample(1, 1, factor, dims=dims, smooth=True)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Return the skip, every place weighed by a number between 0 and 1.

        Parameters
        ----------
        skip : Tensor
            Shape (N, in_channels, H, W), or with a depth.
        gate : Tensor
            Shape (N, gate_channels, H / factor, W / factor), or with a depth.
        """
        pooled = fit(self.of_skip(self.pool(skip)), list(gate.shape[2:]))
        attention = torch.sigmoid(self.psi(torch.relu(pooled + self.of_gate(gate))))
        return skip * fit(self.upsample(attention), list(skip.shape[2:]))


class UnetStep(nn.Module):
    """Upsample a feature, append the next finer one, convolve.

    Parameters
    ----------
    in_channels, skip_channels, out_channels : int
        Of the coarse feature, of the finer one, of the result.
    factor : int
        How much finer the finer feature is.
    dims, upsample, complexity, norm, attention
        As `UnetDecoder` takes them.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        factor: int,
        dims: int,
        upsample: str,
        complexity: int,
        norm: str,
        attention: bool,
    ) -> None:
        super().__init__()
        self.upsample = Upsample(in_channels, skip_channels, factor, upsample, dims)
        self.gate = AttentionGate(skip_channels, in_channels, factor, dims) if attention else None
        width = self.upsample.out_channels + skip_channels
        self.block = ConvBlock(width, out_channels, complexity, dims=dims, norm=norm)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return a feature of the size of the skip."""
        above = fit(self.upsample(coarse), list(skip.shape[2:]))
        if self.gate is not None:
            skip = self.gate(skip, coarse)
        return self.block(torch.cat([above, skip], dim=1))


class UnetDecoder(DecoderSpec):
    """From the coarsest feature upwards: upsample, append the next finer feature, convolve.

    Parameters
    ----------
    in_channels, in_strides : sequence of int
        What the bridge gives: two features or more.
    dims : int
        2 for images, 3 for volumes.
    channels : sequence of int, optional
        After each step, the finest first; default: those of the finer features.
    upsample : str
        ``"interpolation"`` or ``"convolution"``.
    complexity : int
        How many further convolution units after the first one of a step.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    attention : bool
        Put an `AttentionGate` on every finer feature.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        dims: int = 2,
        *,
        channels: Sequence[int] | None = None,
        upsample: str = "interpolation",
        complexity: int = 1,
        norm: str = "batch",
        attention: bool = False,
    ) -> None:
        widths = list(in_channels[:-1] if channels is None else channels)
        steps = len(in_channels) - 1
        if steps < 1 or len(widths) != steps:
            raise ConfigError(
                f"UnetDecoder of {steps + 1} features with channels={widths}; expected two features or more, and "
                f"{max(steps, 1)} channels, one for each but the coarsest."
            )
        super().__init__(widths, in_strides[:-1])
        self.steps = nn.ModuleList()
        width = in_channels[-1]
        for level in reversed(range(steps)):
            factor = in_strides[level + 1] // in_strides[level]
            self.steps.append(
                UnetStep(width, in_channels[level], widths[level], factor, dims, upsample, complexity, norm, attention)
            )
            width = widths[level]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the feature after every step, the finest first."""
        coarse = features[-1]
        outputs: list[Tensor] = []
        for index, step in enumerate(self.steps):
            coarse = step(coarse, features[len(features) - 2 - index])
            outputs.insert(0, coarse)
        return outputs


class Unet(SegmentationNet):
    """A U-Net with a plain encoder; 7.85 million parameters with one class and three channels.

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
    attention : bool
        Put attention gates on the skips (Oktay et al. 2018).
    deep_supervision : bool
        In training, return further logits, of every coarser feature of the decoder.
    encoder_params : mapping, optional
        Further arguments of `PlainEncoder`.
    bridge_params : mapping, optional
        Of `ConvBridge`.
    decoder_params : mapping, optional
        Of `UnetDecoder`.
    head_params : mapping, optional
        Of `UpsampleHead`.

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
        attention: bool = False,
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
            UnetDecoder,
            (bridge.out_channels, bridge.out_strides, dims),
            decoder_params,
            "decoder_params",
            norm=norm,
            attention=attention,
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes, dims)
        head = make_part(UpsampleHead, given, head_params, "head_params", norm=norm)
        super().__init__(encoder, bridge, decoder, head, dims, deep_supervision)


class ResnetUnet(SegmentationNet):
    """A U-Net with a ResNet of torchvision as its encoder.

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
    attention : bool
        Put attention gates on the skips (Oktay et al. 2018).
    deep_supervision : bool
        In training, return further logits, of every coarser feature of the decoder.
    encoder_params : mapping, optional
        Further arguments of `ResnetEncoder`, ``dict(state_dict="resnet34-b627a593.pth")`` say.
    bridge_params : mapping, optional
        Of `ConvBridge`; without them there is none.
    decoder_params : mapping, optional
        Of `UnetDecoder`; it has 256, 128, 64 and 32 channels by default.
    head_params : mapping, optional
        Of `UpsampleHead`.

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
        attention: bool = False,
        deep_supervision: bool = False,
        encoder_params: Mapping[str, Any] | None = None,
        bridge_params: Mapping[str, Any] | None = None,
        decoder_params: Mapping[str, Any] | None = None,
        head_params: Mapping[str, Any] | None = None,
    ) -> None:
        encoder = make_part(ResnetEncoder, (arch, pretrained, in_channels), encoder_params, "encoder_params", norm=norm)
        bridge = make_bridge(encoder, 2, norm, bridge_params, by_default=False)
        levels = len(bridge.out_channels) - 1
        decoder = make_part(
            UnetDecoder,
            (bridge.out_channels, bridge.out_strides),
            decoder_params,
            "decoder_params",
            channels=[32 * 2**level for level in range(levels)],
            norm=norm,
            attention=attention,
        )
        given = (decoder.out_channels, decoder.out_strides, num_classes)
        head = make_part(UpsampleHead, given, head_params, "head_params", norm=norm)
        super().__init__(encoder, bridge, decoder, head, deep_supervision=deep_supervision)
