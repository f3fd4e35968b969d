"""Modules and what is in them by import path: what a configuration may name, from which folders, and how it is found.

A folder of code comes before everything else, as that of a script does. A module of the same name from another folder
is imported anew from it, so that the code in a run's folder never mixes with the code of today.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, closest
from ..packages import installed

OURS = __name__.partition(".")[0]
TRUSTED = ("torch", "torchvision", OURS)
# What makes a part of a training: elsewhere in torch are functions that load and run code.
_FUNCTIONS = (
    *("torch.nn", "torch.optim", "torch.utils.data", "torch.functional", OURS),
    *("torchvision.models", "torchvision.transforms", "torchvision.ops", "torchvision.datasets"),
)


@dataclass(frozen=True)
class Sources:
    """Where the parts of a configuration come from.

    Parameters
    ----------
    folders : tuple of pathlib.Path
        Of the user's code; the first one that has a module counts.
    allow : tuple of str
        Modules that are trusted too, with all in them.
    """

    folders: tuple[Path, ...] = ()
    allow: tuple[str, ...] = ()

    def put_first(self) -> None:
        """Import from the folders first, as long as the process lives: what a hook imports later is there too."""
        for folder in reversed(self.folders):
            text = str(folder.resolve())
            sys.path[:] = [text, *(entry for entry in sys.path if entry != text)]
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if self.home_of(name.partition(".")[0]) is None or not isinstance(file, str) or installed(Path(file)):
                continue
            if not self.has(name, Path(file)):
                del sys.modules[name]
        importlib.invalidate_caches()

    def home_of(self, root: str) -> Path | None:
        """Return the folder that has a module of the user's, None for any other module."""
        if root in (*TRUSTED, "__main__") or root in sys.stdlib_module_names:
            return None
        return next((each for each in self.folders if _has_module(each, root)), None)

    def has(self, name: str, file: Path) -> bool:
        """Return whether the file of a module is in the folder that the user's module of this name comes from."""
        root = name.partition(".")[0]
        home = self.home_of(root)
        if home is None:
            return False
        # Not anywhere below the folder: the folders of runs are, with other versions of the same modules.
        file = file.resolve()
        return file == (home / f"{root}.py").resolve() or file.is_relative_to((home / root).resolve())

    def may_import(self, name: str) -> bool:
        """Return whether a module is trusted: torch, torchvision, ours, the user's, and those that are allowed."""
        root = name.partition(".")[0]
        return root in TRUSTED or self.allows(name) or self.home_of(root) is not None

    def allows(self, name: str) -> bool:
        """Return whether the user has allowed a module, or a package that it is in."""
        return any(name == each or name.startswith(f"{each}.") for each in self.allow)

    def find(self, text: str, where: str) -> Any:
        """Return a class or a function by its import path.

        Parameters
        ----------
        text : str
            ``"torch.nn.Linear"``, ``"nets:Net"``, ``"nets.py:Net"``.
        where : str
            File and line, for messages.

        Raises
        ------
        ConfigError
            If there is none, or it is not to be trusted; nothing of it has been imported then.
        """
        source, colon, name = text.rpartition(":")
        if colon and source.endswith(".py"):
            source = self._module_of(source, where)
        path = f"{source}.{name}" if colon else text
        if not all(part.isidentifier() for part in path.split(".")) or "." not in path:
            raise ConfigError(f"{where}: {text!r} is no import path. Write torch.nn.Linear, or nets.py:Net.")
        found = self._walk(path, where, text)
        is_function = inspect.isfunction(found) or (inspect.isbuiltin(found) and not _is_bound(found))
        if not (isinstance(found, type) or is_function):
            kind = "a module" if isinstance(found, ModuleType) else f"a {type(found).__name__}"
            raise ConfigError(f"{where}: {text} is {kind}; expected a class or a function.")
        home = getattr(found, "__module__", None) or path.rpartition(".")[0]
        self._check(home, text, where)
        safe = home == "torch" or any(f"{home}.".startswith(f"{each}.") for each in _FUNCTIONS)
        trusted = home.partition(".")[0] not in TRUSTED or self.allows(home) or self.allows(path)
        if is_function and not safe and not trusted:
            raise ConfigError(
                f"{where}: {text} is a function of {home}, which makes no part of a training. To call it all the "
                f"same: --allow {home}"
            )
        return found

    def _module_of(self, file: str, where: str) -> str:
        if not any((folder / file).is_file() for folder in self.folders):
            there = sorted({path.name for folder in self.folders for path in folder.glob("*.py")})
            looked = f" Looked in: {', '.join(map(str, self.folders))}." if self.folders else ""
            raise ConfigError(
                f"{where}: there is no file {file!r} beside the configuration.{closest(file, there)}{looked}"
            )
        parts = Path(file).with_suffix("").parts
        if parts[0] in sys.stdlib_module_names:
            raise ConfigError(f"{where}: {file} has the name of a module of Python's own: give it another one.")
        return ".".join(parts)

    def _walk(self, path: str, where: str, text: str) -> Any:
        """Import the module that a path begins with, and go from there."""
        root, *rest = path.split(".")
        self._check(path, text, where)
        found: Any = self._imported(root, where)
        for depth, name in enumerate(rest, 1):
            module = ".".join([root, *rest[:depth]])
            if not hasattr(found, name) and isinstance(found, ModuleType) and hasattr(found, "__path__"):
                self._imported(module, where, of=found)
            if not hasattr(found, name):
                names = [each for each in dir(found) if not each.startswith("_")]
                holder = ".".join([root, *rest[: depth - 1]])
                raise ConfigError(f"{where}: {text}: {holder} has no {name!r}.{closest(name, names)}")
            found = getattr(found, name)
            if isinstance(found, ModuleType):
                self._check(found.__name__, text, where)  # torch.os, say
        return found

    def _check(self, module: str, text: str, where: str) -> None:
        root = module.partition(".")[0]
        if not self.may_import(module):
            near = closest(root, TRUSTED)
            raise ConfigError(
                f"{where}: {text} is of the module {root}, which no configuration may import.{near} If you trust it: "
                f"--allow {root}"
            )

    def _imported(self, name: str, where: str, of: ModuleType | None = None) -> Any:
        """Import a module; where a package has none of the name, what is missing there is said by who asks."""
        try:
            return importlib.import_module(name)
        except SyntaxError as error:
            raise ConfigError(f"{where}: {error.filename}:{error.lineno}: {error.msg}.") from error
        except ImportError as error:
            if error.name == name:
                if of is not None:
                    return None
                raise ConfigError(
                    f"{where}: there is no module {name}. Put {name}.py beside the configuration, or install it."
                ) from error
            raise ConfigError(f"{where}: {_line_of(error)}{error}.") from error


def _has_module(folder: Path, name: str) -> bool:
    package = folder / name  # also one without __init__.py
    return (folder / f"{name}.py").is_file() or (package.is_dir() and any(package.glob("*.py")))


def _is_bound(found: Any) -> bool:
    holder = getattr(found, "__self__", None)
    return holder is not None and not isinstance(holder, ModuleType)


def _line_of(error: BaseException) -> str:
    """Return file and line of the import that has failed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames and frames[-1].filename != __file__ else ""


def checked_allow(allow: Sequence[str]) -> tuple[str, ...]:
    """Return names of modules, or raise a ConfigError for what is none."""
    if isinstance(allow, str):
        raise ConfigError(f"allow={allow!r} is a string; expected a list: [{allow!r}].")
    for name in allow:
        if not name or not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"--allow {name!r} is no name of a module, as in --allow sklearn")
    return tuple(allow)
