"""The loggers that ship, by the names that a user writes; where each one is made is in `loggers.run`."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shipped(NamedTuple):
    """Where a logger that ships is found, and what it needs."""

    module: str
    cls: str
    arguments: dict[str, Any] = {}
    package: str | None = None  # that has to be installed


LOGGERS = {
    "csv": Shipped("csv", "CSVLogger"),
    "tensorboard": Shipped("tensorboard", "TensorBoardLogger", package="tensorboard"),
    "visdom": Shipped("visdom", "VisdomLogger"),
    "wandb": Shipped("wandb", "WandbLogger", package="wandb"),
    "trackio": Shipped("wandb", "WandbLogger", {"service": "trackio"}, package="trackio"),
    "mlflow": Shipped("mlflow", "MLflowLogger", package="mlflow"),
}


def asked_for(given: Any) -> list[Any]:
    """Return the loggers that the setting ``_loggers`` names or holds: none, one, or several."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
