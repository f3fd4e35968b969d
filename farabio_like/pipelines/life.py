"""Processes: which one it is for good, whether it lives, and ending what a dead one has left.

A number alone names no process: it is given again. Machine, boot, number and time of the start together do.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = "FARABIO_TASK_FOLDER"  # in the environment of everything that a task starts
_PROC = Path("/proc")


@cache
def boot() -> str:
    """Return what names this start of the machine; empty where nothing does."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def machine() -> str:
    """Return the name of this machine."""
    return platform.node()


def ticks(pid: int) -> int | None:
    """Return when a process has started, in ticks since the machine has; None where it is gone, or a zombie."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def identity(pid: int | None = None) -> dict[str, Any]:
    """Return what names a process for good."""
    pid = os.getpid() if pid is None else pid
    return {"machine": machine(), "boot": boot(), "pid": pid, "ticks": ticks(pid)}


def is_alive(who: Mapping[str, Any]) -> bool | None:
    """Return whether a process lives; None where it is one of another machine, of which nothing is known here."""
    if who.get("machine") != machine():
        return None
    pid = who.get("pid")
    if who.get("boot") != boot() or type(pid) is not int or pid <= 0:
        return False
    if who.get("ticks") is not None:
        return ticks(pid) == who["ticks"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def processes_of(folder: str) -> list[int]:
    """Return the processes that the task in a folder has started, by their environment."""
    wanted = f"{FOLDER}={folder}".encode(errors="surrogateescape")
    found = []
    for entry in _PROC.glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # of another user, or gone
            continue
        if wanted in environment.split(b"\0") and ticks(int(entry.name)) is not None:
            found.append(int(entry.name))
    return found


def end_processes(find: Callable[[], list[int]], patience: float = 10.0) -> list[int]:
    """Kill processes until none is found any more, and return those that stay: in the hands of a dead disk, say."""
    end = time.monotonic() + patience
    while left := find():
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        if time.monotonic() > end:
            return left
        time.sleep(0.01)
    return []
