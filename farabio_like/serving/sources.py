"""What `farabio-like serve` is given, as a predictor: a run's folder, an exported file, or a class of the user's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..launch.imports import Sources
from .predictor import Predictor


@dataclass(frozen=True)
class ClassTarget:
    """A class of the user's by its import path; called in a worker, it is imported and made there.

    Parameters
    ----------
    text : str
        ``"module:Class"`` or ``"file.py:Class"``.
    folder : Path
        Imports come from there first.
    """

    text: str
    folder: Path

    def __call__(self) -> Predictor:
        """Return the predictor."""
        sys.path.insert(0, str(self.folder))
        root = self.text.partition(":")[0].removesuffix(".py").partition(".")[0]
        found = Sources((self.folder,), (root,)).find(self.text, "serve")
        if not (isinstance(found, type) and issubclass(found, Predictor)):
            raise ConfigError(f"{self.text} is no Predictor. Write class {found.__name__}(serving.Predictor): ...")
        return found()


@dataclass(frozen=True)
class ModelTarget:
    """The folder of a run, or an exported file.

    Parameters
    ----------
    path : Path
    checkpoint : str or None
        Of a run which weights.
    """

    path: Path
    checkpoint: str | None = None

    def __call__(self) -> Predictor:
        """Return the predictor."""
        from .model import ModelPredictor  # with all that a trainer needs

        return ModelPredictor(self.path, self.checkpoint)


def target_of(text: str, checkpoint: str | None = None) -> Callable[[], Predictor]:
    """Return what makes the predictor that a text names, in the worker.

    Parameters
    ----------
    text : str
        The folder of a run, a file that was exported, ``file.py:Class`` or ``module:Class``.
    checkpoint : str, optional
        Of a run which weights.

    Raises
    ------
    ConfigError
        For anything else.
    """
    path = Path(text).expanduser()
    if path.exists():
        return ModelTarget(path.resolve(), checkpoint)
    source, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        raise ConfigError(f"there is no {text}. Give the folder of a run, an exported file, or file.py:Class.")
    if checkpoint is not None:
        raise ConfigError(f"{text} is a class, and has no checkpoint {checkpoint!r}.")
    if source.endswith(".py"):
        file = Path(source).expanduser()
        if not file.is_file():
            raise ConfigError(f"there is no file {source}.")
        return ClassTarget(f"{file.name}:{name}", file.resolve().parent)
    return ClassTarget(text, Path.cwd())
