"""The process that runs one task: it starts the commands, ends what they leave, and writes down how it went.

It is run in a Python without site-packages, as a module of its own: it imports nothing of this package, and little
else, since every task pays for its start. It is the parent of everything that a task starts, dies with nothing of it
alive, and ends the task when the driver has died, which is when its standard input ends. Which tasks run, and when, is
decided in `driver`.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # the part in C of signal, without its enumerations
import ctypes
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False  # as that of typing, whose import takes as long as all others
if TYPE_CHECKING:
    from typing import Any

STDIN, LOG = 0, 2
MOST_OF_AN_END = 1024  # bytes, reserved beforehand: how a task went can be written down on a full disk too
PATIENCE = 2.0  # seconds for what the main process of a task has left behind
WRITE_AGAIN = 1.0  # seconds
SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)


class Keeper:
    """Runs the commands of a task one after another.

    Parameters
    ----------
    spec : dict
        ``commands`` (lists of arguments), ``folder``, ``environment``, ``events`` (a path), ``start`` (the line of
        the start without its closing brace), ``grace`` and ``timeout`` (seconds). The log is the standard error.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.main = 0  # the process of the command under way
        self.code: int | None = None
        self.asked = ""  # why the task is to end
        self.kill_at = float("inf")
        timeout = spec["timeout"]
        self.deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        self.driver_is_there = True
        self.wake, wake = os.pipe()
        for end in (self.wake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.ask("its supervisor was told to end"))
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Run the commands, and write down the start and the end."""
        self.events = os.open(self.spec["events"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.write_start()
        state = "Success"
        for command in self.spec["commands"]:
            state = self.run_one(command)
            if state != "Success":
                break
        self.write_end(state)

    def run_one(self, command: list[str]) -> str:
        """Run a command to its end and return the state."""
        self.look(0)
        self.main, self.code = 0, None
        if not self.asked:
            self.main = start(command, self.spec)
        while self.main and self.code is None:
            now = time.monotonic()
            if now >= self.deadline:
                self.deadline = float("inf")
                self.ask("it took longer than its timeout", "Failed")
            if now >= self.kill_at:
                self.kill()
            self.look(min(self.deadline, self.kill_at) - now)
        if self.main:
            self.sweep()
        if self.code == 0:
            return "Success"  # also of a task that was asked to end and had done its work by then
        return self.state_when_asked if self.asked else "Failed"

    def look(self, seconds: float) -> None:
        """Wait for the end of a process, a word of the driver, or the time."""
        inputs = [self.wake, *([STDIN] if self.driver_is_there else [])]
        ready, _, _ = select.select(inputs, [], [], None if seconds == float("inf") else max(seconds, 0))
        if self.wake in ready:
            os.read(self.wake, 4096)
        if STDIN in ready:
            said = os.read(STDIN, 64)
            if not said:
                self.driver_is_there = False
                self.ask("its driver had ended")
            elif b"k" in said or self.asked:
                self.ask("it was stopped")
                self.kill_at = 0
            else:
                self.ask("it was stopped")
        self.reap()

    def reap(self) -> bool:
        """Collect the processes that have ended; return whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self.main:
                self.code = os.waitstatus_to_exitcode(status)

    def ask(self, why: str, state: str = "Stopped") -> None:
        """Ask the task to end; it is killed when it has not after the grace."""
        if self.asked:
            return
        self.asked, self.state_when_asked = why, state
        self.kill_at = time.monotonic() + self.spec["grace"]
        if self.main and self.code is None:
            # The main process alone: one that trains needs its loader's workers for the step under way.
            for number in (signal.SIGTERM, signal.SIGCONT):
                send(os.kill, self.main, number)

    def kill(self) -> None:
        """Kill everything that the task has started."""
        send(os.killpg, self.main, signal.SIGKILL)
        for pid in children():
            send(os.kill, pid, signal.SIGKILL)

    def sweep(self) -> None:
        """End what the main process has left: its children are this process's children by now."""
        if not self.reap():
            return
        send(os.killpg, self.main, signal.SIGTERM)
        for pid in children():
            send(os.kill, pid, signal.SIGTERM)
        end = time.monotonic() + (0 if self.kill_at == 0 else PATIENCE)
        while self.reap():
            if time.monotonic() >= end:
                self.kill()
            select.select([self.wake], [], [], 0.02)
            drain(self.wake)

    def write_start(self) -> None:
        """Write the line of the start, and make room for that of the end."""
        line = f'{self.spec["start"]}, "pid": {os.getpid()}, "ticks": {ticks()}, "time": {time.time():.3f}}}\n'
        self.end_at = os.lseek(self.events, 0, os.SEEK_END)
        content = os.pread(self.events, self.end_at, 0).rstrip(b"\0")
        cut = b"\n" if content and not content.endswith(b"\n") else b""
        self.end_at = len(content) + os.pwrite(self.events, cut + line.encode(), len(content))
        os.ftruncate(self.events, self.end_at)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.events, self.end_at, MOST_OF_AN_END)
        os.fsync(self.events)

    def write_end(self, state: str) -> None:
        """Write the line of the end; on an error, again and again while the driver is there."""
        why = self.asked if state != "Success" else ""
        code = self.code if self.code is not None else "null"
        line = f'{{"event": "{state}", "code": {code}, "why": "{why}", "time": {time.time():.3f}}}\n'.encode()
        last = time.monotonic() + self.spec["grace"]
        said = False
        while True:
            try:
                os.pwrite(self.events, line, self.end_at)
                os.ftruncate(self.events, self.end_at + len(line))
                os.fsync(self.events)
                return
            except OSError as error:
                if not said:
                    print(f"cannot write {self.spec['events']}: {error.strerror}; trying again", file=sys.stderr)
                said = True
                if not self.driver_is_there and time.monotonic() > last:
                    raise
                time.sleep(WRITE_AGAIN)
                if self.driver_is_there:
                    self.look(0)


def start(command: list[str], spec: dict[str, Any]) -> int:
    """Start a command in a session of its own, and return its process."""
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)  # it has died meanwhile
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), STDIN)
        os.dup2(LOG, 1)
        os.chdir(spec["folder"])
        os.execvpe(command[0], command, spec["environment"])
    except BaseException as error:
        os.write(LOG, f"{command[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def prctl(option: int, value: int) -> None:
    """Call prctl(2), where there is one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def send(function: Any, pid: int, number: int) -> None:
    """Send a signal to a process or group that may be gone."""
    try:
        function(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def children() -> list[int]:
    """Return the children of this process."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(number) for number in file.read().split()]
    except OSError:
        return []


def ticks() -> int | str:
    """Return when this process has started, in ticks since the machine has; with its number, it is named for good."""
    try:
        with open("/proc/self/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return "null"


def drain(descriptor: int) -> None:
    """Read what a pipe has."""
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass


def read_exactly(count: int) -> bytes:
    """Read from the standard input; at its end there is no task to run."""
    data = b""
    while len(data) < count:
        more = os.read(STDIN, count - len(data))
        if not more:
            sys.exit(0)
        data += more
    return data


def main() -> None:
    """Run the task that the standard input says."""
    prctl(SET_CHILD_SUBREAPER, 1)
    Keeper(marshal.loads(read_exactly(int.from_bytes(read_exactly(8), "big")))).run()
