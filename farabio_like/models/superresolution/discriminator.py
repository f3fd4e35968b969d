"""`VGGDiscriminator`: says how real an image of any size looks."""

from __future__ import annotations

from torch import Tensor, nn

from ..blocks import at_least, make_norm
from .parts import check_images

SLOPE = 0.2  # of the leaky ReLUs
CELLS = 7  # features are averaged to so many cells along each side, whatever the size of the image


class VGGDiscriminator(nn.Module):
    """Eight convolutions, every second of which halves the size, and two linear layers (Ledig et al. 2017, figure 4).

    Before the linear layers the features are averaged over 7 x 7 cells, as in torchvision's VGG, so that images may
    have any size. With the defaults it has 30.4 million parameters.

    Parameters
    ----------
    channels : int
        Of images.
    features : int
        Channels of the first convolution; they double with every halving, up to eight times as many.
    hidden : int
        Units of the linear layer before the last.
    norm : str, optional
        After every convolution but the first: ``"batch"``, ``"group"``, ``"instance"``, or None.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.

    Examples
    --------
    >>> VGGDiscriminator()(torch.rand(2, 3, 128, 96)).shape
    torch.Size([2, 1])
    """

    def __init__(self, channels: int = 3, features: int = 64, hidden: int = 1024, norm: str | None = "batch") -> None:
        super().__init__()
        at_least(1, channels=channels, features=features, hidden=hidden)
        self.channels = channels
        layers: list[nn.Module] = []
        before = channels
        for factor in (1, 2, 4, 8):
            for stride in (1, 2):
                layers.append(nn.Conv2d(before, factor * features, 3, stride, padding=1))
                before = factor * features
                if norm is not None and len(layers) > 1:
                    layers.append(make_norm(norm, before))
                layers.append(nn.LeakyReLU(SLOPE, inplace=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(CELLS),
            nn.Flatten(),
            nn.Linear(before * CELLS**2, hidden),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(hidden, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return a logit for each image, N x 1: the higher, the more real."""
        check_images(images, self.channels, "VGGDiscriminator")
        return self.classifier(self.features(images))
