"""Files of weights: written so that a file under its final name is complete, read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from . import distributed
from .errors import CheckpointError

FORMAT = 1


def write_durably(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file that is either complete under its name or not there. Of several ranks only the first one writes.

    The content goes to a temporary name in the same folder, is synced to the disk, and only then renamed.

    Parameters
    ----------
    path : Path
        Its folder is made when it is missing.
    write : callable
        Gets the open binary file.

    Raises
    ------
    CheckpointError
        If the disk is full or the folder cannot be written; what was there before stays.
    """
    if not distributed.is_main():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handled = sys.exc_info()[1]  # an error that the caller is handling is not the reason of a new one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # left by a killed process, it may be a link to a finished file
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        size = temporary.stat().st_size if temporary.exists() else 0
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch.save reports a failed write as a RuntimeError whose context is the OSError.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause is not handled:
            raise CheckpointError(
                f"cannot write {path}: {cause.strerror or cause} (after {size} bytes; {_free_bytes(path)} bytes are "
                "free). The older file, if there is one, is untouched."
            ) from cause
        raise


def link_durably(source: Path, path: Path) -> None:
    """Give the finished file `source` a second name, as durably as writing it again."""
    if not distributed.is_main():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
    except OSError:  # a file system without hard links, or one that the disk-full test of a real write should meet
        write_durably(path, lambda file: _copy_into(source, file))
        return
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # renaming one name of a file to another of its names leaves both
    _sync_folder(path.parent)


def _copy_into(source: Path, file: IO[bytes]) -> None:
    with open(source, "rb") as original:
        shutil.copyfileobj(original, file)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _free_bytes(path: Path) -> int | str:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return "unknown"


def save(state: Mapping[str, Any], path: Path) -> None:
    """Save a dict of tensors and plain data durably.

    Raises
    ------
    CheckpointError
        As in `write_durably`.
    """
    write_durably(path, lambda file: torch.save(state, file))


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file of tensors and plain data; nothing in it is run.

    Parameters
    ----------
    path : Path
    device : torch.device or str
        Where the tensors go.

    Raises
    ------
    FileNotFoundError
        Naming the files of weights that the folder does hold.
    CheckpointError
        For a file that is empty, truncated, damaged, no dict of tensors, or holds objects that only
        running code could rebuild.
    """
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        there = sorted(p.name for p in folder.glob("*") if p.suffix in (".ckpt", ".pth", ".pt")) or ["none"]
        raise FileNotFoundError(f"there is no file of weights {path}; {folder} holds: {', '.join(there)}.")
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            # torch.load does not look at the checksums that the archive carries; a flipped byte would pass.
            with zipfile.ZipFile(path) as archive:
                # torch reads nothing, not even an error, where a flipped bit makes an entry a folder.
                damaged = archive.testzip() or next(
                    (e.filename for e in archive.infolist() if e.external_attr & 0x10), None
                )
            if damaged:
                raise CheckpointError(f"{path} ({size} bytes) is damaged: the checksum of {damaged!r} is wrong.")
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path} ({size} bytes) is not a file of tensors and plain data, or damaged: {reason} "
            "Nothing in it was run."
        ) from error
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:  # there is no end to the ways in which reading bytes of another kind can fail
        said = (str(error) or type(error).__name__).splitlines()[0]
        reason = "it is empty" if size == 0 else f"it is truncated or damaged ({said})"
        raise CheckpointError(f"{path} ({size} bytes) cannot be read: {reason}.") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a dict of weights.")
    version = state.get("format") if "model" in state else None
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{path} has the format {version}; this version reads up to {FORMAT}. Upgrade the package."
        )
    return state


def weights_of(state: dict[str, Any]) -> dict[str, Any]:
    """Return the weights in a state read from a file: of one of our checkpoints, or the state itself."""
    return state["model"] if "format" in state and "model" in state else state
