"""`farabio_like`: write your research as one class, the loop is done.

The names that a user imports are handed on here and in `callbacks`, `loggers`, `plots`, `distributed` and `config`.
The other packages are what the trainer is made of.
"""

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
