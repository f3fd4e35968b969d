"""Stages of a run: the same trainer trains several times in a row, each time with other settings.

Which settings a stage may have is in `config.settings`.
"""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError


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
