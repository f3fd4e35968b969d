"""The driver of a run: it starts what can start, hears what ends, and says so.

How a task runs is in `keeper`, what is known of it in `record`; nothing is remembered here that those do not know, so a
driver may be killed at any time.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import marshal
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, printable
from . import grid, kinds, life, page, results
from .dagfile import Dag, Job
from .devices import DevicePool, Share
from .record import EVENTS, LOG, PAGE, History, Record, append_event, hold_job, read_history

GRACE = 10.0  # seconds from the request to end to the kill
PATIENCE = 5.0  # seconds more, for a supervisor that does not answer
LOOK = 0.2  # seconds between looks at the logs
ASK_AGAIN = 0.5  # seconds between tries for a job that somebody else runs
LAST_LINES = 10
LONGEST_PAUSE = 60.0  # seconds before a task is tried again
# As a module, so that its byte code is kept; last in the path, where it hides none of the standard library.
_KEEPER = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import keeper; keeper.main()"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Running:
    """A job that runs."""

    job: Job
    process: subprocess.Popen[bytes]
    share: Share
    folder: Path
    log_at: int  # up to where its log is on the terminal
    log_begins: int
    number: int  # of this start, among all of this job
    asked_at: float | None = None
    tail: bytes = b""


@dataclass
class Driver:
    """Runs the jobs of a pipeline that have not succeeded yet.

    Parameters
    ----------
    record : Record
        Held by this process.
    dag : Dag
    pool : DevicePool
    made_of : mapping of str to dict
        What each job is made of, as `changes.made_of` says it; stored with its start.
    fail_fast : bool
        Whether the first failure stops everything.
    say : callable
        Takes a line for the terminal.
    """

    record: Record
    dag: Dag
    pool: DevicePool
    made_of: Mapping[str, Mapping[str, Any]]
    fail_fast: bool = False
    say: Callable[[str], None] = print
    states: dict[str, str] = field(default_factory=dict)
    running: dict[int, Running] = field(default_factory=dict)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.order = {name: number for number, name in enumerate(self.dag.jobs)}
        self.ready: list[int] = []  # numbers of jobs, the earliest first
        self.later: list[tuple[float, str]] = []  # what is tried again, and when
        self.open: dict[str, int] = {}  # how many of its needs have not succeeded
        self.wanted_by: dict[str, list[str]] = {name: [] for name in self.dag.jobs}
        self.tries: dict[str, int] = {}
        self.waited_for: set[str] = set()
        self.outcomes: dict[str, Any] = {}
        self.names = list(self.dag.jobs)
        self.page_at = 0.0
        self.killed_by = 0

    def run(self) -> dict[str, str]:
        """Run until nothing can be started any more, and return the states."""
        with self._signals():
            self._prepare()
            while self.running or ((self.ready or self.later) and not self.stopped):
                self._start_ready()
                self._wait()
                self._forward()
                self._settle()
                self._draw()
        self._draw(last=True)
        return self.states

    def _prepare(self) -> None:
        for name, job in self.dag.jobs.items():
            for need in job.needs:
                self.wanted_by[need].append(name)
            self.open[name] = sum(self.states[need] != "Success" for need in job.needs)
            history = read_history(self._folder(job))
            self.states[name] = "Success" if history.end and history.end["event"] == "Success" else "NotRan"
            if self.states[name] != "Success" and not self.open[name]:
                heapq.heappush(self.ready, self.order[name])
                self.states[name] = "Queued"

    def _folder(self, job: Job) -> Path:
        return self.record.folder(job.task.name, grid.name(job.cell))

    def _start_ready(self) -> None:
        """Start the jobs for which there is room, in the order of the file.

        One that has no room keeps what is free from those behind it that ask for the same: else a task of four GPUs
        would wait for ever behind those of one.
        """
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            heapq.heappush(self.ready, self.order[heapq.heappop(self.later)[1]])
        waiting: list[int] = []
        short: set[str] = set()
        while self.ready and not self.stopped:
            number = heapq.heappop(self.ready)
            task = self.dag.jobs[self.names[number]].task
            asks = {key for key, many in (("gpu", task.gpu[0]), ("cpu", task.cpu), ("memory", task.memory)) if many}
            share = None if asks & short else self.pool.take(task)
            if share is None:
                waiting.append(number)
                short |= self.pool.lacks(task)
                if "cpu" in short:
                    break  # every task asks for one
                continue
            if not self._start(self.dag.jobs[self.names[number]], share):
                self.pool.give_back(share)
        for number in waiting:
            heapq.heappush(self.ready, number)

    def _start(self, job: Job, share: Share) -> bool:
        """Start a job; return whether it runs now."""
        folder = self._folder(job)
        try:
            lock = hold_job(folder)
            if lock is None:
                history = read_history(folder)
                if history.end is None and history.is_alive is False:
                    # Killed together with its driver: what they have left has the lock, and nobody to wait for it.
                    life.end_processes(lambda: life.processes_of(str(folder)))
                self._wait_for(job, history)
                return False
            try:
                return self._start_held(job, share, folder, lock)
            finally:
                os.close(lock)  # its processes have it by now
        except (OSError, ConfigError) as error:
            said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            self._fail(job, f"it cannot be started: {said}", folder)
            return False

    def _start_held(self, job: Job, share: Share, folder: Path, lock: int) -> bool:
        history = read_history(folder)
        if history.end is not None and history.end["event"] == "Success":
            self._succeed(job, folder)  # by the one that was waited for
            return False
        if history.start is not None and history.end is None:
            left = life.end_processes(lambda: life.processes_of(str(folder)))
            if left:
                raise ConfigError(f"processes of its last start cannot be ended: {left}")
        context = kinds.Context(self.dag, folder, history.number, self._results(job), self._run_for(job), share)
        start: dict[str, Any] = {"event": "start", "machine": life.machine(), "boot": life.boot(), "gpus": share.gpus}
        start |= {"cpus": share.cpus, "made_of": self.made_of.get(job.name, {})}
        spec = {
            "commands": kinds.commands(job, context),
            "environment": kinds.environment(job, context),
            "folder": str(self.dag.folder),
            "events": str(folder / EVENTS),
            "start": json.dumps(start)[:-1],
            "grace": GRACE,
            "timeout": job.task.timeout,
        }
        with open(folder / LOG, "ab") as log:
            if history.starts:
                log.write(f"--- start {history.starts + 1}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            log_at = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _KEEPER],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
            )
        data = marshal.dumps(spec)
        _tell(process, len(data).to_bytes(8, "big") + data)
        self.running[process.pid] = Running(job, process, share, folder, log_at, log_at, history.starts + 1)
        self.states[job.name] = "InProgress"
        on = f" on GPU {', '.join(share.gpus)}" if share.gpus else ""
        self.say(f"{job.name}: started{on}")
        return True

    def _wait_for(self, job: Job, history: History) -> None:
        """Try again later: somebody runs this job."""
        if job.name not in self.waited_for:
            who = (history.start or {}).get("pid", "?")
            self.say(f"{job.name}: still runs, started by an earlier driver (process {who}); waiting for it")
            self.waited_for.add(job.name)
        heapq.heappush(self.later, (time.monotonic() + ASK_AGAIN, job.name))

    def _results(self, job: Job) -> dict[str, Any]:
        """Return what the tasks that a job depends on have given, of one with a grid by the names of its cells."""
        found: dict[str, Any] = {}
        for need in job.needs:
            other = self.dag.jobs[need]
            value = self._outcome(other)
            if len(other.task.cells) == 1:
                found[other.task.name] = value
            else:
                own = {key: part for key, part in other.cell.items() if key in other.task.own_keys}
                found.setdefault(other.task.name, {})[grid.name(own)] = value
        return found

    def _outcome(self, job: Job) -> Any:
        if job.name not in self.outcomes:
            # No circle: what a job of type valid or infer is about has succeeded before it.
            run = self._run_for(job)
            self.outcomes[job.name] = results.of(self._folder(job), job.task.type, run)
        return self.outcomes[job.name]

    def _run_for(self, job: Job) -> str | None:
        """Return the run folder that a job is about: of a train task with a grid the best cell's."""
        if job.task.type not in ("valid", "infer"):
            return None
        name = kinds.run_task(job, self.dag)
        if name is None:
            return str(self.dag.folder / job.task.details["run"])
        outer = {key: value for key, value in job.cell.items() if key not in job.task.own_keys}
        cells = [
            each for each in self.dag.jobs.values() if each.task.name == name and outer.items() <= each.cell.items()
        ]
        return results.best_run({each.name: self._outcome(each) for each in cells})

    def _wait(self) -> None:
        """Wait until a supervisor ends, a signal comes, or it is time to look."""
        until = [LOOK] if self.running else []
        if self.later:
            until.append(max(self.later[0][0] - time.monotonic(), 0))
        if self.ready and not self.running and not self.later:
            return
        ready, _, _ = select.select([self.wake], [], [], min(until, default=0))
        if ready:
            os.read(self.wake, 4096)
        for each in self.running.values():
            if self.stopped and each.asked_at is None:
                each.asked_at = time.monotonic()
                _tell(each.process, b"s")

    def _forward(self) -> None:
        for each in self.running.values():
            self._forward_log(each)

    def _forward_log(self, each: Running, last: bool = False) -> None:
        """Put the new lines of a log on the terminal, with the job's name."""
        try:
            with open(each.folder / LOG, "rb") as log:
                log.seek(each.log_at)
                new = log.read()
        except OSError:
            return
        each.log_at += len(new)
        *lines, each.tail = (each.tail + new).split(b"\n")
        lines += [each.tail] if last and each.tail else []
        for line in lines:
            # A bar rewrites its line: what it showed last is the line.
            text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode(errors="replace")
            self.say(f"{each.job.name} | {text}")

    def _settle(self) -> None:
        for pid, each in list(self.running.items()):
            if each.process.poll() is None:
                late = each.asked_at is not None and time.monotonic() - each.asked_at > GRACE + PATIENCE
                if not late:
                    continue
                each.process.kill()  # a supervisor that was paused, say; its task dies with it
                each.process.wait()
            del self.running[pid]
            with contextlib.suppress(OSError):
                each.process.stdin.close()  # type: ignore[union-attr]
            self._forward_log(each, last=True)
            self.pool.give_back(each.share)
            self._settle_one(each)

    def _settle_one(self, each: Running) -> None:
        history = read_history(each.folder)
        has_begun = history.starts >= each.number
        if not has_begun or history.end is None:
            # Nothing runs any more when this returns, also where the supervisor was killed.
            life.end_processes(lambda: life.processes_of(str(each.folder)))
            why = _how_it_ended(each.process.returncode, has_begun, each.folder)
            history.end = {"event": "Stopped" if self.stopped else "Failed", "code": None, "why": why}
            with contextlib.suppress(OSError):  # without the line it is not alive, so it is Stopped
                if has_begun:
                    append_event(each.folder, history.end)
        state = history.end["event"]
        if state == "Success":
            self._succeed(each.job, each.folder, history)
        elif state == "Stopped":
            self.states[each.job.name] = "Stopped"
            self.say(f"{each.job.name}: Stopped, {history.end['why']}")
        else:
            self._fail(
                each.job, _said(history.end), each.folder, history, last_lines(each.folder / LOG, each.log_begins)
            )

    def _succeed(self, job: Job, folder: Path, history: History | None = None) -> None:
        self.states[job.name] = "Success"
        took = f" in {history.seconds:.1f} s" if history is not None and history.seconds is not None else ""
        metric = results.metric_text(self._outcome(job)) if job.task.type in ("train", "valid") else ""
        self.say(f"{job.name}: Success{took}{metric}")
        for other in self.wanted_by[job.name]:
            self.open[other] -= 1
            if not self.open[other] and self.states[other] == "NotRan":
                self.states[other] = "Queued"
                heapq.heappush(self.ready, self.order[other])

    def _fail(self, job: Job, why: str, folder: Path, history: History | None = None, last: Sequence[str] = ()) -> None:
        """Say that a job has failed, with its last lines; try again where it may, else skip what depends on it."""
        took = f" after {history.seconds:.1f} s" if history is not None and history.seconds is not None else ""
        tries = self.tries[job.name] = self.tries.get(job.name, 0) + 1
        again = tries <= job.task.retries and history is not None and not self.stopped
        lines = [f"{job.name}: Failed{took}, {why}", *(f"    {line}" for line in last)]
        if again:
            pause = min(2.0 ** (tries - 2), LONGEST_PAUSE)
            lines.append(f"{job.name}: once more in {pause:g} s ({tries} of {job.task.retries} retries)")
            heapq.heappush(self.later, (time.monotonic() + pause, job.name))
            self.states[job.name] = "Queued"
            with contextlib.suppress(OSError):
                append_event(folder, {"event": "retry"})
        else:
            self.states[job.name] = "Failed"
        for line in lines:
            self.say(line)
        if not again:
            self._skip(job.name)
            if self.fail_fast and not self.stopped:
                self.say("the rest is stopped: --fail-fast")
                self.stopped = True

    def _skip(self, name: str) -> None:
        left = [name]
        while left:
            for other in self.wanted_by[left.pop()]:
                if self.states[other] == "NotRan":
                    self.states[other] = "Skipped"
                    self.say(f"{other}: Skipped, {name} has failed")
                    left.append(other)

    def _draw(self, last: bool = False) -> None:
        """Keep the page of this run up to date, where somebody has asked for one."""
        now = time.monotonic()
        if (now < self.page_at and not last) or not (self.record.path / PAGE).exists():
            return
        with contextlib.suppress(OSError):
            page.write(self.record, live=not last)
        # A page of many jobs takes its time: at most a twentieth of it all.
        self.page_at = time.monotonic() + max(page.SECONDS, 20 * (time.monotonic() - now))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Make a signal a request to stop, and a second one a request to stop at once."""
        self.wake, wake = os.pipe()
        for end in (self.wake, wake):
            os.set_blocking(end, False)
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        old = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)
            for end in (self.wake, wake):
                os.close(end)

    def _on_signal(self, number: int, _: Any) -> None:
        if self.killed_by:
            for each in self.running.values():
                _tell(each.process, b"k")
        self.killed_by = self.killed_by or number
        self.stopped = True


def last_lines(log: Path, begin: int) -> list[str]:
    """Return the last lines of a log, none of those before a place in it."""
    try:
        with open(log, "rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - 10_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [printable(line, "\t") for line in text.splitlines()[-LAST_LINES:]]


def _said(end: Mapping[str, Any]) -> str:
    """Return why a job has failed."""
    if end.get("why"):
        return str(end["why"])
    code = end.get("code")
    if isinstance(code, int) and code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _how_it_ended(code: int, has_begun: bool, folder: Path) -> str:
    if code < 0:
        return f"its supervisor was killed by signal {-code}"
    return (
        f"its supervisor failed with {code}" if has_begun else f"its start cannot be written in {folder}: a full disk?"
    )


def _tell(process: subprocess.Popen[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError):  # it has ended
        process.stdin.write(data)  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
