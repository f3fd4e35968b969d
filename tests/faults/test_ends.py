"""Every way in which a run can end: exceptions in hooks, signals of real scripts, bad files, a folder that goes."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from farabio_like import CheckpointError, checkpoint

from ..checkpoint.test_files import Malicious
from ..resume.test_resume import Tensors, stopped_run
from ..trainers import Tiny

ROOT = Path(__file__).parents[2]
BEFORE_A_STEP = ["on_train_start", "start_logger", "on_train_epoch_start", "on_start_training_batch", "training_step"]
AFTER_A_STEP = [
    *("on_end_training_batch", "on_train_epoch_end", "on_evaluate_epoch_start", "on_evaluate_batch_start"),
    *("evaluate_batch", "on_evaluate_batch_end", "on_evaluate_epoch_end", "on_epoch_end"),
]
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.mark.parametrize("name", [*BEFORE_A_STEP, *AFTER_A_STEP, "on_train_end"])
def test_an_exception_in_a_hook(name):
    class Own(Exception):
        pass

    raised = Own("of the hook")
    ended = []

    def fail(*_):
        if trainer.step >= 2 or name in BEFORE_A_STEP or name == "on_train_end":
            raise raised
        return original(*_)

    trainer = Tiny({"_logdir": "runs"})
    if name != "on_train_end":
        trainer.on_train_end = lambda: ended.append(True)
    original = getattr(trainer, name)
    setattr(trainer, name, fail)
    handlers = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(Own) as caught:
        trainer.train()
    assert caught.value is raised and caught.value.__cause__ is None
    assert caught.traceback[-1].name == "fail"
    assert [signal.getsignal(number) for number in HANDLED] == handlers
    assert ended == ([True] if name != "on_train_end" else [])
    crash = trainer.run_dir / "checkpoints" / "crash.ckpt"
    assert crash.exists() == (name in AFTER_A_STEP)
    if name in AFTER_A_STEP:
        assert checkpoint.read(crash)["step"] == (2 if name == "on_end_training_batch" else 3)
        again = Tiny({"_logdir": "runs"})
        assert len(again.train(resume=True)) == 2


def test_a_malicious_checkpoint_and_index_run_nothing(tmp_path, monkeypatch, python):
    inner = stopped_run(Tensors, 6).run_dir / "checkpoints"
    for path in inner.glob("*.ckpt"):
        path.unlink()
    state = {"format": checkpoint.FORMAT, "model": {}, "run": {"evil": Malicious()}}
    torch.save(state, inner / "last.ckpt")
    index = {"finished": False, "files": {"../../../../evil.ckpt": {"step": 10**9}, "last.ckpt": {"step": 5}}}
    torch.save(state, "evil.ckpt")
    script = """
from farabio_like import CheckpointError
from tests.resume.test_resume import Tensors
try:
    Tensors({"_logdir": "stopped"}).train(resume=True)
    print("trained")
except CheckpointError as error:
    print("Nothing in it was run" in str(error))
"""
    contents = [json.dumps(index), "!!python/object/apply:os.system ['touch marker']", "[" * 100_000]
    for content in contents:
        (inner / "index.json").write_text(content)
        for trust in ({}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}) if content is contents[0] else ({},):
            if trust:
                assert python(script, **trust).strip() == "True"
            else:
                with pytest.raises(CheckpointError, match="Nothing in it was run"):
                    Tensors({"_logdir": "stopped"}).train(resume=True)
            assert not Path("marker").exists()


def test_what_a_run_left_that_was_killed_in_its_first_save_is_swept():
    inner = Path("runs/Tensors/1/checkpoints")
    inner.mkdir(parents=True)
    (inner.parent / "environment.json").write_text(json.dumps({"host": platform.node()}))
    with subprocess.Popen(["true"]) as ended:
        pass
    left, of_a_running_one = (inner / f".last.ckpt.{number}.tmp" for number in (ended.pid, os.getppid()))
    left.write_bytes(b"half")
    of_a_running_one.write_bytes(b"half")
    Tensors().train(resume=True)
    assert not left.exists() and of_a_running_one.exists()
    left.write_bytes(b"half")
    (inner.parent / "environment.json").write_text(json.dumps({"host": "another"}))  # it may be at it on that one
    Tensors().train(resume=True)
    assert left.exists()


def test_a_stale_index_that_calls_the_run_finished_is_not_trusted():
    inner = stopped_run(Tensors, 6).run_dir / "checkpoints"
    index = json.loads((inner / "index.json").read_text())
    index["finished"] = True
    index["files"]["last.ckpt"]["changed"] -= 1
    (inner / "index.json").write_text(json.dumps(index))
    other = Path("stopped/Tensors/0/checkpoints")
    shutil.copytree(inner, other)
    resumed = Tensors({"_logdir": "stopped"})
    resumed.train(resume=True)
    assert resumed.run_dir.samefile("stopped/Tensors/1")


@pytest.mark.parametrize("save_epoch", [1, 100])
def test_a_run_whose_folder_is_deleted_makes_it_again(save_epoch):
    class Deleted(Tiny):
        def on_train_epoch_end(self):
            if self.epoch == 2:
                shutil.rmtree(self.run_dir)

    trainer = Deleted({"_logdir": "runs", "_num_epochs": 4, "_save_epoch": save_epoch})
    assert len(trainer.train()) == 4
    assert checkpoint.read(trainer.run_dir / "checkpoints" / "last.ckpt")["epoch"] == 4
    epochs = [json.loads(line).get("epoch") for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert epochs[-1] == 4


SCRIPT = """
import sys
import torch
from tests.trainers import Tiny

class Slow(Tiny):
    def on_end_training_batch(self):
        print(self.step, flush=True)
        if self.step >= 3:
            torch.rand(300, 300) @ torch.rand(300, 300)

Slow({"_logdir": "runs", "_num_epochs": 10**6}).train()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_ends_a_script_after_its_step(tmp_path, number, code):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.strip() == "5":
                process.send_signal(number)
                break
        rest = [int(line) for line in process.stdout]
        assert process.wait(60) == code
    last = checkpoint.read(tmp_path / "runs/Slow/1/checkpoints/last.ckpt")
    assert last["step"] == max([5, *rest])
