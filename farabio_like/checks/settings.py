"""The values of the settings: which are allowed, and which go together."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import components, compute, distributed
from ..config import stages
from ..distributed import fsdp
from ..errors import ConfigError
from ..loggers import run as loggers
from .hooks import owner

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


_FLAGS = ("_has_eval", "_verbose", "_evaluate_first", "_load_best", "_async_checkpoint", "_sync_batchnorm")
# Numbers and None mean yes or no in many a script; a string is always true, "False" too.
_YES_OR_NO = (bool, int, type(None), np.bool_)


def check_settings(trainer: ConvnetTrainer) -> None:
    """Raise a ConfigError for a setting with a value that is not allowed."""
    for name, least in (("_num_epochs", 0), ("_start_epoch", 0), ("_eval_interval", 1), ("_save_epoch", 1)):
        value = getattr(trainer, name)
        if isinstance(value, (bool, str, float)) or not hasattr(value, "__index__") or operator.index(value) < least:
            kind = f"{type(value).__name__} " if not isinstance(value, int) or isinstance(value, bool) else ""
            raise ConfigError(
                f"{owner(trainer)}: {name} is {kind}{value!r}; expected a whole number, {least} or more. "
                f"Write self.{name} = {max(least, 10 if name == '_num_epochs' else 1)}."
            )
    for name, allowed in (
        ("_use_tqdm", (None, True, False)),
        ("_monitor_mode", (None, "min", "max")),
        ("_on_nonfinite", ("raise", "warn", "skip")),
        ("_scheduler_step", ("epoch", "step")),
        ("_strategy", (None, "ddp", "fsdp")),
    ):
        value = getattr(trainer, name)
        if not any(value is choice or value == choice for choice in allowed):
            raise ConfigError(f"{owner(trainer)}: {name} is {value!r}; expected one of {allowed}.")
    for name in _FLAGS:
        value = getattr(trainer, name)
        if not isinstance(value, _YES_OR_NO):
            raise ConfigError(f"{owner(trainer)}: {name} is {value!r}; expected True or False.")
    steps, minutes = trainer._save_steps, trainer._save_minutes
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1):
        raise ConfigError(f"{owner(trainer)}: _save_steps is {steps!r}; expected None or a whole number, 1 or more.")
    a_number = isinstance(minutes, Real) and not isinstance(minutes, bool)
    if minutes is not None and not (a_number and 0 < float(minutes) < math.inf):
        raise ConfigError(f"{owner(trainer)}: _save_minutes is {minutes!r}; expected None or a number above 0.")
    compute.check_settings(trainer)
    distributed.check_settings(trainer)
    fsdp.check_settings(trainer)
    if not isinstance(trainer._logdir, (str, Path, type(None))):
        raise ConfigError(
            f"{owner(trainer)}: _logdir is {trainer._logdir!r}; expected a path, or None to write nothing."
        )
    if trainer._loss_weights not in (None, "mean") and not isinstance(trainer._loss_weights, Mapping):
        raise ConfigError(
            f"{owner(trainer)}: _loss_weights is {trainer._loss_weights!r}; expected None (the sum), 'mean', or a "
            "dict with a weight for each criterion."
        )
    loggers.check(trainer)
    if trainer._stages is not None:
        stages.check_stages(trainer._stages)
    if trainer._load_best and trainer._logdir is None:
        raise ConfigError(f"{owner(trainer)}: _load_best needs the run folder, and _logdir is None.")
    if trainer._scheduler_step == "step":
        for where, scheduler in components.named(trainer.scheduler, "self.scheduler"):
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                raise ConfigError(f"{owner(trainer)}: {where} is a ReduceLROnPlateau, which moves per epoch only.")
    if trainer._monitor is not None and not (isinstance(trainer._monitor, str) and trainer._monitor):
        raise ConfigError(f"{owner(trainer)}: _monitor is {trainer._monitor!r}; expected the name of a metric.")
