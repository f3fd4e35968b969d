"""`farabio_like`: write your research as one class, the loop is done."""

from .callbacks.base import Callback, CallbackOrder, Logger
from .errors import CheckpointError, ConfigError, DataError, FarabioError, HookError, NonFiniteError
from .stages import Stage
from .trainer import ConvnetTrainer
from .version import __version__

__all__ = [
    "Callback",
    "CallbackOrder",
    "CheckpointError",
    "ConfigError",
    "ConvnetTrainer",
    "DataError",
    "FarabioError",
    "HookError",
    "Logger",
    "NonFiniteError",
    "Stage",
    "__version__",
]
