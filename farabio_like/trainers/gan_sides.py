"""The two sides of a GAN: which networks and optimizers are whose, and what each leaves alone while it learns.

What they learn is in `gan`.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import components
from ..errors import ConfigError, HookError
from ..optim import steps
from ..optim.buffers import buffers_kept

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer
    from .gan import GanTrainer

# The words of a key that say what it is: discriminator_a, D_A, netD, critic.
_WORDS = ("d", "netd", "dis", "disc")
_BEGINNINGS = ("discriminator", "critic")


def is_discriminator(key: str) -> bool:
    """Return whether a key of models or optimizers is one of a discriminator; all others are generators'."""
    words = re.split(r"[^a-z]+", key.lower())
    return any(word in _WORDS or word.startswith(_BEGINNINGS) for word in words)


def keys_of(parts: Any, judges: bool) -> tuple[str, ...]:
    """Return the keys of the discriminators, or of the generators, in a dict; none of anything else."""
    return tuple(key for key in parts if is_discriminator(str(key)) == judges) if isinstance(parts, Mapping) else ()


def networks(trainer: ConvnetTrainer, judges: bool) -> list[nn.Module]:
    """Return the discriminators, or the generators."""
    model = components.model_of(trainer)
    return [model[key] for key in keys_of(model, judges)]


def _parameters(trainer: ConvnetTrainer, judges: bool) -> list[nn.Parameter]:
    """Return what a side trains: by its optimizers, which tell of shared weights whose they are; else its networks."""
    optimizers = trainer.optimizer
    if isinstance(optimizers, Mapping):
        return [p for key in keys_of(optimizers, judges) for p in components.parameters_of(optimizers[key])]
    return [p for network in networks(trainer, judges) for p in network.parameters()]


@contextlib.contextmanager
def discriminators_learn(trainer: ConvnetTrainer) -> Iterator[None]:
    """Train the discriminators alone: what a loss adds to the generators' gradients is dropped at the end.

    The generators' graph stays whole, for a generator's loss that goes on with what was generated here.
    """
    own = {id(parameter) for parameter in _parameters(trainer, judges=True)}
    others = [p for p in _parameters(trainer, judges=False) if id(p) not in own]
    gradients = [parameter.grad for parameter in others]
    for parameter in others:
        parameter.grad = None
    try:
        with _of_side(trainer, judges=True):
            yield
    finally:
        for parameter, gradient in zip(others, gradients, strict=True):
            parameter.grad = gradient


@contextlib.contextmanager
def generators_learn(trainer: ConvnetTrainer, statistics: bool) -> Iterator[None]:
    """Train the generators alone: of the discriminators no weight, gradient or buffer moves.

    Parameters
    ----------
    trainer : ConvnetTrainer
    statistics : bool
        Let the buffers move: running statistics of batch norm, vectors of spectral norm.
    """
    own = {id(parameter) for parameter in _parameters(trainer, judges=False)}
    others = [p for p in _parameters(trainer, judges=True) if id(p) not in own and p.requires_grad]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        with buffers_kept([] if statistics else networks(trainer, judges=True)), _of_side(trainer, judges=False):
            yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _of_side(trainer: ConvnetTrainer, judges: bool) -> contextlib.AbstractContextManager[None]:
    """Let the native methods of the trainer clear and step the optimizers of one side, where these are in a dict."""
    if not isinstance(trainer.optimizer, Mapping):
        return contextlib.nullcontext()
    return steps.restricted(trainer, keys_of(trainer.optimizer, judges))


def network(trainer: ConvnetTrainer, key: str, method: str) -> nn.Module:
    """Return the network of a key, for the method that uses it by default."""
    model = trainer.model
    if isinstance(model, Mapping) and key in model:
        return model[key]
    there = list(model) if isinstance(model, Mapping) else type(model).__name__
    raise HookError(
        f"{type(trainer).__name__}.{method} takes self.model[{key!r}], but self.model is {there}. Override {method}, "
        "discriminator_loss and generator_loss."
    )


def by_network(trainer: ConvnetTrainer, name: str, given: Any, all_of_them: bool = True) -> Mapping[str, Any]:
    """Return an argument for each network: its own, where a dict is given.

    Raises
    ------
    ConfigError
        For a dict with a key that no network has, or, where `all_of_them` need one, without one of theirs.
    """
    model = trainer.model
    if not isinstance(given, Mapping):
        return dict.fromkeys(model, given)
    unlike = set(given) ^ set(model) if all_of_them else set(given) - set(model)
    if unlike:
        raise ConfigError(
            f"{type(trainer).__name__}: {name} has the keys {list(given)}, and the networks are {list(model)}. "
            "Name each by its network."
        )
    return given


def can_generate(trainer: GanTrainer) -> bool:
    """Return whether `generate` has a network to use, or is the subclass's own."""
    own = not type(trainer).generate.__module__.startswith(f"{__package__}.")
    return own or (isinstance(trainer.model, Mapping) and "generator" in trainer.model)


def check(trainer: GanTrainer) -> None:
    """Check that each side has networks and optimizers by their keys.

    Raises
    ------
    ConfigError
        Where one side has none, or all have one.
    """
    name = type(trainer).__name__
    for what, parts in (("model", trainer.model), ("optimizer", trainer.optimizer)):
        if parts is not None and not isinstance(parts, Mapping):
            raise ConfigError(
                f"{name}: self.{what} is a {type(parts).__name__}; expected a dict. Write self.{what} = "
                "{'generator': ..., 'discriminator': ...}."
            )
        for judges, side in ((True, "discriminator"), (False, "generator")):
            if isinstance(parts, Mapping) and not keys_of(parts, judges):
                raise ConfigError(
                    f"{name}: self.{what} has no {side} among its keys {list(parts)}. Name them 'generator' and "
                    "'discriminator', or 'generator_a', 'discriminator_b'."
                )
    own = not type(trainer).discriminator_loss.__module__.startswith(f"{__package__}.")
    if not own and trainer.criterion is not None and not hasattr(trainer.criterion, "discriminator"):
        raise ConfigError(
            f"{name}: self.criterion is a {type(trainer.criterion).__name__}, which gives no loss for each side. Write "
            "self.criterion = AdversarialLoss('standard'), or override discriminator_loss and generator_loss."
        )
    parts = [part for network in networks(trainer, judges=True) for part in network.modules()]
    if trainer._gradient_penalty is not None and any(isinstance(part, _BatchNorm) for part in parts):
        warnings.warn(
            f"{name}: a penalty of the gradient of each sample, and batch norm in a discriminator, which mixes the "
            "samples of a batch. Use nn.GroupNorm, nn.InstanceNorm2d or spectral_norm there.",
            stacklevel=3,
        )
