"""Loaders, models, optimizers and schedulers of a trainer, before the first step of a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import GeneratorType
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from .. import components, data
from ..components import inventory
from ..components.inventory import Inventory
from ..duck_typing import attribute, is_a, method
from ..errors import ConfigError, DataError, HookError
from .hooks import HOOKS, check_signatures, code_of, is_default, owner, reads
from .loss import no_optimizer
from .settings import check_settings
from .trained import check_optimizers

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def check_built(trainer: ConvnetTrainer) -> None:
    """Raise a HookError for a trainer whose constructor has left out the base's."""
    if "_run_state" not in vars(trainer):
        raise HookError(
            f"{owner(trainer)}.__init__ does not call that of ConvnetTrainer. Write super().__init__(config) in it."
        )


def check_model(trainer: ConvnetTrainer) -> None:
    """Raise a HookError where the building hook left something that is no module in ``self.model``."""
    for where, module in components.named(trainer.model, "self.model"):
        if not isinstance(module, nn.Module):
            raise HookError(
                f"{owner(trainer)}.build_model left a {type(module).__name__} in {where}; expected a torch.nn.Module "
                "or a dict of them. Write self.model = MyNetwork(), or self.model = {'encoder': ..., 'head': ...}."
            )


_STARTS = ("on_train_start", "start_logger", "on_stage_start", "on_train_epoch_start")


def before_training(trainer: ConvnetTrainer) -> None:
    """Check all that can be known before the first step of a run.

    Raises
    ------
    HookError, ConfigError, DataError
    """
    check_settings(trainer)
    if not vars(trainer).keys().isdisjoint(HOOKS):
        check_signatures(trainer)  # hooks that were set on the instance
    for stage in trainer._stages or ():
        ours = {f"_{name}": getattr(trainer, f"_{name}") for name in stage.settings}
        vars(trainer).update({f"_{name}": value for name, value in stage.settings.items()})
        try:
            check_settings(trainer)
        finally:
            vars(trainer).update(ours)
    _check_loaders(trainer)
    # on_train_start, start_logger and on_stage_start may still set what is missing.
    if is_default(trainer, "train_loop", "train_epoch", "train_batch", "training_step", *_STARTS):
        if not components.each(trainer.optimizer) and is_default(trainer, "optimizer_step"):
            raise HookError(no_optimizer(trainer))
        if is_default(trainer, "compute_loss"):
            _check_forward(trainer)
            _check_criterion(trainer)
    held = inventory.take(trainer)
    check_optimizers(trainer)
    _check_schedulers(trainer, held)
    _announce_batch_of_one(trainer, held)


def _check_forward(trainer: ConvnetTrainer) -> None:
    model = trainer.model
    if isinstance(model, nn.Module) or not is_default(trainer, "forward"):
        return
    if model:
        raise HookError(
            f"{owner(trainer)} has the models {list(model)} and does not say how they follow each "
            "other. Write def forward(self): return self.model['head'](self.model['encoder'](self.inputs))."
        )
    others = inventory.take(trainer).modules
    network = next((part.where for part in others if part.attribute != "criterion"), None)
    line = f"self.model = self.{network}, or override forward" if network else "self.model = MyNetwork()"
    raise HookError(f"{owner(trainer)}.build_model set no self.model, which the default forward calls. Write {line}.")


def _check_criterion(trainer: ConvnetTrainer) -> None:
    criteria = list(components.named(trainer.criterion, "self.criterion"))
    if not criteria:
        raise HookError(
            f"{owner(trainer)}.build_model set no self.criterion, which the default compute_loss calls. Write "
            "self.criterion = torch.nn.CrossEntropyLoss(), or override compute_loss."
        )
    for where, criterion in criteria:
        if isinstance(criterion, type) or not callable(criterion):
            line = f"{criterion.__name__}()" if isinstance(criterion, type) else "torch.nn.CrossEntropyLoss()"
            raise HookError(
                f"{owner(trainer)}.build_model left {criterion!r} in {where}; expected something to call with outputs "
                f"and targets, or a dict of such. Write {where} = {line}."
            )


# Iterators without an end are not among them, nor classes of the user's, whose __iter__ may start anew.
_READ_ONCE: tuple[type, ...] = (
    *(GeneratorType, enumerate, zip, map, filter, reversed, _BaseDataLoaderIter),
    *(type(iter([])), type(iter(())), type(reversed([]))),
)


def _check_loaders(trainer: ConvnetTrainer) -> None:
    loops = is_default(trainer, "train_loop", "train_epoch", *_STARTS)
    if trainer.train_loader is None and trainer.train_epoch_iter is None and loops:
        if is_default(trainer, "get_trainloader"):
            raise HookError(
                f"{owner(trainer)} does not override get_trainloader. Write def get_trainloader(self): "
                "self.train_loader = DataLoader(dataset, batch_size=32, shuffle=True)."
            )
        raise ConfigError(f"{owner(trainer)}.get_trainloader left self.train_loader None; set it to a DataLoader.")
    for name in ("train", "valid", "test") if trainer._has_eval else ("train", "test"):
        loader = getattr(trainer, f"{name}_loader")
        readable = hasattr(type(loader), "__iter__") or hasattr(type(loader), "__getitem__")
        if loader is not None and (isinstance(loader, (type, str, bytes)) or not readable):
            raise DataError(
                f"self.{name}_loader is {loader!r}; expected an iterable of batches. Write self.{name}_loader = "
                "DataLoader(dataset, batch_size=32)."
            )
        if name != "test":  # test() looks for itself
            check_one_loader(trainer, name)
        again = trainer._num_epochs > trainer._start_epoch and name != "test" and (loops or name == "valid")
        if again and isinstance(loader, _READ_ONCE):
            raise DataError(
                f"self.{name}_loader is a {type(loader).__name__}, which can be read only once, and there are "
                f"{trainer._num_epochs} epochs. Give a DataLoader, a list, or an object whose __iter__ starts anew."
            )
        if data.length_of(loader) == 0 and not (name == "train" and not loops):
            raise DataError(
                f"self.{name}_loader gives no batch. {data.describe_loader(loader)} Give it more samples, a smaller "
                "batch_size or drop_last=False."
            )
        if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
            warnings.warn(
                f"self.{name}_loader is a dataset ({type(loader).__name__}), whose samples are taken for batches. "
                f"Write self.{name}_loader = DataLoader(dataset, batch_size=32).",
                stacklevel=5,
            )


# Hooks that may choose among several loaders, or read them by themselves.
_CHOOSING: dict[str, tuple[str, ...]] = {
    "train": ("train_loop", "train_epoch", *_STARTS, "train_batch", "on_start_training_batch", "take_batch"),
    "valid": (
        *("train_loop", "train_epoch", *_STARTS, "on_train_epoch_end", "evaluate_epoch", "on_evaluate_epoch_start"),
        *("on_evaluate_batch_start", "evaluate_batch", "take_batch"),
    ),
    "test": ("on_test_start", "test_loop", "on_start_test_batch", "test_step", "take_batch"),
}


def check_one_loader(trainer: ConvnetTrainer, name: str) -> None:
    """Raise a DataError for several loaders where one is read: a dict gives its keys, a list the loaders."""
    loader = getattr(trainer, f"{name}_loader")
    of_loaders = isinstance(loader, (list, tuple)) and any(isinstance(part, DataLoader) for part in loader)
    if (isinstance(loader, Mapping) or of_loaders) and is_default(trainer, *_CHOOSING[name]):
        hook = {"train": "on_train_epoch_start", "valid": "on_evaluate_epoch_start", "test": "on_test_start"}[name]
        key = next(iter(loader), name) if isinstance(loader, Mapping) else 0
        items = "test_loop_iter" if name == "test" else f"{name}_epoch_iter"
        raise DataError(
            f"{owner(trainer)}: self.{name}_loader is {data.describe_batch(loader)}; expected one iterable of "
            f"batches. Write self.{name}_loader = loaders[{key!r}], or set self.{items} in {hook} to read several."
        )


def _check_schedulers(trainer: ConvnetTrainer, held: Inventory) -> None:
    own: set[int] = set()  # the optimizers of the trainer, and their groups: some wrap another
    for part in held.optimizers:
        own |= {id(part.value), *map(id, components.param_groups(part.value))}
    for where, scheduler in components.named(trainer.scheduler, "self.scheduler"):
        # One in a list is known to be stepped or not after the first epoch; what a function is for, nothing shows.
        read = any(reads(code, "scheduler") for code in code_of(type(trainer))) or bool(trainer.callbacks)
        stepless = callable(scheduler) and method(scheduler, "step") is None
        if stepless and not isinstance(scheduler, type) and not read:
            warnings.warn(
                f"{owner(trainer)}: {where} is a {type(scheduler).__name__}, which nothing steps; expected something "
                "with step(), or a dict of such.",
                stacklevel=5,
            )
        if isinstance(scheduler, type):
            raise HookError(
                f"{owner(trainer)}.build_model left the class {scheduler.__name__} in {where}; expected a scheduler. "
                f"Write {where} = {scheduler.__name__}(self.optimizer, ...)."
            )
        moved = attribute(scheduler, "optimizer")
        if is_a(moved, torch.optim.Optimizer) and own.isdisjoint({id(moved), *map(id, components.param_groups(moved))}):
            warnings.warn(
                f"{owner(trainer)}: {where} moves the learning rate of an optimizer that is no attribute of this "
                "trainer. Make the scheduler after the optimizer, from self.optimizer.",
                stacklevel=5,
            )


def _announce_batch_of_one(trainer: ConvnetTrainer, held: Inventory) -> None:
    loader = trainer.train_loader
    if not isinstance(loader, DataLoader) or loader.batch_size is None or loader.drop_last:
        return
    samples = data.length_of(loader.sampler)
    if samples is None or samples % loader.batch_size != 1 or loader.batch_size == 1:
        return
    if any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) for part in held.modules for layer in part.value.modules()
    ):
        warnings.warn(
            f"{owner(trainer)}: the last train batch has one sample ({samples} samples, "
            f"batch_size={loader.batch_size}), which BatchNorm cannot normalise over. "
            "Write drop_last=True or another batch_size.",
            stacklevel=5,
        )
