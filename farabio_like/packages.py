"""Installed packages: one that is missing, and whether a file belongs to one."""

from __future__ import annotations

import importlib.util
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

from .errors import ConfigError


def needs(package: str, who: str, extra: str | None = None) -> None:
    """Raise a ConfigError that says how to install a package that is missing.

    Parameters
    ----------
    package : str
    who : str
        Who needs it, for the message.
    extra : str, optional
        The extra of this library that brings it, with whatever else belongs to it.
    """
    said = missing(package, who, extra)
    if said is not None:
        raise ConfigError(said)


def missing(package: str, who: str, extra: str | None = None) -> str | None:
    """Return what `needs` says of a package that is missing, None of one that is there."""
    if importlib.util.find_spec(package) is not None:
        return None
    line = f"pip install {package}" if extra is None else f'pip install "farabio-like[{extra}]"'
    return f"{who} needs the package {package}, which is not installed. Install it: {line}"


def installed(path: Path) -> bool:
    """Return whether a source file belongs to an installed package, the standard library, or this library."""
    # By name too: the packages of `pip install --user` and of other environments are in no path of sysconfig.
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or inside(path, _library_folders())


@cache
def _library_folders() -> list[Path]:
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parent))
    return [each for folder in folders for each in {Path(folder), Path(folder).resolve()}]


def inside(path: Path, folders: Any) -> bool:
    """Return whether a path is in one of these folders."""
    return any(path.is_relative_to(folder) for folder in folders)
