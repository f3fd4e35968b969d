"""`RRDBNet`: residual-in-residual dense blocks, the generator of ESRGAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..blocks import at_least
from .parts import SuperResolutionNet, check_factor, check_images, head, initialize, steps_of

SLOPE = 0.2  # of the leaky ReLUs


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and the features of all before; added to the input.

    Parameters
    ----------
    features : int
        Channels of input and output.
    growth : int
        Channels that each of the first four convolutions adds.
    residual_scale : float
        What the result is multiplied by before it is added.
    """

    def __init__(self, features: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        widths = [growth] * 4 + [features]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(features + number * growth, width, 3, padding=1) for number, width in enumerate(widths)
        )
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)
        self.residual_scale = residual_scale

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        seen = [features]
        for convolution in self.convolutions[:-1]:
            seen.append(self.activation(convolution(torch.cat(seen, 1))))
        return features + self.residual_scale * self.convolutions[-1](torch.cat(seen, 1))


class RRDB(nn.Sequential):
    """Three dense blocks, added to their input.

    Parameters
    ----------
    features, growth, residual_scale
        As `DenseBlock` takes them.
    """

    def __init__(self, features: int, growth: int, residual_scale: float) -> None:
        super().__init__(*(DenseBlock(features, growth, residual_scale) for _ in range(3)))
        self.residual_scale = residual_scale

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features + self.residual_scale * super().forward(features)


class RRDBNet(SuperResolutionNet):
    """The network of ESRGAN (Wang et al. 2018, https://arxiv.org/abs/1809.00219): no norms, dense blocks in residuals.

    The output is not clamped. With 23 blocks and a scale of 4 it has 16.70 million parameters, with 16 blocks 11.66.

    Parameters
    ----------
    scale : {4, 2, 3, 8}
        How many times as large height and width become. Features grow by repeating pixels, before a convolution each:
        by 2 once, twice or three times, or by 3.
    blocks : int
        Residual-in-residual dense blocks.
    channels : int
        Of images, in and out.
    features : int
        Channels between the blocks.
    growth : int
        Channels that a convolution within a dense block adds.
    residual_scale : float
        Factor of every residual before it is added; of the paper 0.2.
    init_scale : float
        Factor of the initial weights within the blocks; of the paper 0.1.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.

    Examples
    --------
    >>> RRDBNet(scale=4, blocks=2)(torch.rand(1, 3, 24, 17)).shape
    torch.Size([1, 3, 96, 68])
    """

    def __init__(
        self,
        scale: int = 4,
        blocks: int = 23,
        channels: int = 3,
        features: int = 64,
        growth: int = 32,
        residual_scale: float = 0.2,
        init_scale: float = 0.1,
    ) -> None:
        super().__init__(scale, channels, residual_scale)
        at_least(1, blocks=blocks, features=features, growth=growth)
        self.first = nn.Conv2d(channels, features, 3, padding=1)
        self.blocks = nn.Sequential(*(RRDB(features, growth, self.residual_scale) for _ in range(blocks)))
        self.after_blocks = nn.Conv2d(features, features, 3, padding=1)
        layers: list[nn.Module] = []
        for factor in steps_of(scale):
            layers += [nn.Upsample(scale_factor=factor, mode="nearest"), nn.Conv2d(features, features, 3, padding=1)]
            layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        self.upsampling = nn.Sequential(*layers)
        self.head = head(features, channels, SLOPE)
        initialize(self.blocks.modules(), check_factor("init_scale", init_scale))

    def forward(self, images: Tensor) -> Tensor:
        """Return larger images.

        Parameters
        ----------
        images : Tensor
            N x channels x height x width, mostly from 0 to 1, of any size.

        Returns
        -------
        Tensor
            N x channels x scale * height x scale * width, not clamped.
        """
        check_images(images, self.channels, "RRDBNet")
        features = self.first(images)
        features = features + self.after_blocks(self.blocks(features))
        return self.head(self.upsampling(features))
