"""`farabio_like`: write your research as one class, the loop is done."""

from .errors import CheckpointError, ConfigError, DataError, FarabioError, HookError, NonFiniteError
from .trainer import ConvnetTrainer

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ConvnetTrainer",
    "DataError",
    "FarabioError",
    "HookError",
    "NonFiniteError",
    "__version__",
]
