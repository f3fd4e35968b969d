"""`PerceptualLoss`: how far two images are apart in the eyes of a network that was trained to see."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..components.pretrained import import_torchvision, pretrained_state, read_state
from ..errors import CheckpointError, ConfigError, DataError, closest
from .content import at_least_single, check_distance, check_same_shape

Distance = Literal["l1", "l2"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's networks were trained with
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19")
NAME_OF_VGG = re.compile(r"(conv|relu|norm|pool)\d")


class PerceptualLoss(nn.Module):
    """The distance of the features of two images (Johnson et al. 2016, https://arxiv.org/abs/1603.08155).

    ``conv5_4`` of VGG-19 are features before their activation: those of ESRGAN (Wang et al. 2018, section 3.3);
    ``relu5_4`` are those of SRGAN. The network is frozen, always in eval mode, and a copy of a module that is given.

    Parameters
    ----------
    network : str or module
        ``"vgg19"``, ``"vgg16"``, ``"vgg13"`` or ``"vgg11"``, with torchvision's weights; or any module that takes
        images.
    layers : mapping of str to float
        The layers whose features are compared, each with its weight. Of a VGG: ``conv5_4``, the fourth convolution
        of the fifth block, ``relu5_4`` and ``pool5``; of another module the names of its submodules.
    distance : {"l1", "l2"}
        The mean absolute difference of features, or the mean of its square.
    weights : path or mapping, optional
        Of a VGG that is given by its name: torchvision's file of it, or the ``state_dict``, instead of fetching it.
    normalize : bool
        Subtract the mean of ImageNet from images of 0 to 1 and divide by its standard deviation.

    Raises
    ------
    ConfigError
        For an argument that is not allowed, and where torchvision is missing.
    CheckpointError
        For weights that cannot be fetched, or are others; it names the file and the argument that takes it.

    Examples
    --------
    ``PerceptualLoss("vgg19", {"conv5_4": 1.0}, weights="vgg19-dcbb9e9d.pth")``
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: str | nn.Module = "vgg19",
        layers: Mapping[str, float] | None = None,
        distance: Distance = "l1",
        weights: str | PathLike[str] | Mapping[str, Tensor] | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_distance("PerceptualLoss", distance, get_args(Distance))
        self.layers = _checked_weights({"conv5_4": 1.0} if layers is None else layers)
        self.distance = distance
        self.normalize = normalize
        self.network = _network(network, list(self.layers), weights)
        self.network.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(3, 1, 1), persistent=False)
        self._least = 2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in self.network.children())

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Leave the network in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum over the layers.

        Parameters
        ----------
        outputs, target : Tensor
            N x 3 x height x width, or N x 1 of grey images, from 0 to 1. Gradients reach `outputs` alone.

        Returns
        -------
        Tensor
            A scalar in float32 or float64.

        Raises
        ------
        DataError
            For images of different shapes, too small, or with another number of channels.
        """
        check_same_shape("PerceptualLoss", outputs, target)
        found = self.features(outputs)
        with torch.no_grad():
            expected = self.features(target)
        compare = F.l1_loss if self.distance == "l1" else F.mse_loss
        parts = [
            weight * compare(at_least_single(found[name]), at_least_single(expected[name]))
            for name, weight in self.layers.items()
        ]
        return torch.stack(parts).sum()

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of images, by the names of the layers."""
        if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < self._least:
            raise DataError(
                f"PerceptualLoss got images of the shape {tuple(images.shape)}; expected N x 3 x height x width, or "
                f"one channel, of {self._least} x {self._least} pixels or more."
            )
        images = images.expand(-1, 3, -1, -1)
        if self.normalize:
            images = (images - self.mean) / self.std
        with _kept(self.network, list(self.layers)) as found:
            self.network(images)
        return found

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"layers={self.layers}, distance={self.distance!r}"


@contextmanager
def _kept(network: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Give the outputs of layers by name, once the network has run within.

    They are copies: the ReLU behind a layer may work in place, and would leave its own result there.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        found[name] = output.clone()

    handles = [network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _network(network: str | nn.Module, names: list[str], weights: Any) -> nn.Module:
    """Return the network, of a VGG the part that is needed with readable names."""
    if isinstance(network, str):
        vgg = _vgg(network, weights)
    elif not isinstance(network, nn.Module):
        raise ConfigError(f"PerceptualLoss(network={network!r}): expected a module, or one of {', '.join(VGGS)}.")
    elif weights is not None:
        raise ConfigError("PerceptualLoss has a module and weights; load them into the module, and give that alone.")
    elif all(NAME_OF_VGG.match(name) for name in names) and isinstance(
        getattr(network, "features", None), nn.Sequential
    ):
        vgg = cast(nn.Sequential, copy.deepcopy(network.features))
    else:
        _check_names(names, dict(network.named_modules()))
        return copy.deepcopy(network)
    layers = _named_layers(vgg)
    _check_names(names, layers)
    last = max(map(list(layers).index, names))
    return nn.Sequential(OrderedDict(list(layers.items())[: last + 1]))


def _vgg(arch: str, weights: Any) -> nn.Sequential:
    if arch not in VGGS:
        hint = closest(arch, VGGS)
        raise ConfigError(f"PerceptualLoss(network={arch!r}): expected a module, or one of {', '.join(VGGS)}.{hint}")
    who = "PerceptualLoss"
    if weights is None:
        weights = pretrained_state(arch, who, "PerceptualLoss(weights='path/to/{file}')")
    source = "The weights" if isinstance(weights, Mapping) else str(weights)
    state = weights if isinstance(weights, Mapping) else read_state(weights)
    with torch.device("meta"):  # no time for weights that are replaced
        features = import_torchvision(who).models.get_model(arch).features
    # The classifier is not needed.
    own = {str(name).removeprefix("features."): value for name, value in state.items() if "classifier" not in str(name)}
    try:
        features.to_empty(device="cpu").load_state_dict(own)
    except RuntimeError as error:
        reason = str(error).replace("\n\t", " ")
        raise CheckpointError(f"{source} are not those of torchvision's {arch}: {reason}") from error
    return features


def _named_layers(features: nn.Sequential) -> OrderedDict[str, nn.Module]:
    """Return the layers of a VGG as ``conv1_1``, ``relu1_1``, ..., ``pool1``: block, and place in the block."""
    kinds = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.ReLU: "relu"}
    found: OrderedDict[str, nn.Module] = OrderedDict()
    block, place = 1, 0
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            found[f"pool{block}"] = layer
            block, place = block + 1, 0
            continue
        place += isinstance(layer, nn.Conv2d)
        found[f"{kinds.get(type(layer), type(layer).__name__)}{block}_{place}"] = layer
    return found


def _check_names(names: list[str], layers: Mapping[str, Any]) -> None:
    for name in names:
        if name not in layers:
            there = [layer for layer in layers if layer]
            shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
            raise ConfigError(
                f"PerceptualLoss: the network has no layer {name!r}.{closest(name, layers)} There are: {shown}."
            )


def _checked_weights(layers: Any) -> dict[str, float]:
    numbers = isinstance(layers, Mapping) and all(
        isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < float("inf")
        for weight in layers.values()
    )
    if not numbers or not any(layers.values()):
        raise ConfigError(
            f"PerceptualLoss(layers={layers!r}): expected the weights of layers by name, from 0 up. Write "
            'layers={"conv5_4": 1.0}.'
        )
    return {str(name): float(weight) for name, weight in layers.items()}
