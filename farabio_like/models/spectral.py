"""`spectral_norm`: the layers of a network, a discriminator say, with weights of bounded norm."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from ..errors import ConfigError

T = TypeVar("T", bound=nn.Module)

LAYERS = (
    *(nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def spectral_norm(network: T, iterations: int = 1) -> T:
    """Divide the weights of all linear layers and convolutions of a network by their largest singular value.

    Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018. The value is estimated by
    the power method, so many steps in every forward pass in train mode. Layers that have it already are left alone.

    Parameters
    ----------
    network : nn.Module
        Changed in place, before an optimizer is made of its parameters.
    iterations : int
        Steps of the power method in a forward pass.

    Returns
    -------
    nn.Module
        The network.

    Raises
    ------
    ConfigError
        For a network without such a layer.

    Examples
    --------
    ``self.model = {"generator": generator, "discriminator": spectral_norm(discriminator)}``
    """
    layers = [layer for layer in network.modules() if isinstance(layer, LAYERS)]
    if not layers:
        raise ConfigError(f"spectral_norm: {type(network).__name__} has no linear layer and no convolution.")
    for layer in layers:
        if not parametrize.is_parametrized(layer, "weight"):
            parametrizations.spectral_norm(layer, n_power_iterations=iterations)
    return network
