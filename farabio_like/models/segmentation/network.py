"""`SegmentationNet`: encoder, bridge, decoder and head, one after another. The parts are built elsewhere."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from ...errors import ConfigError, DataError
from ..blocks import fit
from .heads import ConvHead
from .parts import BridgeSpec, DecoderSpec, EncoderSpec, HeadSpec, Part

Net = TypeVar("Net", bound="SegmentationNet")


class SegmentationNet(nn.Module):
    """A network for segmentation of four parts; the output is as large as the image.

    Parameters
    ----------
    encoder : EncoderSpec
    bridge : BridgeSpec
    decoder : DecoderSpec
    head : HeadSpec
    dims : int
        2 for images, 3 for volumes.
    deep_supervision : bool
        In training, return further logits, one for every further feature of the decoder.

    Raises
    ------
    ConfigError
        If there is no further feature to supervise.

    Examples
    --------
    >>> encoder = PlainEncoder(in_channels=1)
    >>> bridge = IdentityBridge(encoder.out_channels, encoder.out_strides)
    >>> decoder = LinknetDecoder(bridge.out_channels, bridge.out_strides)
    >>> head = UpsampleHead(decoder.out_channels, decoder.out_strides, num_classes=3)
    >>> network = SegmentationNet(encoder, bridge, decoder, head)
    """

    def __init__(
        self,
        encoder: EncoderSpec,
        bridge: BridgeSpec,
        decoder: DecoderSpec,
        head: HeadSpec,
        dims: int = 2,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bridge = bridge
        self.decoder = decoder
        self.head = head
        self.dims = dims
        self.deep_supervision = deep_supervision
        self.encoder_is_frozen = False
        supervised = list(zip(decoder.out_channels, decoder.out_strides, strict=True))[1:] if deep_supervision else []
        if deep_supervision and not supervised:
            raise ConfigError(
                f"deep_supervision=True, and {type(decoder).__name__} gives one feature, that of the head; expected "
                "further ones. Leave deep_supervision out."
            )
        self.auxiliary_heads = nn.ModuleList(
            ConvHead([channels], [stride], head.out_channels[0], dims) for channels, stride in supervised
        )

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Return logits.

        Parameters
        ----------
        image : Tensor
            Shape (N, C, H, W), or (N, C, D, H, W) for a volume; any height and width.

        Returns
        -------
        Tensor or list of Tensor
            Shape (N, num_classes, H, W) or (N, num_classes, D, H, W). With `deep_supervision`, in training: a list of
            such tensors, that of the head first, then those of ever coarser features.

        Raises
        ------
        DataError
            For an image of another shape or type, and where a part gives other features than it tells.
        """
        size = list(image.shape[2:])
        if not torch.jit.is_scripting():
            self._check_image(image)
        features = self.encoder(image)
        if not torch.jit.is_scripting():
            _check_features(self.encoder, features, size)
        features = self.bridge(features)
        if not torch.jit.is_scripting():
            _check_features(self.bridge, features, size)
        features = self.decoder(features)
        if not torch.jit.is_scripting():
            _check_features(self.decoder, features, size)
        logits = self.head(features)
        if not torch.jit.is_scripting():
            _check_features(self.head, [logits], size, self.decoder.out_strides[0])
        logits = fit(logits, size)
        if self.training and self.deep_supervision:
            outputs = [logits]
            for index, head in enumerate(self.auxiliary_heads):
                outputs.append(fit(head([features[index + 1]]), size))
            return outputs
        return logits

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is: no gradients, and evaluation mode also while the rest trains.

        So its norm layers neither use the batch nor update their statistics; ``train()`` does not change that.
        """
        self.encoder_is_frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def unfreeze_encoder(self) -> None:
        """Train the encoder again, all of it."""
        self.encoder_is_frozen = False
        self.encoder.requires_grad_(True)
        self.encoder.train(self.training)

    def train(self: Net, mode: bool = True) -> Net:
        """Set training mode, or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_is_frozen:
            self.encoder.eval()
        return self

    def _check_image(self, image: Tensor) -> None:
        wanted = "(N, C, H, W)" if self.dims == 2 else "(N, C, D, H, W)"
        if image.ndim != self.dims + 2:
            add = " Write image[None] for one image without a batch." if image.ndim == self.dims + 1 else ""
            raise DataError(
                f"{type(self).__name__} got an image of shape {tuple(image.shape)}; expected {wanted}.{add}"
            )
        if not image.is_floating_point():
            raise DataError(
                f"{type(self).__name__} got an image of {image.dtype}; expected floating point: image.float() / 255."
            )


def _check_features(part: Part, features: list[Tensor], size: list[int], enlarged: int = 1) -> None:
    """Raise a DataError where features are not what the part tells: cut to a size, they would give wrong numbers.

    A stride that does not divide the size may round it up, as a padded convolution does, or down, as pooling does; what
    was enlarged afterwards is as much larger or smaller.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # or every size would become a condition of that code
        return
    if len(features) != len(part.out_channels):
        raise DataError(
            f"{type(part).__name__} gave {len(features)} features; expected {len(part.out_channels)}, one for each of "
            f"its out_channels={part.out_channels}."
        )
    for number, feature in enumerate(features):
        channels, stride = part.out_channels[number], part.out_strides[number]
        grain = stride * enlarged
        pairs = zip(feature.shape[2:], size, strict=True)
        fits = all(length - length % grain <= got * stride < length + grain for got, length in pairs)
        if feature.shape[1] != channels or not fits:
            raise DataError(
                f"{type(part).__name__} gave as number {number} a feature of shape {tuple(feature.shape)}, of an image "
                f"of {' x '.join(map(str, size))} pixels; expected {channels} channels and the stride {stride}, "
                f"as its out_channels={part.out_channels} and out_strides={part.out_strides} tell."
            )
