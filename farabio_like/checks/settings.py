"""The settings of a trainer: each one for itself, as `config.settings` says, and those that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import ReduceLROnPlateau

from .. import components, distributed
from ..config import settings
from ..errors import ConfigError, closest
from ..loggers import run as loggers
from .hooks import owner

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def check_settings(trainer: ConvnetTrainer) -> None:
    """Raise a ConfigError for a setting with a value that is not allowed, and for two that do not go together."""
    settings.check(trainer)
    for problem in _PAIRS:
        said = problem(trainer)
        if said is not None:
            raise ConfigError(f"{owner(trainer)}: {said}")


# Each returns what is wrong, or None. The values are allowed, each one for itself.


def _clipped_twice(trainer: ConvnetTrainer) -> str | None:
    if trainer._clip_norm is None or trainer._clip_value is None:
        return None
    return (
        f"_clip_norm is {trainer._clip_norm!r} and _clip_value is {trainer._clip_value!r}; gradients are clipped by "
        "one of them. Leave the other one None."
    )


def _compiled_copies(trainer: ConvnetTrainer) -> str | None:
    if trainer._compile is False or not trainer._data_parallel:
        return None
    return (
        "_compile and _data_parallel are both set, but DataParallel copies the model to the devices anew for every "
        "batch, which would be compiled anew too. Leave one of them out."
    )


def _processes_and_copies(trainer: ConvnetTrainer) -> str | None:
    if not trainer._data_parallel or distributed.world_size() == 1:
        return None
    return (
        f"_data_parallel is set, and torchrun has started {distributed.world_size()} processes, each with a device of "
        "its own. Leave one of the two out."
    )


_WITHOUT_SHARDS = {
    "_async_checkpoint": "all ranks write a checkpoint together, which takes them all",
    "_channels_last": "PyTorch divides parameters with contiguous memory only",
    "_compile": "what is compiled is the model without the messages that gather its parameters",
}


def _in_shards(trainer: ConvnetTrainer) -> str | None:
    if trainer._strategy != "fsdp":
        return None
    for name, reason in _WITHOUT_SHARDS.items():
        if getattr(trainer, name) is not False:
            return f"{name} and _strategy = 'fsdp' do not go together: {reason}. Leave one of the two out."
    return None


def _best_without_folder(trainer: ConvnetTrainer) -> str | None:
    if trainer._load_best and trainer._logdir is None:
        return "_load_best needs the run folder, and _logdir is None."
    return None


def _plateau_per_step(trainer: ConvnetTrainer) -> str | None:
    if trainer._scheduler_step == "step":
        for where, scheduler in components.named(trainer.scheduler, "self.scheduler"):
            if isinstance(scheduler, ReduceLROnPlateau):
                return f"{where} is a ReduceLROnPlateau, which moves per epoch only."
    return None


def _not_of_a_stage(trainer: ConvnetTrainer) -> str | None:
    for stage in trainer._stages or ():
        for name in stage.settings:
            if name not in settings.OF_A_STAGE:
                there = f"{closest(name, settings.OF_A_STAGE)} There are: {', '.join(settings.OF_A_STAGE)}."
                return f"Stage({stage.name!r}) sets {name!r}, which is no setting of a stage.{there}"
    return None


_PAIRS = (
    *(_clipped_twice, _compiled_copies, _processes_and_copies, _in_shards, _best_without_folder),
    *(_plateau_per_step, _not_of_a_stage, loggers.csv_without_folder),
)
