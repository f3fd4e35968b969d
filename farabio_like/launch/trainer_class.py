"""The class of a trainer: by ``module:Class``, by ``file.py:Class``, or one of the ready-made ones by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import trainers
from ..errors import ConfigError, closest
from ..trainer import ConvnetTrainer
from . import imports


def trainer_class(text: Any, folders: Sequence[Path], where: str) -> type[ConvnetTrainer]:
    """Return the class.

    Parameters
    ----------
    text : str
        ``"digits.py:Digits"``, ``"digits:Digits"`` or ``"ClassificationTrainer"``.
    folders : sequence of pathlib.Path
        Where its file may be.
    where : str
        File and line of the text, for messages.

    Raises
    ------
    ConfigError
        If it is no trainer.
    """
    example = "Write trainer: digits.py:Digits, or trainer: ClassificationTrainer."
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{where}: trainer is {text!r}; expected the name of a class. {example}")
    source, colon, name = text.rpartition(":")
    if not colon:
        found = getattr(trainers, text, None) if text in trainers.__all__ else None
        if found is None:
            raise ConfigError(
                f"{where}: trainer is {text!r}, which is none of ours.{closest(text, _ours())} There are: "
                f"{', '.join(_ours())}. For one of yours: trainer: digits.py:Digits, or trainer: package.module:Digits."
            )
    else:
        found = imports.attribute(_module(source, folders, where), name, where)
    if not isinstance(found, type) or not issubclass(found, ConvnetTrainer):
        kind = "an instance" if isinstance(found, ConvnetTrainer) else f"a {type(found).__name__}"
        said = "a class that is no trainer" if isinstance(found, type) else kind
        raise ConfigError(f"{where}: trainer is {text!r}, {said}; expected a subclass of ConvnetTrainer.")
    return found


def _module(source: str, folders: Sequence[Path], where: str) -> Any:
    if not source.endswith(".py"):
        return imports.module(source, where)
    file = imports.file_in(folders, source)
    if file is None:
        there = sorted({path.name for folder in folders for path in folder.glob("*.py")})
        raise ConfigError(
            f"{where}: there is no file {source!r} beside the configuration.{closest(source, there)} "
            f"Looked in: {', '.join(map(str, folders))}."
        )
    return imports.module(".".join(Path(source).with_suffix("").parts), where)


def _ours() -> list[str]:
    found = {name: getattr(trainers, name) for name in trainers.__all__}
    return [name for name, each in found.items() if isinstance(each, type) and issubclass(each, ConvnetTrainer)]
