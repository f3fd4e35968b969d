"""What the networks of super-resolution share: scales as steps, small initial weights, checks of the input.

No network lives here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, DataError
from ..blocks import at_least, one_of

SCALES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # the factors by which features grow, one after another


MILLIONTHS = 1_000_000  # the unit of a residual scale among the weights: whole numbers are never rounded


class SuperResolutionNet(nn.Module):
    """Base of the networks that make an image larger.

    Scale and residual scale are stored with the weights, which would fit, and give a wrong image, where they are
    others: weights that disagree with the network are not loaded.

    Attributes
    ----------
    scale : int
    channels : int
        Of images, in and out.
    """

    settings: Tensor

    def __init__(self, scale: int, channels: int, residual_scale: float) -> None:
        super().__init__()
        steps_of(scale)
        at_least(1, channels=channels)
        self.scale = scale
        self.channels = channels
        self.residual_scale = check_factor("residual_scale", residual_scale)
        self.register_buffer("settings", torch.tensor(self._own_settings()))

    def _own_settings(self) -> list[int]:
        return [self.scale, round(self.residual_scale * MILLIONTHS)]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        own, stored = self._own_settings(), state_dict.get(f"{prefix}settings")
        if stored is None:  # weights of another program
            state_dict[f"{prefix}settings"] = self.settings
        elif stored.shape == self.settings.shape and not stored.is_meta and stored.tolist() != own:
            scale, residual = stored.tolist()
            args[-1].append(
                f"the weights are those of scale={scale}, residual_scale={residual / MILLIONTHS}; this network has "
                f"scale={own[0]}, residual_scale={own[1] / MILLIONTHS}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def head(features: int, channels: int, slope: float) -> nn.Sequential:
    """Return the two convolutions that make an image of the enlarged features."""
    return nn.Sequential(
        nn.Conv2d(features, features, 3, padding=1),
        nn.LeakyReLU(slope, inplace=True),
        nn.Conv2d(features, channels, 3, padding=1),
    )


def steps_of(scale: int) -> tuple[int, ...]:
    """Return the factors whose product is the scale; another scale is a ConfigError."""
    one_of("scale", scale, list(SCALES))
    return SCALES[scale]


def check_factor(name: str, value: object) -> float:
    """Return a number above 0; anything else is a ConfigError."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConfigError(f"{name}={value!r}; expected a number above 0.")
    return float(value)


def check_images(images: Tensor, channels: int, network: str) -> None:
    """Raise a DataError for anything but images of N x channels x height x width."""
    if images.ndim != 4 or images.shape[1] != channels:
        raise DataError(
            f"{network} got images of the shape {tuple(images.shape)}; expected N x {channels} x height x width. "
            f"For other channels write {network}(channels=...)."
        )


def initialize(convolutions: Iterable[nn.Module], scale: float) -> None:
    """Give convolutions the weights of He et al., times a factor, and no bias.

    A deep network without norms begins as nearly the identity if its residuals are small (Wang et al. 2018, "ESRGAN",
    section 3.1, with a factor of 0.1; He et al. 2015, "Delving deep into rectifiers", for the weights).
    """
    for module in convolutions:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= scale
            if module.bias is not None:
                nn.init.zeros_(module.bias)
