"""Signals, kills and saves at the moments between two that belong together; nothing is lost or done twice."""

import copy
import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from farabio_like import ConfigError, checkpoint
from farabio_like.callbacks import Checkpoint, EarlyStopping

from ..resume.test_resume import Counter, Tensors, assert_equal_runs, resumed_run, stopped_run, whole_run
from ..trainers import Tiny
from .trials import assert_same

ROOT = Path(__file__).parents[2]
LAST = Path("runs/Halves/1/checkpoints/last.ckpt")

HALVES = """
import multiprocessing
import os
import pickle
import signal
import sys
import time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from farabio_like import ConvnetTrainer

class InHalves(torch.optim.SGD):
    def step(self, closure=None):
        for index, parameter in enumerate(self.param_groups[0]["params"]):
            parameter.data -= 0.01 * parameter.grad
            if index == 0:
                self.halfway()

class Halves(ConvnetTrainer):
    def define_misc_attr(self):
        self._device, self._verbose, self._num_epochs, self._logdir = "cpu", False, 2, "runs"

    def get_trainloader(self):
        torch.manual_seed(3)
        self.train_loader = DataLoader(TensorDataset(torch.randn(60, 3), torch.randn(60, 1)), 3, num_workers=1)

    def build_model(self):
        self.model, self.criterion = nn.Linear(3, 1), nn.MSELoss()
        self.optimizer = InHalves(self.model.parameters(), lr=1.0)
        self.optimizer.halfway = self.halfway

    def halfway(self):
        if self.step == STEP:
            fault(multiprocessing.active_children()[0].pid)
            time.sleep(0.3)

def kill_worker(pid):
    os.kill(pid, signal.SIGKILL)

def terminate_all(pid):
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)

STEP, fault = int(sys.argv[1]), globals()[sys.argv[2]]
Halves().train(resume=True)
"""


def script(folder, text, *arguments):
    """Run a script in a process of its own; return its exit status."""
    (folder / "script.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "script.py", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, timeout=120).returncode


@pytest.mark.slow
def test_a_worker_that_dies_amid_a_step_of_the_optimizer(tmp_path):
    folders = {name: tmp_path / name for name in ("whole", "kill_worker", "terminate_all")}
    for folder in folders.values():
        folder.mkdir()
    assert script(folders["whole"], HALVES, 0, "kill_worker") == 0
    assert script(folders["kill_worker"], HALVES, 7, "kill_worker") == 1
    assert script(folders["terminate_all"], HALVES, 7, "terminate_all") == 143
    whole = checkpoint.read(folders["whole"] / LAST)
    for name in ("kill_worker", "terminate_all"):
        assert script(folders[name], HALVES, 0, name) == 0
        resumed = checkpoint.read(folders[name] / LAST)
        assert resumed["step"] == whole["step"]
        assert all(torch.equal(resumed["model"][key], value) for key, value in whole["model"].items()), name


RENAMES = """
import os
import pickle
import sys
from tests.resume.test_resume import Tensors, np, random, torch

class Cut(Tensors):
    names = 0

def replace(source, target, rename=os.replace):
    rename(source, target)
    if str(target).endswith(".ckpt") and sys.argv[1] == "kill" and trainer.phase_of_save():
        Cut.names += 1
        if Cut.names == 1:
            os.kill(os.getpid(), 9)

torch.manual_seed(7)
np.random.seed(7)
random.seed(7)
trainer = Cut({"_save_steps": None})
trainer.phase_of_save = lambda: trainer.history[-1]["epoch"] == 3 if trainer.history else False
os.replace = replace
trainer.train(resume=True)
"""


@pytest.mark.slow
def test_killed_between_the_names_of_the_last_and_the_best_epoch(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    assert script(tmp_path / "whole", RENAMES, "") == 0
    assert script(tmp_path / "cut", RENAMES, "kill") == -signal.SIGKILL
    assert script(tmp_path / "cut", RENAMES, "") == 0
    found = [tmp_path / name / "runs" / "Cut" / "1" for name in ("whole", "cut")]
    for name in ("last.ckpt", "best.ckpt"):
        assert_same(*(checkpoint.read(run / "checkpoints" / name) for run in found))
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in found]
    assert [{**line, "seconds": 0} for line in lines[0]] == [{**line, "seconds": 0} for line in lines[1]]
    assert lines[0][2]["best"]


def test_of_a_copied_folder_the_newest_file_is_taken():
    stopped_run(Tensors, 10)  # the best one is of step 8
    inner, copied = Path("stopped/Tensors/1/checkpoints"), Path("copied/Tensors/1/checkpoints")
    copied.mkdir(parents=True)
    for time, name in enumerate(("last.ckpt", "index.json", "best.ckpt")):
        shutil.copyfile(inner / name, copied / name)
        os.utime(copied / name, (time, time))
    resumed = Tensors({"_logdir": "copied"})
    resumed.events = []
    resumed.train(resume=True)
    assert_equal_runs(whole_run(Tensors), resumed)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_that_goes_on_in_a_new_folder_has_its_epochs_and_its_best(is_there):
    class Worse(Tensors):
        def evaluate_batch(self, item):
            super().evaluate_batch(item)
            self.loss = self.loss * 0 + self.epoch

    first = Worse({"_logdir": "runs"})
    first.train()
    path = first.run_dir / "checkpoints" / "second.ckpt"
    second = Worse({"_logdir": "runs", "_num_epochs": 2})
    second.train()
    second.save_checkpoint(path)
    os.utime(path, (1, 1))
    (path.parent / "index.json").unlink()
    if not is_there:
        (path.parent / "best.ckpt").unlink()
    resumed = Worse({"_logdir": "runs", "_num_epochs": 4})
    resumed.train(resume=path)
    lines = [json.loads(line) for line in (resumed.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert resumed.run_dir not in (first.run_dir, second.run_dir)
    best = 1 if is_there else 3
    assert [line["epoch"] for line in lines if line["best"]] == [best]
    assert checkpoint.read(resumed.run_dir / "checkpoints" / "best.ckpt")["epoch"] == best


class Judged(Counter):
    """Counts evaluated batches, and the epochs after them."""

    def on_evaluate_batch_end(self, trainer):
        self.batches += 100

    def on_epoch_end(self, trainer):
        self.batches += 10_000


class Evaluated(Tensors):
    def build_model(self):
        super().build_model()
        self.callbacks = [Judged()]

    def on_evaluate_batch_end(self):
        self.names["evaluated"] = self.names.get("evaluated", 0) + 1
        super().on_evaluate_batch_end()

    def on_epoch_end(self):
        self.names["ended"] = self.names.get("ended", 0) + 1


def test_what_an_evaluation_counts_is_counted_once_where_it_begins_anew():
    whole = whole_run(Evaluated, _save_steps=None)
    stopped_run(Evaluated, (2, "valid"), _save_steps=None)
    assert_equal_runs(whole, resumed_run(Evaluated, _save_steps=None))


def test_a_file_of_the_checkpoint_callback_has_not_counted_its_epoch():
    class Kept(Evaluated):
        def build_model(self):
            super().build_model()
            self.callbacks += [EarlyStopping(patience=9, mode="max"), Checkpoint(top_k=0, every_epochs=1)]

    whole = whole_run(Kept)
    resumed = Kept({"_logdir": "whole"})
    resumed.events = []
    resumed.train(resume=whole.run_dir / "checkpoints" / "epoch-0002.ckpt")
    assert_equal_runs(whole, resumed)


def test_a_copy_made_amid_a_run_notes_its_own_signals():
    class Copied(Tensors):
        def on_train_epoch_start(self):
            if self.epoch == 2 and self.stop_after is None:
                copies.append(copy.deepcopy(self))

    copies = []
    Copied({"_logdir": "first"}).train()
    (other,) = copies
    other.stop_after = 6
    with pytest.raises(SystemExit):
        other.train()
    assert checkpoint.read(other.run_dir / "checkpoints" / "last.ckpt")["step"] == 6


TABLE = """
import os
import pickle
import sys
import time
from tests.resume.test_resume import Tensors

class Table(Tensors):
    def define_log_attr(self):
        self._loggers, self._log_interval = "csv", 1

    def on_train_epoch_end(self):
        self.loggers.scalars({"own": 1.0}, step=1000 * self.epoch)

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if self.step == int(sys.argv[1]):
            time.sleep(1)  # what is recorded is written
            os.kill(os.getpid(), 9)

settings = {"_save_steps": None, "_save_epoch": 2, "_num_epochs": 4, "_monitor": "loss", "_monitor_mode": "max"}
Table(settings).train(resume=True)
"""


@pytest.mark.slow
def test_the_table_of_a_killed_run_has_no_row_twice(tmp_path):
    assert script(tmp_path, TABLE, 15) == -signal.SIGKILL
    assert script(tmp_path, TABLE, 0) == 0
    with open(tmp_path / "runs/Table/1/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["running/loss"]] == list(range(1, 17))
    assert [int(row["epoch"]) for row in rows if row["epoch"]] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["own"]] == ["1000", "2000", "3000", "3000", "4000"]  # as hooks say


def resume_where_nothing_can_be_written():
    if os.geteuid() == 0:  # who may write anywhere
        os.setuid(65534)
    trainer = Tensors({"_logdir": "stopped"})
    try:
        trainer.train(resume=True)
    except ConfigError as error:
        return str(error), trainer.losses
    return "no error", trainer.losses


def test_a_run_folder_that_cannot_be_written_is_an_error_before_the_first_step(in_child):
    os.chmod(".", 0o755)
    folder = stopped_run(Tensors, 6).run_dir
    for path in (folder, folder / "checkpoints"):
        path.chmod(0o555)
    message, losses = in_child(resume_where_nothing_can_be_written)
    assert message.startswith(f"the run folder {folder} cannot be written: Permission denied.") and not losses


def test_a_run_that_is_being_trained_is_no_other_processs(tmp_path):
    script = """
import time
from tests.trainers import Tiny
class Slow(Tiny):
    def on_end_training_batch(self):
        print(self.step, flush=True)
        time.sleep(0.5 if self.step > 3 else 0)
Slow({"_logdir": "runs", "_num_epochs": 1000, "_save_epoch": 1}).train()
"""

    class Slow(Tiny):
        pass

    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            while process.stdout.readline().strip() != "4":
                assert process.poll() is None
            (folder,) = Path("runs/Slow").iterdir()
            before = (folder / "metrics.jsonl").stat().st_ino  # what is put in order is another file
            with pytest.raises(ConfigError, match=rf"being trained by another process \(number {process.pid} on .+\)"):
                Slow({"_logdir": "runs"}).train(resume=True)
            assert (folder / "metrics.jsonl").stat().st_ino == before
        finally:
            process.kill()
    trainer = Slow({"_logdir": "runs", "_num_epochs": 3})
    assert len(trainer.train(resume=True)) == 3 and trainer.run_dir.samefile(folder)
    assert not (folder / ".lock").exists()


def test_a_run_from_an_older_file_that_is_killed_before_its_first_save_goes_on_from_that_file():
    seen = []

    class Older(Tensors):
        def define_misc_attr(self):
            super().define_misc_attr()
            self._save_steps, self._save_epoch = None, 1
            self._monitor, self._monitor_mode = "loss", "max"  # the first epoch is the best

        def on_train_epoch_start(self):
            if self.epoch == 3 and 3 not in seen:
                shutil.copy(self.run_dir / "checkpoints" / "last.ckpt", self.run_dir / "checkpoints" / "mine.ckpt")
            seen.append(self.epoch)

        def on_start_training_batch(self, item):
            super().on_start_training_batch(item)
            if self.config.to_dict().get("fails"):
                raise RuntimeError("as if it were killed")

    whole = Older({"_logdir": "runs"})
    whole.train()
    assert whole._run_state.best[3] == 1
    forked = Older({"_logdir": "runs", "fails": True})
    with pytest.raises(RuntimeError, match="as if"):
        forked.train(resume=whole.run_dir / "checkpoints" / "mine.ckpt")
    assert forked.run_dir != whole.run_dir
    resumed = Older({"_logdir": "runs"})
    resumed.train(resume=True)
    assert resumed.run_dir == forked.run_dir
    assert seen == [1, 2, 3, 3, 3]
    kept = whole.model.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in resumed.model.state_dict().items())


def test_a_signal_at_the_end_of_training_does_not_wait_for_the_evaluation():
    class Evaluates(Tensors):
        def get_trainloader(self):
            super().get_trainloader()
            self.valid_loader = list(self.valid_loader) * 50

        def on_train_epoch_end(self):
            signal.raise_signal(signal.SIGTERM)

        def on_evaluate_batch_start(self, item):
            super().on_evaluate_batch_start(item)
            self.evaluated = item[0] + 1

    trainer = Evaluates({"_logdir": "runs"})
    with pytest.raises(SystemExit):
        trainer.train()
    assert trainer.evaluated == 1


def test_a_worker_may_get_the_trainer_whose_run_it_reads_for():
    trainer, sent = Tensors({"_logdir": "runs"}), []
    trainer.on_train_start = lambda: sent.append(pickle.loads(pickle.dumps(trainer._run_state.folder)))
    trainer.train()
    assert [run.path for run in sent] == [trainer.run_dir]
