"""`SRResNet`: residual blocks and shuffled pixels, small and quick."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import at_least
from .parts import SuperResolutionNet, check_factor, check_images, head, initialize, steps_of

SLOPE = 0.1  # of the leaky ReLUs


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input.

    Parameters
    ----------
    features : int
    residual_scale : float
        What the result is multiplied by before it is added.
    """

    def __init__(self, features: int, residual_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(features, features, 3, padding=1),
        )
        self.residual_scale = residual_scale

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features + self.residual_scale * self.body(features)


class SRResNet(SuperResolutionNet):
    """Residual blocks, pixels that are shuffled to where they belong, and the image itself, enlarged, added at the end.

    The network of Ledig et al. (2017, https://arxiv.org/abs/1609.04802), without norms, which cost quality and leave
    artefacts (Lim et al. 2017, https://arxiv.org/abs/1707.02921). As it adds to the bilinearly enlarged image, it is
    near that from its first step on. The output is not clamped. With the defaults it has 1.52 million parameters.

    Parameters
    ----------
    scale : {4, 2, 3, 8}
        How many times as large height and width become: by 2 once, twice or three times, or by 3.
    blocks : int
    channels : int
        Of images, in and out.
    features : int
        Channels between the blocks.
    residual_scale : float
        Factor of every residual before it is added; 0.1 steadies wide networks (Lim et al., section 3.3).
    init_scale : float
        Factor of the initial weights of the blocks and of the last layer.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.

    Examples
    --------
    >>> SRResNet(scale=3)(torch.rand(1, 3, 24, 17)).shape
    torch.Size([1, 3, 72, 51])
    """

    def __init__(
        self,
        scale: int = 4,
        blocks: int = 16,
        channels: int = 3,
        features: int = 64,
        residual_scale: float = 1.0,
        init_scale: float = 0.1,
    ) -> None:
        super().__init__(scale, channels, residual_scale)
        at_least(1, blocks=blocks, features=features)
        self.first = nn.Sequential(nn.Conv2d(channels, features, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True))
        self.blocks = nn.Sequential(*(ResidualBlock(features, self.residual_scale) for _ in range(blocks)))
        layers: list[nn.Module] = []
        for factor in steps_of(scale):
            layers += [nn.Conv2d(features, features * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
            layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        self.upsampling = nn.Sequential(*layers)
        self.head = head(features, channels, SLOPE)
        initialize([*self.blocks.modules(), self.head[-1]], check_factor("init_scale", init_scale))

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
        check_images(images, self.channels, "SRResNet")
        residual = self.head(self.upsampling(self.blocks(self.first(images))))
        return residual + F.interpolate(images, scale_factor=self.scale, mode="bilinear", align_corners=False)
