"""The user's code that a run has used, copied into its folder so that it can be imported from there."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ..packages import installed
from ..rundir.environment import LARGEST_SOURCE
from .imports import OURS, Sources


def copy_modules(sources: Sources, folder: Path) -> None:
    """Copy the user's modules that are imported, and those that they import in a function, by the names they have.

    Parameters
    ----------
    sources : Sources
    folder : pathlib.Path
        From which they can be imported as they were.
    """
    files: dict[Path, Path] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or not _is_users(name, Path(file), sources):
            continue
        _take(Path(file), _target(name, Path(file)), sources, files)
    for source, target in files.items():
        if source.is_file() and source.stat().st_size <= LARGEST_SOURCE:
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / target)


def _is_users(name: str, file: Path, sources: Sources) -> bool:
    root = name.partition(".")[0]
    if sources.home_of(root) is not None:
        return sources.has(name, file)
    return (
        root not in (OURS, "__main__")
        and any(root == each.partition(".")[0] for each in sources.allow)
        and (not installed(file))
    )


def _target(name: str, file: Path) -> Path:
    path = Path(*name.split("."))
    return path / file.name if file.name == "__init__.py" else path.with_suffix(".py")


def _take(source: Path, target: Path, sources: Sources, files: dict[Path, Path]) -> None:
    """Take a file, and what it imports of the user's wherever that stands in it."""
    if source in files:
        return
    files[source] = target
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    package = target.parent.parts
    for name in _imported(tree, package):
        parts = name.split(".")
        home = sources.home_of(parts[0])
        for length in range(1, len(parts) + 1) if home is not None else ():
            path = Path(*parts[:length])
            for each in (path.with_suffix(".py"), path / "__init__.py"):
                if home is not None and (home / each).is_file():
                    _take(home / each, each, sources, files)


def _imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            for each in node.names:
                yield ".".join((*base, *([node.module] if node.module else []), each.name))
