"""What a job is made of, its values, configuration and code, and what is different after the files have changed."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import load
from ..config.secrets import Secrets
from . import kinds
from .dagfile import Dag, Task
from .grid import shown

MOST_SHOWN = 60  # characters of a value


def made_of(dag: Dag) -> dict[str, dict[str, Any]]:
    """Return what the jobs of a pipeline are made of.

    Returns
    -------
    dict
        By job: ``task`` and ``config``, values by dotted path, without secrets; ``code``, a checksum by file, of the
        script or module and of what it imports from beside it.
    """
    shared = {task.name: _of_task(task, dag) for task in dag.tasks.values()}
    found = {}
    for name, job in dag.jobs.items():
        values, config, code = shared[job.task.name]
        values = {**values, "params": kinds.values_of(job)}
        known = Secrets(values, config)
        found[name] = {"task": _flat(known.values(values)), "config": _flat(known.values(config)), "code": code}
    return found


def _of_task(task: Task, dag: Dag) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return values, configuration and code of a task, in whichever cell."""
    values = {"type": task.type, **task.details, "distr": task.distr, "trace": task.trace}
    values |= {"seed": dag.seed, "env": task.env}
    config: dict[str, Any] = {}
    entry: list[Path] = []
    if "config" in task.details:
        file = dag.folder / task.details["config"]
        config = load(file)
        entry = [file.parent / word for word in _words(config) if word.endswith(".py")]
    elif "script" in task.details:
        entry = [dag.folder / task.details["script"]]
    elif "function" in task.details or ":" in task.type:
        found = kinds.module_file(task.details.get("function", task.type).partition(":")[0], dag.folder)
        entry = [found] if found is not None and found.is_relative_to(dag.folder) else []
    return values, config, {str(path): digest for path, digest in _code(entry).items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what is different, a line each."""
    lines = []
    for part in ("task", "config"):
        before, after = old.get(part, {}), new.get(part, {})
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                where = "config: " if part == "config" else ""
                lines.append(f"{where}{key}: {_short(before, key)} -> {_short(after, key)}")
    before, after = old.get("code", {}), new.get("code", {})
    for file in dict.fromkeys([*before, *after]):
        if before.get(file) != after.get(file):
            lines.append(f"code: {file} has changed")
    return lines


def _short(values: Mapping[str, Any], key: str) -> str:
    text = shown(values[key]) if key in values else "not set"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _words(value: Any) -> Iterator[str]:
    """Yield the texts in a configuration, of ``file.py:Name`` the file."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _words(part)
    elif isinstance(value, str):
        yield value.partition(":")[0]


def _code(files: list[Path]) -> dict[Path, str]:
    """Return a checksum of files and of what they import from beside them."""
    found: dict[Path, str] = {}
    left = list(files)
    while left:
        file = left.pop()
        try:
            text = file.read_bytes()
        except OSError:
            continue
        if file in found:
            continue
        found[file] = hashlib.sha256(text).hexdigest()[:16]
        left += [path for name in _imports(text) for path in _beside(file.parent, name)]
    return found


def _imports(text: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield base
            yield from (f"{base}.{each.name}" if base else each.name for each in node.names)


def _beside(folder: Path, name: str) -> list[Path]:
    stem = folder.joinpath(*name.split("."))
    return [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if name and path.is_file()]
