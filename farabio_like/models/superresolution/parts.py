"""What the networks of super-resolution share: scales as steps, small initial weights, checks of the input.

No network lives here.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ...errors import ConfigError, DataError
from ..blocks import one_of

SCALES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # the factors by which features grow, one after another


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
