"""What a user configures: files, `Config`, the settings of a trainer, and the stages of a run.

Values and their meaning live here, not what a run does with them; the checks of a whole trainer are in `checks`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .files import load, save
from .nested import get, put

if TYPE_CHECKING:
    from .config import Config, to_dict

# Imported when they are used: torch takes a second or two, for which who reads a file does not wait.
_MODULES = {"Config": "config", "to_dict": "config"}

__all__ = ["Config", "get", "load", "put", "save", "to_dict"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
