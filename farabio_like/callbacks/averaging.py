"""`Average`: what every average of the weights over a run shares; how it moves is said by `EMA` and `SWA`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import components
from ..components import dtensor
from ..errors import CheckpointError, ConfigError
from .base import Callback, CallbackOrder
from .freezing import named_parameters

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class Average(Callback):
    """Base of averages of the floating point parameters, kept beside the model on the same device.

    Half-precision weights have an average in float32: in their own precision the small moves of an average
    would be rounded away.

    Parameters
    ----------
    models : sequence of str, optional
        Keys of ``self.model``, where it is a dict: those that are averaged. Default: all.
    """

    order = CallbackOrder.Internal

    def __init__(self, models: Sequence[str] | None = None) -> None:
        self.models = None if models is None else tuple(models)
        self._averages: dict[str, Tensor] = {}  # by plain name; empty before the first update
        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []  # averages and weights of one device and dtype
        self._weights: list[list[nn.Parameter]] = []  # the parameters of the groups; a weight is a rank's part of one
        self._mark: list[tuple[int, int]] = []  # identity and version of the weights that the average belongs to

    def model_state(self, trainer: ConvnetTrainer) -> dict[str, Any]:
        """Return the averaged model as a plain ``state_dict`` (a dict of them for several models).

        Parameters are the averages, buffers the model's own. Empty before the first update.
        """
        if not self._averages:
            return {}
        self._bind(trainer)
        average_of = {id(weight): self._averages[name] for name, weight in self._averageable(trainer).items()}
        model = components.model_of(trainer)
        return components.model_state(model, average_of)

    def load_model_state(self, trainer: ConvnetTrainer, state: Mapping[str, Any]) -> None:
        """Take back what `model_state` gave, after the model has its own weights again.

        Raises
        ------
        CheckpointError
            For the state of another model.
        """
        self._forget()
        if not state:
            return
        model = components.model_of(trainer)
        flat = dict(state)
        if isinstance(model, Mapping):
            flat = {f"{name}.{key}": value for name, part in state.items() for key, value in part.items()}
        for name, weight in self._averageable(trainer).items():
            average = flat.get(name)
            if not isinstance(average, Tensor) or average.shape != weight.shape:
                got = tuple(average.shape) if isinstance(average, Tensor) else "nothing"
                raise CheckpointError(
                    f"the averages of {type(self).__name__} do not fit the model: for {name} they hold {got}, "
                    f"the model has {tuple(weight.shape)}."
                )
            self._averages[name] = average.detach().to(weight.device, _precision(weight), copy=True)
        self._bind(trainer)
        self.sign(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by the names of the parameters: the tensors themselves, as a module does."""
        return {"averages": dict(self._averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, after ``on_train_start``."""
        self._averages = {name: average.clone() for name, average in state["averages"].items()}
        self._groups = []

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Begin a new average where the weights are not those that the old one belongs to."""
        if not self.belongs(trainer):
            self._forget()

    def _forget(self) -> None:
        self._averages, self._groups, self._mark = {}, [], []

    def _bind(self, trainer: ConvnetTrainer) -> None:
        """Pair averages and weights; a weight that has no average yet begins one."""
        weights = self._averageable(trainer)
        kept = self._averages
        self._averages = {}
        groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        parameters: dict[Any, list[nn.Parameter]] = {}
        for name, weight in weights.items():
            average = kept.get(name)
            if average is None or average.shape != weight.shape:
                average = weight.detach().to(_precision(weight), copy=True)
            average = dtensor.like(average.to(weight.device, _precision(weight)), weight)
            self._averages[name] = average
            averages, partners = groups.setdefault((weight.device, weight.dtype), ([], []))
            averages.append(dtensor.local(average))
            partners.append(dtensor.local(weight))
            parameters.setdefault((weight.device, weight.dtype), []).append(weight)
        self._groups, self._weights = list(groups.values()), list(parameters.values())

    def _move(self, share: float) -> None:
        """Move every average by `share` of its way to the weight: one multi-tensor call per device and dtype."""
        with torch.no_grad():
            for averages, weights in self._groups:
                dtype = averages[0].dtype
                if weights[0].dtype != dtype:
                    weights = [weight.to(dtype) for weight in weights]
                torch._foreach_lerp_(averages, weights, share)

    def _fill(self) -> None:
        """Copy the averages into the weights; every tensor stays where it is in memory."""
        with torch.no_grad():
            for averages, weights in self._groups:
                torch._foreach_copy_(weights, averages)

    def sign(self, trainer: ConvnetTrainer) -> None:
        """Note that the average belongs to the weights as they are now."""
        self._mark = [(id(weight), weight._version) for weight in self._averageable(trainer).values()]

    def belongs(self, trainer: ConvnetTrainer) -> bool:
        """Return whether nobody has loaded or trained other weights since the average was last updated."""
        return self._mark == [(id(weight), weight._version) for weight in self._averageable(trainer).values()]

    def _averageable(self, trainer: ConvnetTrainer) -> dict[str, nn.Parameter]:
        """Return the floating point parameters of the averaged models by name, shared ones once."""
        model = components.model_of(trainer)
        if self.models is not None:
            missing = [name for name in self.models if not isinstance(model, Mapping) or name not in model]
            if missing:
                there = list(model) if isinstance(model, Mapping) else "no dict"
                raise ConfigError(f"{type(self).__name__}: there is no model {missing[0]!r}; self.model is {there}.")
            model = {name: model[name] for name in self.models}
        found, seen = {}, set()
        for name, parameter in named_parameters(model):
            if id(parameter) not in seen and (parameter.is_floating_point() or parameter.is_complex()):
                found[name] = parameter
                seen.add(id(parameter))
        return found


def _precision(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
