"""`ContentLoss`: how far an image is from the one that it should be, pixel by pixel."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, DataError, closest

Distance = Literal["l1", "mse", "charbonnier"]


class ContentLoss(nn.Module):
    """The mean distance of the pixels of two images.

    Parameters
    ----------
    distance : {"l1", "mse", "charbonnier"}
        The absolute difference, its square, or ``sqrt(difference**2 + epsilon**2)``, which is smooth where the absolute
        difference has its corner (Lai et al. 2017, "Deep Laplacian pyramid networks", section 3.3).
    epsilon : float
        Of ``"charbonnier"``.

    Raises
    ------
    ConfigError
        For an argument that is not allowed.

    Examples
    --------
    >>> ContentLoss("l1")(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5))
    tensor(0.5000)
    """

    def __init__(self, distance: Distance = "l1", epsilon: float = 1e-3) -> None:
        super().__init__()
        check_distance("ContentLoss", distance, get_args(Distance))
        if not isinstance(epsilon, (int, float)) or not 0 < epsilon < float("inf"):
            raise ConfigError(f"ContentLoss(epsilon={epsilon!r}): expected a number above 0.")
        self.distance = distance
        self.epsilon = epsilon

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all pixels, a scalar in float32 or float64.

        Raises
        ------
        DataError
            For images of different shapes.
        """
        check_same_shape("ContentLoss", outputs, target)
        outputs, target = at_least_single(outputs), at_least_single(target)
        if self.distance == "l1":
            return F.l1_loss(outputs, target)
        if self.distance == "mse":
            return F.mse_loss(outputs, target)
        return ((outputs - target).square() + self.epsilon**2).sqrt().mean()

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"distance={self.distance!r}, epsilon={self.epsilon!r}"


def check_distance(owner: str, distance: object, allowed: tuple[str, ...]) -> None:
    """Raise a ConfigError for a distance that there is not."""
    if distance not in allowed:
        hint = closest(str(distance), allowed)
        raise ConfigError(f"{owner}(distance={distance!r}): expected one of {', '.join(map(repr, allowed))}.{hint}")


def check_same_shape(owner: str, outputs: Tensor, target: Tensor) -> None:
    """Raise a DataError for images that would be compared by broadcasting."""
    if outputs.shape != target.shape:
        raise DataError(
            f"{owner} got outputs of the shape {tuple(outputs.shape)} and a target of {tuple(target.shape)}; expected "
            "the same. Is the scale of the network that of the data?"
        )


def at_least_single(values: Tensor) -> Tensor:
    """Return half precision as float32: small differences and their squares would be lost."""
    return values.float() if values.dtype.itemsize < 4 else values
