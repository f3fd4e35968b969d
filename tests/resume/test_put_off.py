"""Epochs whose save is put off: what is written when, and that nothing of them is lost but by a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import CheckpointError, ConfigError, NonFiniteError, Stage, checkpoint
from farabio_like.state import put_off
from farabio_like.state.put_off import PutOff

from ..trainers import INPUTS, TARGETS, Tiny

ROOT = Path(__file__).parents[2]
VALID = [3.0, 1.0, 2.0, 0.5, 4.0, 5.0]  # losses by epoch: epochs 1, 2 and 4 are the best so far


class Runs(Tiny):
    """Random batches, a best epoch that is not the last, and a note of the files after every epoch."""

    def define_misc_attr(self):
        super().define_misc_attr()
        self._num_epochs, self.files = 6, []

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4, shuffle=True)
        self.valid_loader = [(INPUTS, TARGETS)]

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)

    def on_train_epoch_start(self):
        if self.run_dir is not None:
            self.files.append(self.saved())

    def on_evaluate_epoch_end(self):
        self.epoch_metrics["valid"]["loss"] = VALID[self.epoch - 1]

    def saved(self):
        """Return the epoch in each file."""
        folder = self.run_dir / "checkpoints"
        return {path.stem: checkpoint.read(path)["epoch"] for path in sorted(folder.glob("*.ckpt"))}


@pytest.fixture
def never_due(monkeypatch):
    """Have every save of an epoch be too dear, on any machine."""
    monkeypatch.setattr(put_off, "FIRST_GUESS", 1e9)
    return {"_logdir": "runs", "_unsaved_seconds": 1e9}


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def whole_run():
    torch.manual_seed(3)
    whole = Runs()
    whole.train()
    return weights(whole)


def started(settings, kind=Runs):
    torch.manual_seed(3)
    return kind(settings)


def test_saves_are_due_by_their_share_of_the_time_or_after_the_longest_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(put_off, "perf_counter", lambda: now[0])
    saves = PutOff()
    assert not saves.is_due(2.0), "at once a save would be all of the time"
    now[0] += 1.001 * put_off.FIRST_GUESS / put_off.SHARE
    assert saves.is_due(2.0)
    now[0] += 1.0
    saves.saved(started=now[0] - 0.2)  # one that took 0.2 s: the next one is due when 0.4 s are 5 %
    assert not saves.is_due(2.0) and not saves.is_due(1.0) and saves.is_due(0.0)
    now[0] += 1.5
    assert not saves.is_due(2.0) and saves.is_due(1.0)
    now[0] += 5.0
    assert not saves.is_due(20.0)
    now[0] += 1.0
    assert saves.is_due(20.0)


def test_by_default_saves_of_short_epochs_are_put_off_and_the_end_is_saved(never_due):
    trainer = started(never_due)
    trainer.train()
    assert trainer.files == [{}] * 6
    assert trainer.saved() == {"best": 4, "last": 6}
    assert same(weights(trainer), whole_run())


@pytest.mark.parametrize("setting", [{"_save_epoch": 1}, {"_save_steps": 100}, {"_save_minutes": 60}])
def test_what_a_user_has_set_is_obeyed_to_the_letter(never_due, setting):
    trainer = started({**never_due, **setting})
    trainer.train()
    assert [files.get("last") for files in trainer.files] == [None, 1, 2, 3, 4, 5]
    assert [files.get("best") for files in trainer.files] == [None, 1, 2, 2, 4, 4]


def test_without_time_to_put_off_every_epoch_is_saved(never_due):
    trainer = started({**never_due, "_unsaved_seconds": 0})
    trainer.train()
    assert [files.get("last") for files in trainer.files] == [None, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "2", None, True])
def test_seconds_that_cannot_be(value):
    with pytest.raises(ConfigError, match="_unsaved_seconds is .*; expected a number of seconds, 0 or more"):
        Tiny({"_unsaved_seconds": value})


def test_the_best_epoch_is_tested_amid_the_run_though_it_is_not_written(never_due):
    class Tests(Runs):
        def on_epoch_end(self):
            if self.epoch == 3:
                self.load_model()
                self.seen = weights(self)
            elif self.epoch == 2:
                self.best = weights(self)

    trainer = started(never_due, Tests)
    trainer.train()
    assert same(trainer.seen, trainer.best)
    assert trainer.saved() == {"best": 4, "last": 6}


@pytest.mark.parametrize("event", ["on_epoch_end", "on_train_epoch_start"])
def test_an_exception_loses_nothing_that_was_put_off(never_due, event):
    class Fails(Runs):
        pass

    def fail(self):
        if self.epoch == 6:
            raise ZeroDivisionError

    setattr(Fails, event, fail)
    trainer = started(never_due, Fails)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    setattr(Fails, event, getattr(Runs, event))
    assert trainer.saved() == {"best": 4, "crash": 6, "last": 4}
    resumed = Fails(never_due)
    resumed.train(resume=True)
    assert same(weights(resumed), whole_run()) and resumed.history[3]["valid"]["loss"] == 0.5


def test_an_exception_between_two_epochs_saves_the_last_one(never_due):
    class Own(Runs):
        def train_loop(self):
            for epoch in range(self._run_state.progress.step // 3 + 1, 7):
                self._epoch = epoch
                if self._epoch == 6 and self.fails:
                    raise ZeroDivisionError
                self.train_epoch()

    trainer = started({**never_due, "fails": True}, Own)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.saved() == {"best": 4, "last": 5}
    resumed = Own({**never_due, "fails": False})
    resumed.train(resume=True)
    assert same(weights(resumed), whole_run())


@pytest.mark.parametrize("mode", ["raise", "warn"])
def test_weights_that_are_not_finite_do_not_take_the_best_epoch_along(never_due, mode):
    class Breaks(Runs):
        def on_train_epoch_end(self):
            if self.epoch == 6:
                with torch.no_grad():
                    self.model[0].bias.fill_(float("inf"))

    trainer = started({**never_due, "_on_nonfinite": mode}, Breaks)
    with pytest.raises(NonFiniteError) if mode == "raise" else pytest.warns(UserWarning, match="not finite"):
        trainer.train()
    assert trainer.saved() == {"best": 4, "last": 4}


def test_a_loop_of_the_subclass_that_ends_early_is_saved(never_due):
    class Own(Runs):
        def train_loop(self):
            for epoch in (1, 2, 3):
                self._epoch = epoch
                self.train_epoch()

    trainer = started(never_due, Own)
    trainer.train()
    assert trainer.saved() == {"best": 2, "last": 3}


def test_a_signal_saves_what_was_put_off(never_due):
    class Signalled(Runs):
        def on_end_training_batch(self):
            if self.step == 17:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = started(never_due, Signalled)
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 143 and trainer.saved() == {"best": 4, "last": 6}
    resumed = Runs(never_due)
    resumed.train(resume=trainer.run_dir)
    assert same(weights(resumed), whole_run())


def test_a_save_asked_for_writes_the_best_epoch_too(never_due):
    class Asks(Runs):
        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            if self.epoch == 6:
                self.save_checkpoint(Path("elsewhere") / "mine.ckpt")
                self.files.append(self.saved())

    trainer = started(never_due, Asks)
    trainer.train()
    assert (
        trainer.files[-1] == {"best": 4, "last": 4} and checkpoint.read(Path("elsewhere") / "mine.ckpt")["epoch"] == 6
    )


def test_a_run_that_was_killed_goes_on_from_its_last_save_bit_for_bit(tmp_path):
    script = f"""
import os, signal, sys
import torch
from tests.resume.test_put_off import Runs
class Killed(Runs):
    def on_end_training_batch(self):
        if self.epoch == 5 and self.step == 14:
            os.kill(os.getpid(), signal.SIGKILL)
Killed.__name__ = Killed.__qualname__ = "Runs"
torch.manual_seed(3)
Killed({{"_logdir": {str(tmp_path)!r}, "_unsaved_seconds": float(sys.argv[1])}}).train()
"""
    for seconds in ("0", "1e9"):
        done = subprocess.run([sys.executable, "-c", script, seconds], cwd=ROOT, timeout=120)
        assert done.returncode == -signal.SIGKILL
        if seconds == "0":
            assert checkpoint.read(tmp_path / "Runs" / "1" / "checkpoints" / "last.ckpt")["epoch"] == 4
        torch.manual_seed(3)  # in case that nothing was saved
        resumed = Runs({"_logdir": str(tmp_path)})
        resumed.train(resume=True)
        assert same(weights(resumed), whole_run()) and resumed.history[-1]["epoch"] == 6


def test_what_on_train_end_does_to_the_weights_is_in_no_file(never_due):
    class Own(Runs):
        def train_loop(self):
            for epoch in (1, 2, 3):
                self._epoch = epoch
                self.train_epoch()
            self.third = weights(self)

        def on_train_end(self):
            with torch.no_grad():
                self.model[0].weight.zero_()

    trainer = started({**never_due, "_async_checkpoint": True}, Own)
    trainer.train()
    saved = checkpoint.read(trainer.run_dir / "checkpoints" / "last.ckpt")["model"]
    assert same(saved.values(), trainer.third)


def test_the_last_epoch_of_a_stage_is_saved(never_due):
    class Staged(Runs):
        def define_train_attr(self):
            self._stages = [Stage("one", 3), Stage("two", 3)]

        def on_stage_start(self):
            if self.stage.name == "two":
                self.before = self.saved()
                self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
                if self.fails:
                    raise ZeroDivisionError

    trainer = started({**never_due, "fails": True}, Staged)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.before == {"best": 2, "last": 3} == trainer.saved()
    whole = started({**never_due, "_logdir": None, "fails": False}, Staged)
    whole.saved = dict
    whole.train()
    resumed = Staged({**never_due, "fails": False})
    resumed.train(resume=True)
    assert same(weights(resumed), weights(whole))


def error_in_a_hook(trainer):
    raise CheckpointError("of a file that is somebody else's")


def interrupt(trainer):
    raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [error_in_a_hook, interrupt])
def test_the_best_epoch_is_written_whatever_ends_the_run(never_due, fail):
    class Fails(Runs):
        def on_end_training_batch(self):
            if self.epoch == 6:
                fail(self)

    trainer = started(never_due, Fails)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        trainer.train()
    assert trainer.saved() == {"best": 4, "last": 4}


def test_a_state_that_cannot_be_stored_does_not_take_the_best_epoch_along(never_due):
    class Bad:
        def state_dict(self):
            if trainer.epoch == 6:
                raise ZeroDivisionError
            return {}

        def load_state_dict(self, state):
            pass

    class Holds(Runs):
        def build_model(self):
            super().build_model()
            self.bad = Bad()

    trainer = started(never_due, Holds)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.saved() == {"best": 4, "last": 4}


def test_an_epoch_whose_end_fails_is_not_done(never_due):
    class Halves(torch.optim.lr_scheduler.StepLR):
        def step(self):
            if self.last_epoch == 5:
                raise ZeroDivisionError
            super().step()

    class Fails(Runs):
        def build_model(self):
            super().build_model()
            self.scheduler = Halves(self.optimizer, 1, 0.5)

    trainer = started(never_due, Fails)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.saved() == {"best": 4, "last": 4}


def test_a_sparse_buffer_waits_with_the_best_epoch(never_due):
    class Graph(Runs):
        def build_model(self):
            super().build_model()
            self.model.register_buffer("adjacency", torch.eye(3).to_sparse())

    trainer = started(never_due, Graph)
    trainer.train()
    best = checkpoint.read(trainer.run_dir / "checkpoints" / "best.ckpt")
    assert best["epoch"] == 4 and torch.equal(best["model"]["adjacency"].to_dense(), torch.eye(3))
