"""Every test runs in an empty folder of its own, and fails when it leaves anything behind."""

import concurrent.futures
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PATIENCE = 5  # seconds for what is ending already: a queue's feeder thread, a worker

opened = None  # paths opened for writing while a test runs


def note_opened(event, arguments):
    if opened is not None and event == "open" and isinstance(arguments[0], (str, bytes)):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            opened.add(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(note_opened)  # there is no way to take it away again
torch.set_num_threads(1)
torch.compile(torch.nn.Identity())  # the first optimizer imports the compiler too, which sets a variable


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path):
    """Run the test in `tmp_path`; afterwards everything is as it was."""
    global opened
    folder = Path.cwd()
    os.chdir(tmp_path)
    torch.manual_seed(0)
    before, threads, children = state(), set(threading.enumerate()), child_processes()
    opened = set()
    yield
    written, opened = opened, None
    os.chdir(folder)
    after = state()
    changed = {name for name in {**before, **after} if before.get(name) != after.get(name)}
    assert not changed, [f"{name}: {before.get(name)} became {after.get(name)}" for name in sorted(changed)]
    outside = [path for path in sorted(written) if is_left_file(Path(path)) and not within(path, tmp_path)]
    assert not outside, f"the test wrote outside its folder: {outside}"
    assert not (left := remaining(lambda: set(threading.enumerate()) - threads)), f"threads left: {left}"
    assert not (left := remaining(lambda: child_processes() - children)), f"processes left: {left}"


def state():
    """Return what a test may not change, by name."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    return {
        **{f"variable {name}": value for name, value in variables.items()},
        # Without SIGCHLD: the first DataLoader worker of a process makes torch install a handler for good.
        # Without SIGALRM: it belongs to pytest-timeout.
        **{f"handler of {number.name}": signal.getsignal(number) for number in handled},
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads of torch": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "files of the project": sorted(name for name in os.listdir(ROOT) if name[0] not in "._"),
    }


def within(path, folder):
    return Path(path).resolve().is_relative_to(folder.resolve())


def is_left_file(path):
    # Byte code and matplotlib's list of fonts are caches that any first import writes.
    return path.is_file() and not {"__pycache__", "matplotlib"} & set(path.parts)


def child_processes():
    """Return the ids of the child processes, the one aside that multiprocessing keeps until the end."""
    multiprocessing.active_children()  # joins those that have ended
    listed = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
    if not listed.exists():
        return {process.pid for process in multiprocessing.active_children()}
    tracker = getattr(multiprocessing.resource_tracker._resource_tracker, "_pid", None)
    return {int(number) for number in listed.read_text().split()} - {tracker}


def remaining(find):
    """Return what `find` still finds after some patience."""
    end = time.monotonic() + PATIENCE
    if found := find():
        gc.collect()  # the traceback of an expected exception holds the frames that hold a loader's workers
    while found and time.monotonic() < end:
        time.sleep(0.01)
        found = find()
    return found


@pytest.fixture
def python(tmp_path):
    """Return a function that runs a script in a Python of its own and returns what it printed."""

    def run(script, *arguments, folder=tmp_path, timeout=120, **environment):
        path = folder / "script.py"
        path.write_text(script)
        done = subprocess.run(
            [sys.executable, path, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def in_child():
    """Return a function that calls another one in a forked process, for limits that stay with a process."""

    def call(function, *arguments):
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            return pool.submit(function, *arguments).result(timeout=60)

    return call
