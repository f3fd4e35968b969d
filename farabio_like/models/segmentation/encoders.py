"""Encoders: an image becomes a list of features, the finest first.

A plain one, torchvision's ResNets, and any backbone that gives its features. Weights are fitted in `weights`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from os import PathLike

import torch
from torch import Tensor, nn

from ...components.pretrained import import_torchvision, pretrained_state, read_state
from ...errors import ConfigError
from ..blocks import MAXIMA, NORMS, ConvBlock, at_least, make_norm, one_of
from .parts import EncoderSpec
from .weights import load_resnet

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
PROBE = 128  # pixels of the side of the image that tells what a backbone gives
WHO = "A Resnet encoder"
INSTEAD = "encoder_params=dict(state_dict='path/to/{file}') instead of pretrained=True"


class PlainEncoder(EncoderSpec):
    """Blocks of 3x3 convolutions; after each the size is halved by the maximum and the channels doubled.

    Parameters
    ----------
    in_channels : int
        Of the image.
    num_channels : int
        Of the first feature, which has the image's size.
    num_blocks : int
    dims : int
        2 for images, 3 for volumes.
    complexity : int
        How many further convolution units after the first one of a block.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_channels: int = 32,
        num_blocks: int = 4,
        dims: int = 2,
        *,
        complexity: int = 1,
        norm: str = "batch",
    ) -> None:
        at_least(1, in_channels=in_channels, num_channels=num_channels, num_blocks=num_blocks)
        widths = [num_channels * 2**level for level in range(num_blocks)]
        super().__init__(widths, [2**level for level in range(num_blocks)])
        self.pool = MAXIMA[dims](2, ceil_mode=True)
        self.blocks = nn.ModuleList(
            ConvBlock(before, width, complexity, dims=dims, norm=norm)
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return a feature of every block, the first of the image's size."""
        features: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            image = block(image if index == 0 else self.pool(image))
            features.append(image)
        return features


class ResnetEncoder(EncoderSpec):
    """A ResNet of torchvision without its classifier (He et al. 2016, "Deep Residual Learning").

    The features have the strides 2, 4, 8, 16 and 32. The parameters bear torchvision's names.

    Parameters
    ----------
    arch : str
        ``"resnet18"``, ``"resnet34"``, ``"resnet50"``, ``"resnet101"`` or ``"resnet152"``.
    pretrained : bool
        Load torchvision's newest weights of ImageNet, from its cache or the internet.
    in_channels : int
        Of the image. Weights for three channels are changed for another number, as
        `farabio_like.models.segmentation.weights.adapt_filters` does it.
    state_dict : path or mapping, optional
        Weights to load: a file of torchvision's, or one's own. A classifier's (``fc``) are left out.
    depth : int
        How many features, 1 to 5; what is deeper is not built.
    norm : str
        ``"batch"``, ``"group"`` or ``"instance"``.

    Raises
    ------
    ConfigError
        For an argument that is not allowed, or where torchvision cannot be imported.
    CheckpointError
        For weights that cannot be fetched, read, or are those of another network.
    """

    def __init__(
        self,
        arch: str = "resnet34",
        pretrained: bool = False,
        in_channels: int = 3,
        *,
        state_dict: str | PathLike[str] | Mapping[str, Tensor] | None = None,
        depth: int = 5,
        norm: str = "batch",
    ) -> None:
        one_of("arch", arch, RESNETS)
        one_of("norm", norm, NORMS)
        at_least(1, in_channels=in_channels)
        one_of("depth", depth, (1, 2, 3, 4, 5))
        if pretrained and state_dict is not None:
            raise ConfigError("pretrained=True and a state_dict; expected one of the two. Leave pretrained out.")
        if pretrained and norm != "batch":
            raise ConfigError(
                f"pretrained=True with norm={norm!r}; torchvision's weights are of batch norm. For the encoder alone, "
                "write encoder_params=dict(norm='batch')."
            )
        resnet = import_torchvision(WHO).models.get_model(arch, norm_layer=partial(make_norm, norm))
        widths = [64] + [64 * 2**level * resnet.layer1[0].expansion for level in range(4)]
        super().__init__(widths[:depth], [2, 4, 8, 16, 32][:depth])
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        for name in ["maxpool", "layer1", "layer2", "layer3", "layer4"][: depth if depth > 1 else 0]:
            self.add_module(name, getattr(resnet, name))
        if pretrained:
            load_resnet(self, in_channels, pretrained_state(arch, WHO, INSTEAD))
        elif state_dict is not None:
            state = state_dict if isinstance(state_dict, Mapping) else read_state(state_dict)
            left_out = load_resnet(self, in_channels, state)
            if left_out:
                warnings.warn(
                    f"{arch} left out {', '.join(left_out)} of the given weights: an encoder has no such layer.",
                    stacklevel=2,
                )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of `depth` strides."""
        features: list[Tensor] = []
        for name, layer in self.named_children():
            image = layer(image)
            if name == "relu" or name.startswith("layer"):
                features.append(image)
        return features


class BackboneEncoder(EncoderSpec):
    """Any backbone that returns its features in a dict or a list, the finest first.

    torchvision's ``create_feature_extractor`` makes such a backbone of any model. What the features are is measured on
    an empty image.

    Parameters
    ----------
    backbone : Module
    in_channels : int
        Of the image.
    dims : int
        2 for images, 3 for volumes.

    Raises
    ------
    ConfigError
        For features that are no images, or whose strides fall.

    Examples
    --------
    >>> nodes = ["features.1", "features.3", "features.5", "features.7"]
    >>> encoder = BackboneEncoder(create_feature_extractor(convnext_tiny(), return_nodes=nodes))
    """

    def __init__(self, backbone: nn.Module, in_channels: int = 3, dims: int = 2) -> None:
        modes = [(module, module.training) for module in backbone.modules()]
        with torch.no_grad():
            shapes = [tuple(f.shape) for f in _listed(backbone.eval()(torch.zeros(1, in_channels, *[PROBE] * dims)))]
        backbone.train(modes[0][1])
        for module, mode in modes:
            module.training = mode
        strides = [max(1, PROBE // shape[-1]) for shape in shapes]
        grids = [(PROBE // stride,) * dims for stride in strides]
        if any(shape[2:] != grid for shape, grid in zip(shapes, grids, strict=True)):
            raise ConfigError(
                f"{type(backbone).__name__} gives features of the shapes {shapes} for an image of {PROBE} pixels a "
                "side; expected (1, channels, height, width), the size divided by a stride."
            )
        super().__init__([shape[1] for shape in shapes], strides)
        self.backbone = backbone

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of the backbone."""
        return _listed(self.backbone(image))


def _listed(features: Mapping[str, Tensor] | Iterable[Tensor]) -> list[Tensor]:
    return list(features.values() if isinstance(features, Mapping) else features)
