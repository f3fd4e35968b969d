"""`FromPlan`: a trainer gets from a checked configuration what its class leaves open, or sets otherwise."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import components, distributed
from ..config.files import save
from ..config.nested import put
from ..config.secrets import MASKED, Secrets
from ..errors import ConfigError
from ..rundir import layout
from ..state.launched import Launched
from ..trainer import ConvnetTrainer
from .components import Component, make
from .plan import LaunchPlan
from .snapshot import copy_modules


class FromPlan(Launched):
    """What a plan says, at the places where the trainer asks.

    Parameters
    ----------
    plan : LaunchPlan
    name : str, optional
        Of the run's folder.
    """

    keeps_code = True

    def __init__(self, plan: LaunchPlan, name: str | None = None) -> None:
        self.name = name
        self.plan = plan
        self._model: Any = None

    def settle(self, trainer: ConvnetTrainer) -> None:
        """Set settings, callbacks and loggers."""
        for name, value in self.plan.settings.items():
            setattr(trainer, name, value)
        # Several processes, which have not met yet, would draw several.
        if trainer._seed is None and distributed.world_size() == 1:
            trainer._seed = random.SystemRandom().randrange(1 << 31)  # written down, so that the run can be repeated
            self.plan.settings["_seed"] = trainer._seed
        if self.plan.loggers is not None:
            trainer._loggers = make(self.plan.loggers)
        if "callbacks" not in self.plan.arguments and self.plan.callbacks:
            trainer.callbacks = [*components.each(trainer.callbacks, list, tuple), *make(self.plan.callbacks)]

    def before_build(self, trainer: ConvnetTrainer) -> None:
        """Make the model, before `build_model`."""
        part = self.plan.parts.get("model")
        if part is not None:
            trainer.model = self._model = make(part)

    def after_build(self, trainer: ConvnetTrainer) -> None:
        """Make criterion, optimizer and scheduler, after `build_model`."""
        parts, places = self.plan.parts, self.plan.places
        if self._model is not None and not _is_same(trainer, self._model):
            raise ConfigError(
                f"{places.of('model')}: build_model of {type(trainer).__name__} sets self.model, and so does the "
                "configuration. Take model out of it, or out of build_model."
            )
        self._model = None
        if (criterion := parts.get("criterion")) is not None:
            trainer.criterion = make(criterion)
        if (optimizer := parts.get("optimizer")) is not None:
            trainer.optimizer = self._optimizers(trainer, optimizer)
        if (scheduler := parts.get("scheduler")) is not None:
            trainer.scheduler = self._schedulers(trainer, scheduler)

    def _optimizers(self, trainer: ConvnetTrainer, part: Any) -> Any:
        model = components.model_of(trainer)
        if isinstance(part, Component):
            return part.make([p for module in components.each(model) for p in _trained(module)])
        if not isinstance(model, Mapping) or not part.keys() <= model.keys():
            there = f"there are: {', '.join(model)}" if isinstance(model, Mapping) else "self.model is a single one"
            raise ConfigError(
                f"{self.plan.places.of('optimizer')}: optimizers for the models {', '.join(part)}; {there}."
            )
        return {name: each.make(_trained(model[name])) for name, each in part.items()}

    def _schedulers(self, trainer: ConvnetTrainer, part: Any) -> Any:
        optimizer, where = trainer.optimizer, self.plan.places.of("scheduler")
        if isinstance(part, Component):
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise ConfigError(f"{where}: a scheduler for one optimizer; self.optimizer is {_shown(optimizer)}.")
            return part.make(optimizer)
        if not isinstance(optimizer, Mapping) or not part.keys() <= optimizer.keys():
            raise ConfigError(
                f"{where}: schedulers for the optimizers {', '.join(part)}; self.optimizer is {_shown(optimizer)}."
            )
        return {name: each.make(optimizer[name]) for name, each in part.items()}

    def describe(self, folder: Path) -> None:
        """Write ``run.yaml``, without secrets, and copy the code of all parts."""
        plan = self.plan
        configuration = repeatable(plan)
        if "_seed" in plan.settings:
            configuration = {**configuration, "settings": {**(configuration.get("settings") or {})}}
            put(configuration, "settings", "seed", value=plan.settings["_seed"])
        try:
            save(configuration, folder / layout.LAUNCH)
            copy_modules(plan.sources, folder / layout.CODE)
        except OSError as error:
            raise ConfigError(f"the run folder {folder} cannot be written: {error.strerror or error}.") from error


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _is_same(trainer: ConvnetTrainer, model: Any) -> bool:
    def bare(module: Any) -> Any:
        return module.module if isinstance(module, nn.DataParallel) else module

    now, then = components.named(trainer.model, "model"), components.named(model, "model")
    return {name: id(bare(each)) for name, each in now} == {name: id(each) for name, each in then}


def _shown(optimizer: Any) -> str:
    return f"a dict of {', '.join(optimizer)}" if isinstance(optimizer, Mapping) else f"a {type(optimizer).__name__}"


def repeatable(plan: LaunchPlan) -> dict[str, Any]:
    """Return the configuration as a run folder keeps it: interpolated, but a secret as it was written there."""
    masked = Secrets(plan.configuration).values(plan.configuration)
    return _unmasked(masked, plan.written)


def _unmasked(value: Any, written: Any) -> Any:
    if isinstance(value, dict) and isinstance(written, dict):
        return {key: _unmasked(part, written.get(key)) for key, part in value.items()}
    if isinstance(value, list) and isinstance(written, list) and len(value) == len(written):
        return [_unmasked(part, each) for part, each in zip(value, written, strict=True)]
    is_named = isinstance(written, str) and "${" in written
    return written if value == MASKED and is_named else value
