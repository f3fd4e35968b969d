"""What networks are built of, for images and for volumes: convolution units, norms, upsampling, equal sizes.

Nothing here knows a task; a network stands in the package of its task.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, closest

NORMS = ("batch", "group", "instance")
UPSAMPLINGS = ("interpolation", "convolution")
CHANNELS_OF_A_GROUP = 16

T = TypeVar("T")


class ByDims(dict[int, T]):
    """Layers for images (2) and for volumes (3); another number is a ConfigError."""

    def __missing__(self, dims: object) -> T:
        raise ConfigError(f"dims={dims!r}; expected 2 for images or 3 for volumes.")


CONVOLUTIONS: ByDims[type[nn.Conv2d] | type[nn.Conv3d]] = ByDims({2: nn.Conv2d, 3: nn.Conv3d})
TRANSPOSED: ByDims[type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = ByDims(
    {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
)
BATCH_NORMS: ByDims[type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = ByDims({2: nn.BatchNorm2d, 3: nn.BatchNorm3d})
INSTANCE_NORMS: ByDims[type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = ByDims(
    {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
)
MAXIMA: ByDims[type[nn.MaxPool2d] | type[nn.MaxPool3d]] = ByDims({2: nn.MaxPool2d, 3: nn.MaxPool3d})
MEANS: ByDims[type[nn.AvgPool2d] | type[nn.AvgPool3d]] = ByDims({2: nn.AvgPool2d, 3: nn.AvgPool3d})
MEANS_OF_CELLS: ByDims[type[nn.AdaptiveAvgPool2d] | type[nn.AdaptiveAvgPool3d]] = ByDims(
    {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
)
LINEAR: ByDims[str] = ByDims({2: "bilinear", 3: "trilinear"})


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a ConfigError for an argument that is none of the values there are."""
    if value not in allowed:
        hint = closest(str(value), [str(choice) for choice in allowed])
        raise ConfigError(f"{name}={value!r}; expected one of {', '.join(map(repr, allowed))}.{hint}")


def at_least(least: int, **arguments: object) -> None:
    """Raise a ConfigError for an argument that is no whole number, or too small a one."""
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name}={value!r}; expected a whole number, {least} or more.")


def make_norm(norm: str, channels: int, dims: int = 2) -> nn.Module:
    """Return the layer that normalizes `channels` channels.

    Parameters
    ----------
    norm : str
        ``"batch"``; ``"group"``, which does not depend on the other images of a batch: groups of 16 channels (Wu and He
        2018, "Group Normalization", table 3), or one group where 16 does not divide the channels; ``"instance"``, with
        a learned scale and shift.
    channels : int
    dims : int
        2 for images, 3 for volumes.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ConfigError
        For another norm.
    """
    one_of("norm", norm, NORMS)
    if norm == "group":
        groups = channels // CHANNELS_OF_A_GROUP if channels % CHANNELS_OF_A_GROUP == 0 else 1
        return nn.GroupNorm(groups, channels)
    if norm == "instance":
        return INSTANCE_NORMS[dims](channels, affine=True)
    return BATCH_NORMS[dims](channels)


class ConvUnit(nn.Sequential):
    """Convolution, norm, ReLU; the size stays.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
        An odd number of pixels.
    dims : int
        2 for images, 3 for volumes.
    norm : str, optional
        As `make_norm` takes it; None for no norm, and then the convolution has a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, dims: int = 2, norm: str | None = "batch"
    ) -> None:
        convolution = CONVOLUTIONS[dims](
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm is None
        )
        layers: OrderedDict[str, nn.Module] = OrderedDict(convolution=convolution)
        if norm is not None:
            layers["norm"] = make_norm(norm, out_channels, dims)
        layers["activation"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class ConvBlock(nn.Sequential):
    """A `ConvUnit` that changes the number of channels, and `complexity` further ones that keep it.

    Parameters
    ----------
    in_channels, out_channels : int
    complexity : int
        How many further units, each with parameters of its own.
    kernel_size, dims, norm
        As `ConvUnit` takes them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        complexity: int = 1,
        kernel_size: int = 3,
        dims: int = 2,
        norm: str | None = "batch",
    ) -> None:
        at_least(0, complexity=complexity)
        widths = [in_channels] + [out_channels] * complexity
        super().__init__(*(ConvUnit(width, out_channels, kernel_size, dims, norm) for width in widths))


class Upsample(nn.Module):
    """Features, larger by a whole factor.

    ``"interpolation"`` keeps the channels and repeats every pixel (Odena et al. 2016, "Deconvolution and Checkerboard
    Artifacts", found this the best where a convolution follows); ``"convolution"`` is a transposed convolution whose
    kernel and stride are the factor (Ronneberger et al. 2015, the "up-convolution").

    Parameters
    ----------
    in_channels : int
    out_channels : int
        What a convolution gives; an interpolation cannot change it.
    factor : int
    how : str
        ``"interpolation"`` or ``"convolution"``.
    dims : int
        2 for images, 3 for volumes.
    smooth : bool
        Interpolate linearly. For where no convolution follows.

    Attributes
    ----------
    out_channels : int
        The channels of the result.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: int,
        how: str = "interpolation",
        dims: int = 2,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        one_of("upsample", how, UPSAMPLINGS)
        self.out_channels = out_channels if how == "convolution" else in_channels
        self.layer: nn.Module
        if how == "convolution":
            self.layer = TRANSPOSED[dims](in_channels, out_channels, factor, stride=factor)
        elif factor == 1:
            self.layer = nn.Identity()
        elif smooth:
            self.layer = nn.Upsample(scale_factor=factor, mode=LINEAR[dims], align_corners=False)
        else:
            self.layer = nn.Upsample(scale_factor=factor, mode="nearest")

    def forward(self, features: Tensor) -> Tensor:
        """Return features whose height and width (and depth) are `factor` times as large."""
        return self.layer(features)


def fit(features: Tensor, size: list[int]) -> Tensor:
    """Cut off at the far edges what is too much, repeat there the last pixels where some are missing.

    A stride that does not divide the size of an image leaves a little more or less than it after the way down and up.
    Cutting keeps every other pixel where it belongs; stretching would not.

    Parameters
    ----------
    features : Tensor
        Shape (N, C, H, W) or (N, C, D, H, W).
    size : list of int
        Height and width, or depth, height and width.

    Returns
    -------
    Tensor
        Shape (N, C, H, W) or (N, C, D, H, W), of the size.
    """
    missing: list[int] = []
    for dim, length in enumerate(size):
        extra = features.size(dim + 2) - length
        if extra > 0:
            features = features.narrow(dim + 2, 0, length)
        missing = [0, max(0, -extra)] + missing  # F.pad counts the dimensions from the last one
    if sum(missing) > 0:
        features = F.pad(features, missing, mode="replicate")
    return features
