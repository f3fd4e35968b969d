"""What shows or records a run while it goes on: the terminal, tables, curves on servers.

The numbers come from the trainer; what remains of a run when no logger is asked for is written by `rundir`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .csv import CSVLogger
    from .mlflow import MLflowLogger
    from .tensorboard import TensorBoardLogger
    from .visdom import VisdomLogger
    from .wandb import WandbLogger

# Imported when they are used: most need a package of their own.
_MODULES = {
    "CSVLogger": "csv",
    "MLflowLogger": "mlflow",
    "TensorBoardLogger": "tensorboard",
    "VisdomLogger": "visdom",
    "WandbLogger": "wandb",
}

__all__ = ["CSVLogger", "MLflowLogger", "TensorBoardLogger", "VisdomLogger", "WandbLogger"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
