"""`farabio_like`: write your research as one class, the loop is done."""

from .callbacks.base import Callback, CallbackOrder, Logger
from .config.stages import Stage
from .errors import CheckpointError, ConfigError, DataError, FarabioError, HookError, NonFiniteError
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
