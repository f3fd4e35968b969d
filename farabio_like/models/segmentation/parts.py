"""The four kinds of parts of a segmentation network, which users subclass, and how a network makes its own.

The parts that ship stand in `encoders`, `bridges`, `heads`, and each decoder beside its networks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from ...errors import ConfigError, closest

P = TypeVar("P", bound=nn.Module)


class Part(nn.Module):
    """A part that tells what it gives, so that the next one fits without sizes being computed.

    Parameters
    ----------
    out_channels : sequence of int
        Of every feature, the finest first.
    out_strides : sequence of int
        How many pixels of the image lie between two neighbours of a feature, in the same order.

    Raises
    ------
    ConfigError
        For lists of unequal length, or that hold something else than positive whole numbers.
    """

    def __init__(self, out_channels: Sequence[int], out_strides: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = list(out_channels)
        self.out_strides = list(out_strides)
        numbers = [*self.out_channels, *self.out_strides]
        if len(self.out_channels) != len(self.out_strides) or not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ConfigError(
                f"{type(self).__name__} has out_channels={out_channels!r} and out_strides={out_strides!r}; expected "
                "a channel and a stride for every feature, as in out_channels=[32, 64], out_strides=[1, 2]."
            )


class EncoderSpec(Part):
    """Makes features of an image. Subclass it to bring a backbone.

    Parameters
    ----------
    out_channels : sequence of int
        Of every feature, the finest first.
    out_strides : sequence of int
        In the same order; each a multiple of the one before, or equal to it.

    Raises
    ------
    ConfigError
        For other strides.
    """

    def __init__(self, out_channels: Sequence[int], out_strides: Sequence[int]) -> None:
        super().__init__(out_channels, out_strides)
        if any(coarse % fine for fine, coarse in zip(self.out_strides, self.out_strides[1:], strict=False)):
            raise ConfigError(
                f"{type(self).__name__} has out_strides={self.out_strides}; expected the finest feature first, and "
                "each stride a multiple of the one before, as in [2, 4, 8]."
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Make the features.

        Parameters
        ----------
        image : Tensor
            Shape (N, C, H, W), or (N, C, D, H, W) for a volume.

        Returns
        -------
        list of Tensor
            Of the channels and strides that the encoder tells, the finest first.
        """
        raise NotImplementedError


class BridgeSpec(Part):
    """Changes the list of features on its way from the encoder to the decoder."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Change the features.

        Parameters
        ----------
        features : list of Tensor
            From the encoder, the finest first.

        Returns
        -------
        list of Tensor
            Of the channels and strides that the bridge tells, the finest first.
        """
        raise NotImplementedError


class DecoderSpec(Part):
    """Brings features together. The first one that it gives is for the head; further ones can be supervised."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Bring the features together.

        Parameters
        ----------
        features : list of Tensor
            From the bridge, the finest first.

        Returns
        -------
        list of Tensor
            Of the channels and strides that the decoder tells.
        """
        raise NotImplementedError


class HeadSpec(Part):
    """Makes logits of the features of a decoder, at the stride 1.

    Parameters
    ----------
    num_classes : int
        The channels of the logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__([num_classes], [1])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Make the logits.

        Parameters
        ----------
        features : list of Tensor
            From the decoder.

        Returns
        -------
        Tensor
            Shape (N, num_classes, H, W), or with a depth; the network cuts off what is more than its image.
        """
        raise NotImplementedError


def make_part(part: type[P], fixed: Sequence[Any], params: Mapping[str, Any] | None, name: str, **defaults: Any) -> P:
    """Build a part of a network.

    Parameters
    ----------
    part : type
        Its keyword-only arguments are those that a user may give.
    fixed : sequence
        The arguments that follow from the rest of the network.
    params : mapping, optional
        From the user; they go before `defaults`.
    name : str
        Of `params`, for the message.
    **defaults

    Returns
    -------
    Module

    Raises
    ------
    ConfigError
        For an argument that the part does not have.
    """
    parameters = inspect.signature(part).parameters.values()
    allowed = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for key in params or ():
        if key not in allowed:
            hint = f"{closest(str(key), allowed)} There are: {', '.join(allowed)}."
            raise ConfigError(f"{name} has {key!r}, which {part.__name__} does not take.{hint}")
    return part(*fixed, **{**defaults, **(params or {})})
