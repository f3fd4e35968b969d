"""Opening files that may be a stranger's: regular ones, inside of their folder, no longer than a reader has room for.

Who reads what is in them checks that; nothing is written here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LONGEST_LINE = 1 << 23  # bytes of a line of JSON, and of a whole file of it
MOST_READ = 1 << 32  # bytes of a file of lines


def leads_out(path: Path, folder: Path) -> bool:
    """Return whether a path is a link, or goes through one, that leads out of a folder."""
    try:
        return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except ValueError:  # no system has a file of this name
        return True


def problem_of(path: Path, folder: Path) -> str | None:
    """Return why a file of a folder is not opened, None where it can be, and where it is not there."""
    if leads_out(path, folder):
        return "it is a link that leads out of the folder, and is not followed"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "it is a link to nothing" if path.is_symlink() else None
    except OSError as error:
        return error.strerror or str(error)
    return None if stat.S_ISREG(mode) else "it is no regular file"


def open_inside(path: Path, folder: Path) -> IO[bytes]:
    """Open a file of a folder for reading; never wait for one that is a pipe or a device.

    Raises
    ------
    OSError
        Where it is not there, cannot be read, is no regular file, or a link that leads out of the folder.
    """
    if leads_out(path, folder):
        raise OSError(errno.ELOOP, "it is a link that leads out of the folder, and is not followed", str(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(descriptor, "rb")


def read_text(path: Path, folder: Path, most: int) -> str:
    """Return the first so many bytes of a file of a folder as text; see `open_inside` for what it raises."""
    with open_inside(path, folder) as file:
        return file.read(most).decode("utf-8", errors="replace")


def parsed(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises
    ------
    ValueError
        Saying what is wrong with the text.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        said = str(error) if isinstance(error, json.JSONDecodeError) else "it has a number or a character that is none"
        raise ValueError(f"it is no JSON: {said}") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__}, not an object")
    return found


def read_object(path: Path, folder: Path) -> dict[str, Any]:
    """Return the JSON object that a file of a folder holds.

    Raises
    ------
    OSError, ValueError
        As in `open_inside` and `parsed`; for a file of more than `LONGEST_LINE` bytes.
    """
    with open_inside(path, folder) as file:
        text = file.read(LONGEST_LINE + 1)
    if len(text) > LONGEST_LINE:
        raise ValueError(f"it has more than {LONGEST_LINE} bytes")
    return parsed(text)


def lines(path: Path, folder: Path, problems: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of the lines of a file of a folder that are JSON objects; none of one that is not there.

    Parameters
    ----------
    path, folder : Path
    problems : list of str, optional
        Gets what is left out. A last line that a killed process has left unfinished is none.

    Raises
    ------
    OSError
        As in `open_inside`, except for a file that is not there.
    """
    problems = [] if problems is None else problems
    with contextlib.suppress(FileNotFoundError), open_inside(path, folder) as file:
        number = done = 0
        while done < MOST_READ and (line := file.readline(LONGEST_LINE)):
            number += 1
            done += len(line)
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                problems.append(f"line {number}: it has more than {LONGEST_LINE} bytes")
                while done < MOST_READ and (rest := file.readline(1 << 20)):
                    done += len(rest)
                    if rest.endswith(b"\n"):
                        break
                continue
            if not line.strip():
                continue
            try:
                yield number, parsed(line)
            except ValueError as error:
                if line.endswith(b"\n"):
                    problems.append(f"line {number}: {error}")
        if done >= MOST_READ:
            problems.append(f"after line {number}: it has more than {MOST_READ} bytes")
