"""The class of a trainer: by ``module:Class``, by ``file.py:Class``, or one of the ready-made ones by its name."""

from __future__ import annotations

from typing import Any

from .. import trainers
from ..errors import ConfigError, closest
from ..trainer import ConvnetTrainer
from .imports import Sources


def trainer_class(text: Any, sources: Sources, where: str) -> type[ConvnetTrainer]:
    """Return the class.

    Parameters
    ----------
    text : str
        ``"digits.py:Digits"``, ``"digits:Digits"`` or ``"ClassificationTrainer"``.
    sources : Sources
    where : str
        File and line of the text, for messages.

    Raises
    ------
    ConfigError
        If it is no trainer.
    """
    if not isinstance(text, str) or not text:
        raise ConfigError(
            f"{where}: trainer is {text!r}; expected the name of a class. Write trainer: digits.py:Digits, or "
            "trainer: ClassificationTrainer."
        )
    ours = _ours()
    if text.isidentifier():
        if text not in ours:
            raise ConfigError(
                f"{where}: trainer is {text!r}, which is none of ours.{closest(text, ours)} There are: "
                f"{', '.join(ours)}. One of yours: trainer: digits.py:{text}, or trainer: package.module:{text}."
            )
        return ours[text]
    found = sources.find(text, where)
    if not isinstance(found, type) or not issubclass(found, ConvnetTrainer):
        kind = "class that is no trainer" if isinstance(found, type) else "function"
        raise ConfigError(f"{where}: trainer is {text!r}, a {kind}; expected a subclass of ConvnetTrainer.")
    return found


def _ours() -> dict[str, type[ConvnetTrainer]]:
    found = {name: getattr(trainers, name) for name in trainers.__all__}
    return {name: each for name, each in found.items() if isinstance(each, type) and issubclass(each, ConvnetTrainer)}
