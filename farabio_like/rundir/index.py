"""The checkpoints in the folder of a run, the newest first, and the index that says so."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..checkpoint import access
from .layout import CHECKPOINTS, ENVIRONMENT, INDEX, LAST


def sweep_unfinished(folder: Path) -> None:
    """Remove what a run left that was killed in its first save, unless that may still be going on."""
    try:
        host = access.read_object(folder / ENVIRONMENT, folder).get("host")
    except (OSError, ValueError):
        return
    if access.leads_out(folder / CHECKPOINTS, folder):
        return
    if host == platform.node() and os.name == "posix":
        checkpoint.sweep(folder / CHECKPOINTS, alive=_is_alive)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run's folder, the newest first; last what is no regular file inside of it."""
    inner = folder / CHECKPOINTS
    files = list((inner if inner.is_dir() else folder).glob("*.ckpt"))
    # Those that are not opened come last; whoever takes them says why.
    closed = sorted(path for path in files if access.problem_of(path, folder) is not None)
    files = [path for path in files if path not in closed]
    known = read_index(folder).get("files", {})

    def age(path: Path) -> tuple[Any, ...]:
        status = path.stat()
        entry = known.get(path.name, {})
        current = entry.get("size") == status.st_size and entry.get("changed") == status.st_mtime_ns
        return (entry["step"] if current else -1, status.st_mtime_ns, path.name == LAST)

    # By the steps that the index knows, or else the files: those of a copied folder have other times.
    ages = {path: age(path) for path in files}
    if len(files) > 1 and not all(key[0] >= 0 for key in ages.values()):
        ages = {path: (_step_in(path), *key[1:]) for path, key in ages.items()}
    by_step = all(key[0] >= 0 for key in ages.values())
    return sorted(files, key=lambda path: ages[path] if by_step else ages[path][1:], reverse=True) + closed


def _step_in(path: Path) -> int:
    """Return the step that a checkpoint says it is of, -1 where it cannot be read; the tensors are not."""
    try:
        checkpoint.check_size(path)
        step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
    except Exception:  # whoever takes it reads it in full, and says what is wrong
        return -1
    return step if type(step) is int else -1


def read_index(folder: Path) -> dict[str, Any]:
    """Return what ``checkpoints/index.json`` says; it is a hint, and may be missing, damaged or out of date."""
    try:
        found = access.read_object(folder / CHECKPOINTS / INDEX, folder)
    except (OSError, ValueError):
        return {}
    files = found.get("files")
    sound = isinstance(files, dict) and all(isinstance(e, dict) and type(e.get("step")) is int for e in files.values())
    return found if sound else {}


def is_finished(folder: Path) -> bool:
    """Return what the index says, where it was written after the last save: a process may be killed in between."""
    index = read_index(folder)
    last = folder / CHECKPOINTS / LAST
    entry = index.get("files", {}).get(LAST)
    if not index.get("finished") or entry is None or not last.is_file():
        return False
    return (entry.get("size"), entry.get("changed")) == (last.stat().st_size, last.stat().st_mtime_ns)


def is_closed(folder: Path) -> bool:
    """Return whether all was done that comes after the last save of a run; where nothing is known, it counts so."""
    return bool(read_index(folder).get("closed", True))


def close(folder: Path) -> None:
    """Note that all was done that comes after the last save of a run."""
    index = read_index(folder)
    if index:
        with contextlib.suppress(OSError):
            checkpoint.write_text(folder / CHECKPOINTS / INDEX, json.dumps({**index, "closed": True}))


def write_index(folder: Path, saved: dict[str, Any], paths: list[Path]) -> None:
    """Note the names of a new checkpoint in the index. Nothing is lost with a hint: not synced, no error."""
    inner = folder / CHECKPOINTS
    files = {name: entry for name, entry in read_index(folder).get("files", {}).items() if (inner / name).is_file()}
    for path in paths:
        status = path.stat()
        files[path.name] = {
            "step": saved["step"],
            "epoch": saved["epoch"],
            "size": status.st_size,
            "changed": status.st_mtime_ns,
        }
    index = {"finished": bool(saved["run"]["finished"]), "closed": False, "files": files}
    with contextlib.suppress(OSError):
        checkpoint.write_text(inner / INDEX, json.dumps(index))
