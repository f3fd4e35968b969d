"""Stages of a run: the same trainer trains several times in a row, each time with other settings."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, closest

# The other settings are read once per run.
SETTINGS_OF_A_STAGE = (
    *("has_eval", "eval_interval", "save_epoch", "monitor", "monitor_mode", "scheduler_step", "loss_weights"),
    *("on_nonfinite", "next_loop", "mode", "backbone", "accumulation_steps", "clip_norm", "clip_value"),
)


class Stage:
    """One stage of a run; ``self._stages = [Stage("pretrain", 5), Stage("finetune", 10, eval_interval=2)]``.

    Epochs count on from stage to stage. The hook ``on_stage_start`` is where a subclass changes losses,
    optimizers, loaders, or freezes parts; ``self.stage.name`` tells it which stage begins.

    Parameters
    ----------
    name : str
    num_epochs : int
        Epochs of this stage, at least 1.
    **settings
        Settings of the trainer during this stage, without their underscore: ``monitor="accuracy"``.

    Raises
    ------
    ConfigError
        For a number of epochs that is not allowed.
    """

    def __init__(self, name: str, num_epochs: int, **settings: Any) -> None:
        if not isinstance(num_epochs, int) or isinstance(num_epochs, bool) or num_epochs < 1:
            raise ConfigError(f"Stage({name!r}) has num_epochs={num_epochs!r}; expected a whole number, 1 or more.")
        self.name = name
        self.num_epochs = num_epochs
        self.settings = settings

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"Stage({self.name!r}, {self.num_epochs}{given})"


def check_stages(stages: Any) -> None:
    """Raise a ConfigError for stages that cannot be run."""
    if not isinstance(stages, (list, tuple)) or not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise ConfigError(f"_stages is {stages!r}; expected a list of Stage, [Stage('pretrain', num_epochs=5)] say.")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ConfigError(f"_stages has a name twice: {names}.")
    for stage in stages:
        for name in stage.settings:
            if name not in SETTINGS_OF_A_STAGE:
                there = f"{closest(name, SETTINGS_OF_A_STAGE)} There are: {', '.join(SETTINGS_OF_A_STAGE)}."
                raise ConfigError(f"Stage({stage.name!r}) sets {name!r}, which is no setting of a stage.{there}")
