"""What a file of weights may ask for: its size, the entries of its archive, and what is rebuilt from them.

A file may be a stranger's: a small one must not take all memory or time. Nothing is read into memory here.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import CheckpointError

DEEPEST = 200  # dicts and lists in one another
LARGEST_VIEWS = 1 << 30  # bytes of tensors that are larger than what is stored of them, such as expanded ones
_FOLDER = 0x10  # the attribute of an entry that is a folder


def check_size(path: Path) -> None:
    """Check that this machine has room for a file, which may be a sparse one, whose size costs nothing.

    Raises
    ------
    CheckpointError
    """
    size, room = path.stat().st_size, free_memory()
    if room is not None and size > room:
        raise CheckpointError(
            f"{path} cannot be read: it has {size} bytes, and {room} bytes of memory are free on this machine."
        )


def free_memory() -> int | None:
    """Return how many bytes of memory can be taken, None where the system does not tell."""
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("MemAvailable:"))
        found.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
        found.append(int(file.read()))
    return min(found) if found else None


def check_archive(file: Path | IO[bytes], size: int, name: str, checksums: bool) -> None:
    """Check the entries of a zip archive.

    Parameters
    ----------
    file : Path or open file
    size : int
        Its bytes.
    name : str
        For messages.
    checksums : bool
        Whether the content is compared with the checksums that the archive has: PyTorch does not look at them.

    Raises
    ------
    CheckpointError
        For entries that are compressed, which those of PyTorch never are, that lie on one another, or are damaged.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{name} ({size} bytes) is no file of weights: its entry {entry.filename!r} is compressed."
                )
        if sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(f"{name} ({size} bytes) is damaged: its entries have more bytes than the file.")
        # PyTorch reads nothing, not even an error, where a flipped bit makes an entry a folder.
        damaged = archive.testzip() if checksums else None
        damaged = damaged or next((e.filename for e in entries if e.external_attr & _FOLDER), None)
    if damaged:
        raise CheckpointError(f"{name} ({size} bytes) is damaged: the checksum of {damaged!r} is wrong.")


def check_content(state: Any, path: Path) -> None:
    """Check what was rebuilt from a file: no deeper, and with no more parts and elements, than the file can hold.

    What is written once may be referred to often, a list in itself too, and a tensor may show one number a million
    times: whoever copies that takes as much memory as it shows.

    Raises
    ------
    CheckpointError
    """
    most, count, views = 1000 + 4 * path.stat().st_size, 0, 0
    waiting: list[tuple[Any, int]] = [(state, 0)]
    while waiting:
        value, depth = waiting.pop()
        parts: Any = ()
        if isinstance(value, Mapping):
            parts = value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            parts = value
        elif isinstance(value, Tensor):
            views += _extra_bytes(value)
        count += 1 + len(parts)
        if depth > DEEPEST or count > most:
            limit = (
                f"more than {DEEPEST} dicts and lists in one another" if depth > DEEPEST else "more than it can hold"
            )
            raise CheckpointError(f"{path} is damaged: it has {limit}.")
        waiting += [(part, depth + 1) for part in parts]
    if views > LARGEST_VIEWS:
        raise CheckpointError(f"{path} is damaged: its tensors show {views} bytes that it does not hold.")


def _extra_bytes(tensor: Tensor) -> int:
    """Return the bytes that a tensor shows beyond those of its storage; take off what a file has hung on it."""
    if vars(tensor):
        vars(tensor).clear()  # names in a file would hide those of the class
    if tensor._backward_hooks:
        tensor._backward_hooks = None
    if tensor.layout != torch.strided or tensor.is_nested:
        return 0
    return max(0, tensor.nbytes - (0 if tensor.is_meta else tensor.untyped_storage().nbytes()))
