"""Files of weights: written so that a file under its final name is complete, read without running code."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch

from .. import distributed
from ..errors import CheckpointError, printable
from . import bounds

FORMAT = 2
LONGEST_REASON = 500  # characters of what PyTorch says of a file
# A file that `save` wrote ends, after the archive, with this and the SHA-256 of all that comes before it. Readers of
# zip archives, torch.load among them, look for the archive's end from the back and pass it over.
_MARK = b"\nsha256:"
_TRAILER = len(_MARK) + 64
_ZIP_END = 22  # bytes of the record that ends an archive


def write_durably(path: Path, write: Callable[[IO[bytes]], None], *others: Path, checksum: bool = False) -> None:
    """Write a file that is either complete under its name or not there. Of several ranks only the first one writes.

    The content goes to a temporary name in the same folder, is synced to the disk, and only then renamed.

    Parameters
    ----------
    path : Path
        Its folder is made when it is missing.
    write : callable
        Gets the open binary file.
    *others : Path
        Further names for the same file.
    checksum : bool
        Add the SHA-256 of the content, which `read` then compares.

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
            if checksum:
                _write_with_checksum(file, write)
            else:
                write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        for other in others:
            _link(path, other)
        for folder in {path.parent, *(other.parent for other in others)}:
            sync_folder(folder)
    except BaseException as error:
        size = temporary.stat().st_size if temporary.exists() else 0
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch.save reports a failed write as a RuntimeError whose context is the OSError.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause is not handled:
            raise CheckpointError(
                f"cannot write {path}: {cause.strerror or cause}. It needs {_size_of(write)} bytes, {size} could be "
                f"written; {free_bytes(path)} bytes are free. The older file, if there is one, is untouched."
            ) from cause
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write the content of a file durably, see `write_durably`."""

    def write(file: IO[bytes]) -> None:
        file.write(content)

    write_durably(path, write)


class _Counter(io.RawIOBase):
    """A file that only counts."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


def _size_of(write: Callable[[IO[bytes]], None]) -> int | str:
    counter = _Counter()
    try:
        write(counter)  # type: ignore[arg-type]
    except Exception:  # what it writes may be gone by now
        return "an unknown number of"
    return counter.size


def write_text(path: Path, text: str) -> None:
    """Replace a file of text at once, without waiting for the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # it may be a link
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def link_durably(source: Path, path: Path) -> None:
    """Give the finished file `source` a second name, as durably as writing it again."""
    if distributed.is_main():
        _link(source, path)
        sync_folder(path.parent)


def _link(source: Path, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
    except OSError:  # a file system without hard links, another one, a folder that is missing or cannot be written
        write_durably(path, lambda file: _copy_into(source, file))
        return
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # renaming one name of a file to another of its names leaves both


def _copy_into(source: Path, file: IO[bytes]) -> None:
    with open(source, "rb") as original:
        shutil.copyfileobj(original, file)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk, where its file system can do that."""
    if os.name == "posix":  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # CIFS, some of FUSE and of clusters: they have nothing to sync there. The file itself has been.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
                raise
        finally:
            os.close(descriptor)


def free_bytes(path: Path) -> int | str:
    """Return how much room there is in the folder of a file."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return "unknown"


_PART = 1 << 20  # bytes that are hashed together; less is hashed sooner than handed to a thread


class _Hashed:
    """A file whose content is hashed while it is written: in a thread, which reads what the system has already.

    Not from the memory that is written: that is the writer's own, and may be gone when `write` has returned.
    """

    def __init__(self, file: IO[bytes], written: IO[bytes], thread: ThreadPoolExecutor) -> None:
        self.file, self.written, self.thread = file, written, thread
        self.hash = hashlib.sha256()
        self.size = self.given = 0
        self.jobs: list[Future[None]] = []

    def write(self, data: Any) -> int:
        self.size += len(data)
        self.file.write(data)
        if self.size - self.given >= _PART:
            self.flush()
            self.jobs.append(self.thread.submit(self._read, self.size - self.given))
            self.given = self.size
        return len(data)

    def flush(self) -> None:
        self.file.flush()

    def _read(self, left: int) -> None:
        while left:
            part = self.written.read(min(left, _PART))
            if not part:
                raise OSError(errno.EIO, "what was written cannot be read back")
            self.hash.update(part)
            left -= len(part)

    def hexdigest(self) -> str:
        """Return the hash of all that was written."""
        self.flush()
        for job in self.jobs:
            job.result()
        self._read(self.size - self.given)
        return self.hash.hexdigest()


def _write_with_checksum(file: IO[bytes], write: Callable[[IO[bytes]], None]) -> None:
    with open(file.name, "rb", buffering=0) as written, ThreadPoolExecutor(1, "farabio_like hash") as thread:
        hashed = _Hashed(file, written, thread)
        write(hashed)  # type: ignore[arg-type]
        if hashed.jobs:  # the disk is busy while the rest is hashed
            hashed.flush()
            os.fsync(file.fileno())
        file.write(_MARK + hashed.hexdigest().encode())


def save(state: Mapping[str, Any], path: Path, *others: Path) -> None:
    """Save a dict of tensors and plain data durably, with a checksum.

    Parameters
    ----------
    state : dict
    path : Path
    *others : Path
        Further names for the same file.

    Raises
    ------
    CheckpointError
        As in `write_durably`.
    """
    write_durably(path, lambda file: torch.save(state, file), *others, checksum=True)


def _is_intact(path: Path) -> bool | None:
    """Return whether a file has the checksum that it carries, None where it carries none."""
    size = path.stat().st_size
    if size <= _TRAILER:
        return None
    with open(path, "rb") as file:
        file.seek(size - _TRAILER)
        trailer = file.read()
        if not trailer.startswith(_MARK):
            # An archive that nothing follows, as torch.save writes it, or one whose checksum is damaged.
            archive = zipfile.is_zipfile(path)
            return False if archive and trailer[-_ZIP_END : -_ZIP_END + 4] != b"PK\x05\x06" else None
        file.seek(0)
        return digest(file, size - _TRAILER).encode() == trailer[len(_MARK) :]


def digest(file: IO[bytes], left: int) -> str:
    """Return the SHA-256 of the next so many bytes of a file."""
    found = hashlib.sha256()
    while left and (part := file.read(min(left, 1 << 20))):
        found.update(part)
        left -= len(part)
    return found.hexdigest()


def sweep(folder: Path, alive: Callable[[int], bool] | None = None) -> None:
    """Remove the temporary files that a killed process left in the folder of its run.

    Parameters
    ----------
    folder : Path
    alive : callable, optional
        Returns whether the process of a number is there; the files of such a one stay.
    """
    for path in folder.glob(".*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdecimal() and not (alive is not None and alive(int(number))):
            path.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain data; nothing in it is run.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        Its tensors are on the CPU.

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
        said = printable(f"there is no file of weights {path}; {folder} holds: {', '.join(there)}.")
        raise FileNotFoundError(said)
    size = path.stat().st_size
    try:
        bounds.check_size(path)
        intact = _is_intact(path)
        if intact is False:
            raise CheckpointError(f"{path} ({size} bytes) is damaged: it does not have the SHA-256 that it carries.")
        if zipfile.is_zipfile(path):
            bounds.check_archive(path, size, str(path), checksums=intact is None)
        state = torch.load(path, map_location="cpu", weights_only=True)
        bounds.check_content(state, path)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0][:LONGEST_REASON]
        raise CheckpointError(
            f"{path} ({size} bytes) is not a file of tensors and plain data, or damaged: {reason} "
            "Nothing in it was run."
        ) from error
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:  # there is no end to the ways in which reading bytes of another kind can fail
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST_REASON]
        reason = "it is empty" if size == 0 else f"it is truncated or damaged ({said})"
        raise CheckpointError(f"{path} ({size} bytes) cannot be read: {reason}.") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a dict of weights.")
    version = state.get("format") if "model" in state else None
    if type(version) is int and version > FORMAT:
        shown = version if version < 1 << 53 else "of a huge number"
        raise CheckpointError(f"{path} has the format {shown}; this version reads up to {FORMAT}. Upgrade the package.")
    return state


def weights_of(state: dict[str, Any]) -> dict[str, Any]:
    """Return the weights in a state read from a file: of one of our checkpoints, or the state itself."""
    return state["model"] if "format" in state and "model" in state else state
