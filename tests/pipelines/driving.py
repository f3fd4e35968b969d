"""Pipelines run as a user runs them, and the processes that they have started."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from farabio_like.pipelines.record import Record

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def command(*arguments):
    return [sys.executable, "-m", "farabio_like", "dag", *map(str, arguments)]


def dag(*arguments, code=0):
    """Run a command to its end and return what it printed."""
    done = subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def background(*arguments):
    return subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.PIPE, text=True)


def until(condition, what="what was waited for"):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)
    return found


def states(name):
    return {job: state for job, (state, _) in Record.find(Path("dags"), name).states().items()}


def starts(name):
    return {job: history.starts for job, (_, history) in Record.find(Path("dags"), name).states().items()}


def result(name, job):
    record = Record.find(Path("dags"), name)
    return json.loads((record.job_folder(record.plan()["jobs"][job]) / "result.json").read_text())


def of_tasks(folder):
    """Return the processes that tasks below a folder have started."""
    wanted = f"FARABIO_TASK_FOLDER={Path(folder).resolve()}/".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            is_zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if any(variable.startswith(wanted) for variable in variables) and not is_zombie:
            found.append(int(entry.name))
    return found


def keepers(folder):
    """Return the processes around the tasks of the pipelines below a folder."""
    found = []
    for path in Path(folder).rglob("events.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            line = line.strip(b"\0")
            if line.startswith(b'{"event": "start"') and line.endswith(b"}"):
                found.append(json.loads(line)["pid"])
    return [pid for pid in found if Path(f"/proc/{pid}").exists() and b"keeper" in read_bytes(f"/proc/{pid}/cmdline")]


def read_bytes(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def nothing_runs(folder="."):
    until(lambda: not of_tasks(folder) and not keepers(folder), "the end of all processes")


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


def write(text, name="p.yml"):
    Path(name).write_text(text)
    return name
