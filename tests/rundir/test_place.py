"""The folder of a run keeps its place and its lock, whatever hooks and other programs do."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from farabio_like import ConfigError, rundir
from farabio_like.callbacks import SavePredictions
from farabio_like.loggers import CSVLogger
from farabio_like.rundir.layout import shown

from ..conftest import ROOT
from ..trainers import Tiny


class Owner:
    pass


# ---------------------------------------------------------------- a working folder that changes


class Wanderer(Tiny):
    """Changes the working folder in its first epoch, by the hook that its configuration names."""

    def wander(self, hook):
        if self.config["hook"] == hook and not Path.cwd().name == "elsewhere":
            Path("elsewhere").mkdir()
            os.chdir("elsewhere")

    def on_train_start(self):
        self.wander("on_train_start")

    def on_end_training_batch(self):
        self.wander("on_end_training_batch")
        if self.step == 4:
            self.save_checkpoint("mine.ckpt")

    def on_evaluate_epoch_end(self):
        self.wander("on_evaluate_epoch_end")


@pytest.fixture
def home():
    folder = Path.cwd()
    yield folder
    os.chdir(folder)


@pytest.mark.parametrize("hook", ["on_train_start", "on_end_training_batch", "on_evaluate_epoch_end"])
def test_all_files_of_a_run_stay_in_one_folder(home, hook):
    trainer = Wanderer({"_logdir": "runs", "_num_epochs": 3, "_loggers": CSVLogger("table.csv"), "hook": hook})
    trainer.callbacks = [SavePredictions(("valid",), path="predictions")]
    trainer.train()
    trainer.test()
    assert trainer.run_dir == home / "runs/Wanderer/1"
    assert [path.name for path in (home / "elsewhere").iterdir()] == ["mine.ckpt"]  # the hook's own relative path
    assert (home / "table.csv").is_file() and (home / "predictions/valid.pt").is_file()
    epochs = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in epochs if "train" in entry] == [1, 2, 3]
    assert torch.load(trainer.run_dir / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 3
    assert not (trainer.run_dir / ".lock").exists()


def test_a_run_that_goes_on_from_a_relative_path_stays_there_too(home):
    first = Wanderer({"_logdir": "runs", "_num_epochs": 1, "hook": ""})
    first.train()
    again = Wanderer({"_logdir": "runs", "_num_epochs": 3, "hook": "on_end_training_batch"})
    again.train(resume="runs/Wanderer/1")
    assert again.run_dir == first.run_dir
    assert torch.load(home / "runs/Wanderer/1/checkpoints/last.ckpt", weights_only=True)["epoch"] == 3


def test_a_path_is_shown_as_short_as_it_can_be(home, tmp_path):
    assert shown(home / "runs/Tiny/1") == "runs/Tiny/1"
    assert shown(home.parent / "other") == str(home.parent / "other")
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert shown(home / "runs") == str(home / "runs")


def test_a_folder_that_is_moved_while_the_run_goes_on_is_said():
    class Mover(Tiny):
        def on_epoch_end(self):
            if self.epoch == 1:
                self.run_dir.rename("moved")

    trainer = Mover({"_logdir": "runs", "_num_epochs": 3, "_save_epoch": 1})
    with pytest.warns(UserWarning, match="was moved or deleted while the run goes on") as caught:
        trainer.train()
    assert len([each for each in caught if "moved or deleted" in str(each.message)]) == 1
    assert "moved or deleted" in (trainer.run_dir / "notes.txt").read_text()
    assert (trainer.run_dir / "checkpoints/last.ckpt").is_file()


# ---------------------------------------------------------------- its lock

HOLDER = """
import shutil, sys, time
from pathlib import Path
from tests.rundir.test_place import READERS
from tests.trainers import Tiny
class Held(Tiny):
    def on_end_training_batch(self):
        if self.step == 2:
            READERS[sys.argv[1]](self.run_dir)
            print("read", flush=True)
        time.sleep(0.5 if self.step > 2 else 0)
Held({"_logdir": "runs", "_num_epochs": 1000, "_save_steps": 1}).train()
"""
READERS = {
    "copytree": lambda folder: shutil.copytree(folder, "backup"),
    "read": lambda folder: (folder / ".lock").read_bytes(),
    "append": lambda folder: open(folder / ".lock", "a").close(),
    "archive": lambda folder: shutil.make_archive("backup", "zip", folder),
    "fork": lambda folder: os._exit(0) if (child := os.fork()) == 0 else os.waitpid(child, 0),
    "subprocess": lambda folder: subprocess.run(["cat", folder / ".lock"], check=True, stdout=subprocess.DEVNULL),
}


class Held(Tiny):
    pass


@pytest.mark.parametrize("reader", READERS)
def test_the_lock_holds_when_the_process_reads_its_own_folder(reader):
    command = [sys.executable, "-c", HOLDER, reader]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert "read\n" in process.stdout
            with pytest.raises(ConfigError, match=rf"another process \(number {process.pid} on"):
                Held({"_logdir": "runs"}).train(resume=True)
        finally:
            process.kill()
    # A lock ends with its process.
    assert len(Held({"_logdir": "runs", "_num_epochs": 1}).train(resume=True)) >= 1


WITH_WORKERS = """
import multiprocessing, time
from torch.utils.data import DataLoader, TensorDataset
import torch
from tests.trainers import Tiny
class Held(Tiny):
    def get_trainloader(self):
        super().get_trainloader()
        data = TensorDataset(torch.randn(400, 3), torch.randn(400, 1))
        self.train_loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork")
    def on_end_training_batch(self):
        if self.step == 3:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(0.2 if self.step > 2 else 0)
Held({"_logdir": "runs", "_num_epochs": 1000, "_save_steps": 1}).train()
"""


def test_workers_that_outlive_a_killed_process_do_not_hold_its_lock():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITH_WORKERS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        children = []
        try:
            children = [int(number) for number in next(line for line in process.stdout if line.strip()).split()]
            for child in children:
                os.kill(child, signal.SIGSTOP)  # so that none notices that its parent has gone
        finally:
            process.kill()
    try:
        assert len(children) >= 2
        folder = rundir.RunDir.at(Path("runs/Held/1"), Held)
        folder.hold()
        folder.release()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_neither_ends_the_lock_nor_removes_its_file():
    folder = rundir.RunDir("runs", Owner)
    folder.hold()
    if (child := os.fork()) == 0:
        folder.release()  # as the end of a trainer in a child would
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (folder.path / ".lock").exists()
    with pytest.raises(ConfigError, match="another process"):
        rundir.RunDir.at(folder.path, Owner).hold()
    folder.release()
    assert not (folder.path / ".lock").exists()


def test_a_file_system_without_locks_is_said(monkeypatch):
    import fcntl

    def no_locks(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="has no locks"):
        Tiny({"_logdir": "runs"}).train()


# ---------------------------------------------------------------- folders that cannot be synced


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_folder_that_cannot_be_synced_is_no_error(monkeypatch, number):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = Tiny({"_logdir": "runs", "_num_epochs": 2, "_save_steps": 1})
        trainer.train()
    assert (trainer.run_dir / "checkpoints/last.ckpt").is_file()
