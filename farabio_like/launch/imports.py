"""Modules and what is in them by import path: which may be imported, from which folders, and what a mistake gets.

A folder of code comes before everything else, as that of a script does. A module of the same name from another folder
is imported anew from it, so that the code in a run's folder never mixes with the code of today.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, closest

OURS = __name__.partition(".")[0]


@contextmanager
def code_first(folders: Sequence[Path]) -> Iterator[None]:
    """Import from these folders first, for as long as the process lives: what a hook imports later is there too."""
    for folder in reversed(folders):
        text = str(folder.resolve())
        sys.path[:] = [text, *(entry for entry in sys.path if entry != text)]
    _forget_others(folders)
    importlib.invalidate_caches()
    yield


def _forget_others(folders: Sequence[Path]) -> None:
    """Forget imported modules that these folders have under the same name, and that came from elsewhere."""
    for name, module in list(sys.modules.items()):
        root = name.partition(".")[0]
        here = next((folder for folder in folders if _has(folder, root)), None)
        file = getattr(module, "__file__", None)
        if here is None or root in (OURS, "__main__") or root in sys.stdlib_module_names or not isinstance(file, str):
            continue
        if not Path(file).resolve().is_relative_to(here.resolve()):
            del sys.modules[name]


def _has(folder: Path, root: str) -> bool:
    return (folder / f"{root}.py").is_file() or (folder / root / "__init__.py").is_file()


def module(name: str, where: str) -> ModuleType:
    """Import a module.

    Raises
    ------
    ConfigError
        If there is none, or it cannot be imported: with the file and line of what is missing or wrong in it.
    """
    try:
        return importlib.import_module(name)
    except SyntaxError as error:
        raise ConfigError(f"{where}: {error.filename}:{error.lineno}: {error.msg}.") from error
    except ImportError as error:
        at = _line_of(error)
        if at is None or error.name == name or (error.name and name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{where}: there is no module {name!r}. Put {name.partition('.')[0]}.py beside the configuration, or "
                "install the package."
            ) from error
        raise ConfigError(f"{where}: {at}: {error}.") from error


def _line_of(error: BaseException) -> str | None:
    """Return file and line of the import that has failed, None where it is our own."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    last = frames[-1] if frames else None
    return None if last is None or last.filename == __file__ else f"{last.filename}:{last.lineno}"


def attribute(found: ModuleType, path: str, where: str) -> Any:
    """Return what a module has under a dotted name."""
    value: Any = found
    for name in path.split("."):
        if not hasattr(value, name):
            names = [each for each in vars(value) if not each.startswith("_")] if hasattr(value, "__dict__") else []
            raise ConfigError(f"{where}: {found.__name__} has no {path!r}.{closest(name, names)}")
        value = getattr(value, name)
    return value


def file_in(folders: Iterable[Path], name: str) -> Path | None:
    """Return a file by its path relative to one of several folders."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
