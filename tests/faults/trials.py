"""Faults that really happen to real processes: each trial raises an AssertionError where something was lost.

The tests make a few trials of each, ``torture.py`` makes hundreds.
"""

import contextlib
import multiprocessing
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from farabio_like import Callback, CheckpointError, ConvnetTrainer, DataError, checkpoint

from ..resume.test_resume import BATCHES, EPOCHS, Augmented, Whole
from ..trainers import INPUTS, TARGETS

PATIENCE = 120  # seconds without a step, or without an end after the last one
FORK = multiprocessing.get_context("fork")  # importing torch anew for every process takes seconds


class Announce(Callback):
    """Writes the number of a step into a pipe when its batch begins: the step before is complete, and saved."""

    order = 1000

    def __init__(self, pipe):
        self.pipe = pipe

    def on_start_training_batch(self, trainer):
        os.write(self.pipe, trainer.step.to_bytes(4, "little"))


def seed():
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)  # Python seeds it anew in a forked process


class Process:
    """A forked process that trains, and what it has announced."""

    def __init__(self, kind, settings, folder):
        self.reading, writing = os.pipe()
        self.process = FORK.Process(target=self.run, args=(kind, settings, folder, writing))
        self.process.start()
        os.close(writing)
        self.step = 0

    @staticmethod
    def run(kind, settings, folder, pipe):
        os.chdir(folder)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        seed()
        trainer = kind(settings)
        trainer.callbacks = [*trainer.callbacks, Announce(pipe)]
        trainer.train(resume=True)

    def wait_for(self, step):
        """Return when this step has begun, or the process has ended."""
        while self.step < step and (number := os.read(self.reading, 4)):
            self.step = int.from_bytes(number, "little")

    def end(self, signal_number=None):
        """Send a signal, read what is left in the pipe, and return the exit code."""
        if signal_number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal_number)
        # However long it takes on a busy machine, it must go on from step to step, and end.
        number = None
        while number != b"":
            if not select.select([self.reading], [], [], PATIENCE)[0]:
                self.process.kill()
                raise AssertionError(f"stands still in step {self.step}")
            number = os.read(self.reading, 4)
            self.step = int.from_bytes(number, "little") or self.step
        self.process.join(PATIENCE)
        code = self.process.exitcode
        assert code is not None, "the process does not end"
        os.close(self.reading)
        self.process.close()
        return code


def finish(kind, settings, folder):
    process = Process(kind, settings, folder)
    assert process.end() == 0


# ---------------------------------------------------------------- kill -9 while 50 MB are written


class Big(ConvnetTrainer):
    """50 MB that every step changes, and every step saves."""

    def define_misc_attr(self):
        self._device, self._verbose, self._save_steps = "cpu", False, 1
        self._num_epochs = self.config.epochs
        self._async_checkpoint = self.config.get("background", False)

    def get_trainloader(self):
        self.train_loader = [(INPUTS, TARGETS)] * 5

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.model.register_buffer("ballast", torch.zeros(12_500_000))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def on_end_training_batch(self):
        self.model.ballast.fill_(self.step)


class Kills:
    """Trials that follow each other in one run."""

    def __init__(self, folder, chance, background=False):
        self.folder, self.chance, self.background = Path(folder), chance, background
        self.newest = 0
        self.temporary = 0  # trials that were killed in the middle of a write

    def trial(self):
        process = Process(Big, {"epochs": 10**6, "background": self.background}, self.folder)
        process.wait_for(self.newest + 1)
        begun = process.step
        assert begun == self.newest + 1, f"went on at step {begun}, not after step {self.newest}"
        time.sleep(self.chance.uniform(0, 0.5))
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        self.look(process.step - 1 - self.background)  # in the background, the step before may be under way

    def look(self, saved):
        """Look at every file; `saved` was complete for certain."""
        inner = self.checkpoints()
        left = [path.name for path in inner.glob("*") if path.suffix == ".tmp"]
        assert len(left) <= 1, f"{len(left)} temporary files: {left}"
        self.temporary += len(left)
        steps = [0]
        for path in inner.glob("*.ckpt"):
            found = checkpoint.read(path)
            ballast = found["model"]["ballast"]
            assert ballast[0] == found["step"] and bool((ballast == ballast[0]).all()), f"{path} holds two steps"
            steps.append(found["step"])
        assert max(steps) >= saved, f"step {saved} was saved, the files hold {steps}"
        self.newest = max(steps)

    def checkpoints(self):
        """Return the newest run's folder: a run that was killed before its first save is followed by another."""
        return max((self.folder / "runs" / "Big").iterdir(), key=lambda path: int(path.name)) / "checkpoints"

    def compare(self):
        """Finish the epoch after the last one; the weights are those of a run that was never killed."""
        epochs = self.newest // 5 + 2
        finish(Big, {"epochs": epochs, "background": self.background}, self.folder)
        whole = Big({"epochs": epochs})
        whole._logdir, whole._save_steps = None, None
        whole.train()
        last = checkpoint.read(self.checkpoints() / "last.ckpt")
        assert last["step"] == whole.step and last["run"]["finished"]
        assert all(torch.equal(last["model"][name], value) for name, value in whole.model.state_dict().items())


# ---------------------------------------------------------------- a small run, ended in every way


def reference(folder):
    """Train without a fault, once per folder; return the last checkpoint."""
    path = Path(folder) / "whole"
    if not path.exists():
        path.mkdir()
        finish(Whole, {}, path)
    return last_of(path)


def last_of(folder, kind=Whole):
    return checkpoint.read(Path(folder) / "runs" / kind.__name__ / "1" / "checkpoints" / "last.ckpt")


def assert_same(found, expected):
    """Compare all that two checkpoints hold, but for the clock."""
    assert found["step"] == expected["step"] and found["epoch"] == expected["epoch"]
    for part in ("model", "averages"):
        assert_equal(found[part], expected[part], part)
    for part in ("finished", "done", "best", "components", "callbacks", "attributes", "rng", "epoch"):
        assert_equal(found["run"][part], expected["run"][part], part)
    histories = [[{**entry, "seconds": 0} for entry in one["run"]["history"]] for one in (found, expected)]
    assert histories[0] == histories[1]


def assert_equal(a, b, where):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    else:
        assert a == b or (a != a and b != b), f"{where}: {a} and {b}"


def ended(folder, chance, number, code, times=3):
    """End a run by a signal at a few random moments, then let it finish; nothing differs from a run without."""
    expected = reference(folder)
    path = Path(folder) / f"ended-{number}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for _ in range(times):
        process = Process(Whole, {}, path)
        process.wait_for(chance.randint(1, EPOCHS * BATCHES))
        time.sleep(chance.uniform(0, 0.03))
        assert process.end(number) in (code, 0)  # 0: it was faster
    finish(Whole, {}, path)
    assert_same(last_of(path), expected)


def killed(folder, chance):
    ended(folder, chance, signal.SIGKILL, -signal.SIGKILL)


def terminated(folder, chance):
    ended(folder, chance, signal.SIGTERM, 143)


def interrupted(folder, chance):
    ended(folder, chance, signal.SIGINT, 1)  # of a forked process; a script's is that of the signal


def asked_to_save(folder, chance):
    """SIGUSR1 ends nothing and changes nothing."""
    expected = reference(folder)
    path = Path(folder) / "asked"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    process = Process(Whole, {"_save_steps": None}, path)
    for step in sorted(chance.sample(range(1, EPOCHS * BATCHES), 3)):
        process.wait_for(step)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.process.pid, signal.SIGUSR1)
    assert process.end() == 0
    assert_same(last_of(path), expected)


# ---------------------------------------------------------------- a full disk, a damaged file, a killed worker


def in_fork(function, *arguments):
    """Call a function in a forked process and return what it returns, a string or a number."""
    reading, writing = FORK.Pipe(duplex=False)

    def call():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        writing.send(function(*arguments))

    process = FORK.Process(target=call)
    process.start()
    writing.close()
    try:
        return reading.recv()
    finally:
        process.join(60)
        process.close()
        reading.close()


def fill_disk(folder, room, step):
    os.chdir(folder)
    seed()
    trainer = Whole()

    def fill(hook=trainer.on_end_training_batch):
        hook()
        if trainer.step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    trainer.on_end_training_batch = fill
    try:
        trainer.train()
    except CheckpointError as error:
        return str(error)
    return "no error"


def full_disk(folder, chance):
    """The disk fills up in the middle of a save: an error that says by how much, and the run goes on later."""
    expected = reference(folder)
    path = Path(folder) / "full"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    step = chance.randint(2, EPOCHS * BATCHES - 1)
    message = in_fork(fill_disk, path, chance.randint(0, 15000), step)
    assert "/runs/Whole/1/checkpoints/last.ckpt: File too large. It needs " in message, message
    assert " bytes are free. The older file, if there is one, is untouched." in message, message
    inner = path / "runs/Whole/1/checkpoints"
    assert not [name for name in os.listdir(inner) if name.endswith(".tmp")], os.listdir(inner)
    assert last_of(path)["step"] == step - 1
    finish(Whole, {}, path)
    assert_same(last_of(path), expected)


def damaged(folder, chance):
    """A byte of the newest file is flipped: the one before is taken, and the run ends the same."""
    expected = reference(folder)
    path = Path(folder) / "damaged"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    process = Process(Whole, {}, path)
    process.wait_for(chance.randint(BATCHES + 2, EPOCHS * BATCHES))
    process.end(signal.SIGKILL)
    last = path / "runs/Whole/1/checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    last.unlink()  # best.ckpt may be another name of it
    last.write_bytes(content)
    finish(Whole, {}, path)
    assert_same(last_of(path), expected)


class KillsWorker(Whole):
    workers = 1

    def get_trainloader(self):
        dataset = Suicidal()
        self.train_loader = DataLoader(dataset, batch_size=3, num_workers=1)
        self.valid_loader = None


class Suicidal(Augmented):
    def __getitem__(self, index):
        if index == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def lose_worker(folder):
    os.chdir(folder)
    trainer = KillsWorker()
    try:
        trainer.train()
    except DataError as error:
        return f"{error} | {sorted(path.name for path in (trainer.run_dir / 'checkpoints').glob('*.ckpt'))}"
    return "no error"


def killed_worker(folder, chance):
    """The error names worker, signal and step, and the steps before are saved."""
    path = Path(folder) / "worker"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    message = in_fork(lose_worker, path)
    for part in (
        "a worker of the train loader died in epoch 1, after step ",
        "pid ",
        " was killed by",
        "num_workers=0",
    ):
        assert part in message, message
    assert "last.ckpt" in message, message


TRIALS = {
    "killed (SIGKILL) three times, small": killed,
    "terminated (SIGTERM) three times": terminated,
    "interrupted (Ctrl-C) three times": interrupted,
    "asked to save (SIGUSR1)": asked_to_save,
    "disk full": full_disk,
    "byte flipped": damaged,
    "loader worker killed": killed_worker,
}


def chance_of(seed):
    return random.Random(seed)
