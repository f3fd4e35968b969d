"""`farabio_like`: write your research as one class, the loop is done.

The names that a user imports are handed on here and in `callbacks`, `loggers`, `plots`, `distributed` and `config`.
The other packages are what the trainer is made of.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, ConfigError, DataError, FarabioError, HookError, NonFiniteError
from .version import __version__

if TYPE_CHECKING:
    from .callbacks.base import Callback, CallbackOrder, Logger
    from .config.stages import Stage
    from .trainer import ConvnetTrainer

# Imported when they are used: torch takes a second or two, for which the help of a command does not wait.
_MODULES = {
    "Callback": "callbacks.base",
    "CallbackOrder": "callbacks.base",
    "Logger": "callbacks.base",
    "Stage": "config.stages",
    "ConvnetTrainer": "trainer",
}

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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value  # found at once the next time
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f".{name}", __name__)  # farabio_like.plots, after import farabio_like alone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
