"""The folder of a pipeline's run: what was planned, and what is known of every job, on disk and durable.

A state is never stored, but follows from the lines of a job's events and from what is alive; so nothing has to be
repaired after a kill. Which job runs next is decided in `driver`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigError, closest
from . import life

STATES = ("NotRan", "Queued", "InProgress", "Failed", "Stopped", "Skipped", "Success")
ENDS = ("Success", "Failed", "Stopped")

PLAN, EVENTS, LOG, LOCK, RESULT, PAGE, TASKS = (
    "plan.json",
    "events.jsonl",
    "log.txt",
    ".lock",
    "result.json",
    "page.html",
    "tasks",
)
LONGEST_NAME = 120  # characters of a folder


@dataclass
class History:
    """What is known of one job.

    Attributes
    ----------
    starts : int
        How often it has been started in all.
    number : int
        One more than how often it was asked to be run anew.
    start, end : dict or None
        The last start, and how it went; `end` is None while it runs, or when that is not known.
    """

    starts: int = 0
    number: int = 1
    start: dict[str, Any] | None = None
    end: dict[str, Any] | None = None

    @property
    def is_alive(self) -> bool | None:
        """Whether the process that runs it lives; None where it is another machine's."""
        return self.start is not None and self.end is None and life.is_alive(self.start)

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has been running."""
        if self.start is None:
            return None
        end = self.end.get("time") if self.end is not None else time.time() if self.is_alive else None
        begin = self.start.get("time")
        return end - begin if isinstance(end, (int, float)) and isinstance(begin, (int, float)) else None


@dataclass
class Record:
    """The folder of one run, ``<dags>/<info.name>/<number>``."""

    path: Path
    _lock: IO[str] | None = field(default=None, repr=False)

    @classmethod
    def new(cls, dags: Path, name: str) -> Record:
        """Make the folder of the next run of a pipeline."""
        parent = dags / name
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = max((int(each.name) for each in parent.iterdir() if each.name.isdecimal()), default=0)
            while True:
                number += 1
                with contextlib.suppress(FileExistsError):  # another driver has taken the number
                    (parent / str(number)).mkdir()
                    return cls((parent / str(number)).resolve())
        except OSError as error:
            raise ConfigError(f"the folder {parent} cannot be written: {error.strerror or error}.") from None

    @classmethod
    def find(cls, dags: Path, run: str) -> Record:
        """Return a run by ``<name>/<number>``, by a name alone (its newest run), or by its folder."""
        for folder in (dags / run, Path(run)):
            if (folder / PLAN).is_file():
                return cls(folder.resolve())
            numbers = [int(each.name) for each in folder.glob("*") if each.name.isdecimal()]
            numbers = [number for number in numbers if (folder / str(number) / PLAN).is_file()]
            if numbers:
                return cls((folder / str(max(numbers))).resolve())
        there = [each.name for each in cls.all(dags)]
        said = f" There are: {', '.join(there)}." if there else ""
        raise ConfigError(f"there is no run '{run}' in {dags}.{closest(run, there)}{said}")

    @classmethod
    def all(cls, dags: Path) -> list[Record]:
        """Return all runs, by name and number."""
        plans = [path.parent for path in dags.glob(f"*/*/{PLAN}") if path.parent.name.isdecimal()]
        return [cls(path.resolve()) for path in sorted(plans, key=lambda each: (each.parent.name, int(each.name)))]

    @property
    def name(self) -> str:
        """The name of the run, ``<info.name>/<number>``."""
        return f"{self.path.parent.name}/{self.path.name}"

    def hold(self) -> None:
        """Be the one driver of this run, until `release` or the end of this process.

        Raises
        ------
        ConfigError
            If another process is; it is named.
        """
        lock = open(self.path / LOCK, "a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            who = self.driver() or {}
            raise ConfigError(
                f"the run {self.name} is being driven by another process (number {who.get('pid', '?')} on "
                f"{who.get('machine', '?')}). Wait until it has ended, or stop it: farabio-like dag stop {self.name}"
            ) from None
        lock.truncate(0)
        lock.write(json.dumps({**life.identity(), "time": time.time()}))
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Let another process drive this run. The file stays: a lock is the kernel's, not the file."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                lock.truncate(0)
            lock.close()

    def driver(self) -> dict[str, Any] | None:
        """Return what names the living driver of this run, None where there is none."""
        with contextlib.suppress(OSError, ValueError):
            who = json.loads((self.path / LOCK).read_text(encoding="utf-8"))
            if isinstance(who, dict) and life.is_alive(who) is not False:
                return who
        return None

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write what this run is of: the file, the jobs, and what each depends on."""
        write_durably(self.path / PLAN, json.dumps(plan, indent=1))

    def plan(self) -> dict[str, Any]:
        """Return what was planned."""
        try:
            plan = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
            if isinstance(plan, dict) and isinstance(plan.get("jobs"), dict):
                return plan
            said = "it has no jobs"
        except (OSError, ValueError) as error:
            said = str(error)
        raise ConfigError(f"{self.path / PLAN} cannot be read: {said}.")

    def folder(self, task: str, cell: str) -> Path:
        """Return the folder of a task in a cell, by the cell's name; it is made with the first start."""
        return self.path / TASKS / task / slug(cell) if cell else self.path / TASKS / task

    def job_folder(self, planned: Mapping[str, Any]) -> Path:
        """Return the folder of a job of the plan."""
        return self.folder(planned["task"], planned["cell_name"])

    def states(self, plan: Mapping[str, Any] | None = None) -> dict[str, tuple[str, History]]:
        """Return state and history of every job of the plan, in its order."""
        jobs = (plan or self.plan())["jobs"]
        driver = self.driver()
        since = driver.get("time", 0.0) if driver is not None else None
        found: dict[str, tuple[str, History]] = {}
        for name, planned in jobs.items():
            history = read_history(self.job_folder(planned))
            needs = [found[need][0] for need in planned["needs"] if need in found]
            found[name] = (state_of(history, needs, since), history)
        return found


def state_of(history: History, needs: Iterable[str], since: float | None) -> str:
    """Return the state of a job.

    Parameters
    ----------
    history : History
    needs : iterable of str
        The states of the jobs that it depends on.
    since : float or None
        When the living driver has begun; what had failed before is going to run again.
    """
    if history.end is not None:
        state = str(history.end["event"])
        if state == "Success" or since is None or history.end.get("time", 0) >= since:
            return state
    elif history.start is not None:
        return "Stopped" if history.is_alive is False else "InProgress"
    needs = list(needs)
    if any(state in ("Failed", "Skipped") for state in needs):
        return "Skipped"
    return "Queued" if since is not None and all(state == "Success" for state in needs) else "NotRan"


def read_history(folder: Path) -> History:
    """Return what the events in a job's folder say; lines that were cut off by a kill say nothing."""
    history = History()
    try:
        text = (folder / EVENTS).read_bytes()
    except OSError:
        return history
    for line in text.split(b"\n"):
        try:
            event = json.loads(line.strip(b"\0 "))
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            continue
        if kind == "start":
            history.starts += 1
            history.start, history.end = event, None
        elif kind in ENDS and history.start is not None:
            history.end = event
        elif kind in ("again", "retry"):
            history.start = history.end = None
            history.number += kind == "again"
    return history


def append_event(folder: Path, event: Mapping[str, Any]) -> None:
    """Add a line to the events of a job that nobody runs, durably."""
    with open(folder / EVENTS, "r+b") as file:
        content = file.read().rstrip(b"\0")
        line = json.dumps({**event, "time": round(time.time(), 3)}).encode() + b"\n"
        cut = b"\n" if content and not content.endswith(b"\n") else b""
        file.seek(len(content))
        file.write(cut + line)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def hold_job(folder: Path) -> int | None:
    """Return a descriptor with the lock of a job, None where somebody runs it.

    Who has the descriptor, or a copy of it, has the lock: the processes of the task do, up to their death.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def write_durably(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, also after the power has gone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def slug(cell: str) -> str:
    """Return a cell's name as that of a folder; two cells never share one."""
    plain = cell.replace(" ", ",")
    name = re.sub(r"[^\w.=,+-]", "_", plain, flags=re.ASCII)[:LONGEST_NAME].lstrip(".")
    return (
        name
        if name == plain and "," not in cell
        else f"{name}.{hashlib.sha256(cell.encode(errors='replace')).hexdigest()[:8]}"
    )
