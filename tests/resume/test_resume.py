"""Stopping after any step and going on gives, bit for bit, the run that never stopped."""

import copy
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from farabio_like import Callback, CheckpointError, ConfigError, ConvnetTrainer, Stage
from farabio_like.callbacks import EMA, find_lr

from ..conftest import ROOT
from ..trainers import INPUTS as TEN
from ..trainers import TARGETS as TEN_TARGETS

# Eleven: batches of 3 end with one of 2.
INPUTS, TARGETS = torch.cat([TEN, TEN[:1]]), torch.cat([TEN_TARGETS, TEN_TARGETS[:1]])
EPOCHS, BATCHES = 3, 4


class Augmented(Dataset):
    """Eleven samples, each changed by random numbers of Python, NumPy and torch."""

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        noise = random.random() + float(np.random.rand()) + torch.rand(()).item()
        return INPUTS[index] + 0.01 * noise, TARGETS[index]


class Counter(Callback):
    """Has a state of its own."""

    def __init__(self):
        self.batches, self.total = 0, torch.zeros(())

    def on_end_training_batch(self, trainer):
        self.batches += 1
        self.total = self.total + trainer.loss.detach()

    def state_dict(self):
        return {"batches": self.batches, "total": self.total}

    def load_state_dict(self, state):
        self.batches, self.total = state["batches"], state["total"]


class Whole(ConvnetTrainer):
    """Draws random numbers everywhere: shuffle, augmentation, dropout; momentum, a scheduler, records of its own."""

    workers = 0

    def define_misc_attr(self):
        self._device, self._verbose, self._num_epochs, self._save_steps = "cpu", False, EPOCHS, 1
        for name, value in self.config.items():
            setattr(self, name, value)
        self.losses, self.events, self.stop_after, self.names = [], [], None, {"seen": 0}

    def get_trainloader(self):
        dataset = Augmented()
        self.train_loader = DataLoader(dataset, batch_size=3, shuffle=True, num_workers=self.workers)
        self.valid_loader = DataLoader(dataset, batch_size=4, num_workers=self.workers)

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.callbacks = [Counter()]

    def on_start_training_batch(self, item):
        self.events.append(("start", self.epoch, item[0]))
        super().on_start_training_batch(item)

    def on_end_training_batch(self):
        self.losses.append(self.loss.item())
        self.names["seen"] += 1
        self.events.append(("end", self.epoch))
        self.batch_metrics["squared"] = self.loss.detach() ** 2
        if self.stop_after == self.step:
            signal.raise_signal(signal.SIGTERM)

    def on_train_epoch_end(self):
        self.events.append(("epoch", self.epoch))

    def on_evaluate_batch_end(self):
        self.events.append(("valid", self.epoch))
        if self.stop_after == (self.epoch, "valid"):
            signal.raise_signal(signal.SIGTERM)


class Seeded(Whole):
    workers = 2

    def define_train_attr(self):
        self._seed = 3


class Workers(Whole):
    workers = 2


class Tensors(Whole):
    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=3, shuffle=True)
        self.valid_loader = [(INPUTS, TARGETS)]


class Listed(Whole):
    def get_trainloader(self):
        self.train_loader = [(INPUTS[i : i + 3], TARGETS[i : i + 3]) for i in range(0, 11, 3)]
        self.valid_loader = self.train_loader


class OwnIterator(Whole):
    def on_train_epoch_start(self):
        self.train_epoch_iter = enumerate(self.train_loader)


class Wrapped(Whole):
    def on_train_epoch_start(self):
        self.train_epoch_iter = (item for item in self.train_epoch_iter)


class PerStep(Whole):
    def define_log_attr(self):
        self._scheduler_step = "step"

    def build_model(self):
        super().build_model()
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.1, total_steps=EPOCHS * BATCHES + 1)


class Accumulated(Tensors):
    """Windows of three batches, which end in the middle of an epoch; a moving average of the weights."""

    def define_train_attr(self):
        self._accumulation_steps, self._clip_norm = 3, 1.0

    def build_model(self):
        super().build_model()
        self.callbacks = [Counter(), EMA(0.9)]


class Foreign(Whole):
    """Optimizers, a network and a scheduler under names of its own, made when training starts."""

    def build_model(self):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.mse = nn.MSELoss()

    def on_train_start(self):
        self.opt = torch.optim.Adam(self.net.parameters(), lr=0.05)
        self.sched = torch.optim.lr_scheduler.StepLR(self.opt, 1, 0.5)

    def training_step(self):
        x, y = self.batch
        self.loss = self.mse(self.net(x), y)
        self.opt.zero_grad()
        self.loss.backward()
        self.opt.step()

    def evaluate_batch(self, item):
        x, y = self.batch
        self.loss = self.mse(self.net(x), y)

    def on_epoch_end(self):
        self.sched.step()


def networks(trainer):
    return trainer.model if trainer.model is not None else trainer.net


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_equal_runs(whole, resumed):
    for (name, a), b in zip(networks(whole).state_dict().items(), networks(resumed).state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    plain = [{**entry, "seconds": 0} for entry in whole.history]
    assert plain == [{**entry, "seconds": 0} for entry in resumed.history]
    assert resumed.losses == whole.losses
    assert resumed.names == whole.names
    assert resumed.step == whole.step
    for a, b in zip(whole.callbacks, resumed.callbacks, strict=True):
        assert same(a.state_dict(), b.state_dict())
    if whole.events:
        tail = len(resumed.events)
        assert resumed.events == whole.events[-tail:]


def whole_run(kind, **settings):
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    trainer = kind({"_logdir": "whole", **settings})
    trainer.train()
    return trainer


def stopped_run(kind, where, **settings):
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    trainer = kind({"_logdir": "stopped", **settings})
    trainer.stop_after = where
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 143
    # A SIGTERM to the tests themselves ends the run too, and leaves other files than the test is about.
    assert where == (trainer.step if isinstance(where, int) else (trainer.epoch, "valid")), "stopped from outside"
    return trainer


def resumed_run(kind, **settings):
    torch.manual_seed(99)  # must not matter
    trainer = kind({"_logdir": "stopped", **settings})
    trainer.events = []
    trainer.train(resume=True)
    return trainer


SOME = [1, 4, 6, (2, "valid"), 12]


@pytest.mark.parametrize("kind", [Whole, Tensors, Listed, OwnIterator, Wrapped, PerStep, Foreign, Accumulated])
def test_stopping_after_any_step(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(kind)
    everywhere = [*range(1, EPOCHS * BATCHES + 1), (1, "valid"), (2, "valid"), (3, "valid")]
    for where in everywhere if kind is Whole else SOME:
        shutil.rmtree("stopped", ignore_errors=True)
        stopped_run(kind, where)
        resumed = resumed_run(kind)
        assert_equal_runs(whole, resumed)
        assert resumed.run_dir.samefile(Path("stopped") / kind.__name__ / "1")


class Searched(Tensors):
    """Tries learning rates before it trains, on the loader whose epoch is resumed."""

    def on_train_start(self):
        self.found = find_lr(self, num_steps=6)


class Warm(Tensors):
    """Raises its rate in every epoch anew, and counts in a record that every epoch begins."""

    def on_train_epoch_start(self):
        self.set_lr(0.001 * self.epoch)
        self.names["of the epoch"] = 0

    def on_end_training_batch(self):
        super().on_end_training_batch()
        self.set_lr(self.get_lr() * 1.5)
        self.names["of the epoch"] += 1


@pytest.mark.parametrize("kind", [Searched, Warm])
def test_hooks_before_the_first_batch_that_is_left_change_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(kind)
    for where in (6, (2, "valid")):
        shutil.rmtree("stopped", ignore_errors=True)
        stopped_run(kind, where)
        assert_equal_runs(whole, resumed_run(kind))


class Watch(Callback):
    """Notes whether something is left to restore when each hook is called first."""

    def __init__(self):
        self.seen = {}

    def _note(self, hook, trainer):
        resumption = trainer._run_state.resumption
        assert resumption.ended == (not resumption.saved)
        self.seen.setdefault(hook, not resumption.ended)

    def on_train_start(self, trainer):
        self._note("run", trainer)

    def on_train_epoch_start(self, trainer):
        self._note("epoch", trainer)

    def on_start_training_batch(self, trainer):
        self._note("batch", trainer)

    def on_evaluate_epoch_start(self, trainer):
        self._note("evaluation", trainer)


class Watched(Tensors):
    def build_model(self):
        super().build_model()
        self.watch = Watch()
        self.callbacks = [self.watch]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (BATCHES + 2, {"run": True, "epoch": True, "batch": False, "evaluation": False}),  # within an epoch
        (2 * BATCHES, {"run": True, "epoch": True, "evaluation": False, "batch": False}),  # after its last batch
        ((2, "valid"), {"run": True, "epoch": True, "evaluation": False, "batch": False}),
    ],
)
def test_a_checkpoint_is_let_go_once_all_of_it_is_restored(where, left, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped_run(Watched, where)
    resumed = resumed_run(Watched)
    assert resumed.watch.seen == left
    between = Watched({"_logdir": "stopped", "_num_epochs": EPOCHS + 1})
    between.train(resume=resumed.run_dir)
    assert between.watch.seen == {"run": True, "epoch": False, "batch": False, "evaluation": False}
    assert not any(whole_run(Watched).watch.seen.values())


@pytest.mark.slow
def test_with_a_seed_the_number_of_workers_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Alone(Seeded):
        workers = 0

    torch.manual_seed(1)
    alone = Alone({"_save_steps": None})
    alone.train()
    two = Seeded({"_save_steps": None})
    two.train()
    assert_equal_runs(alone, two)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Workers, Seeded])
def test_stopping_after_any_step_with_workers(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(kind)
    for where in (1, 4, 6, (2, "valid"), 11):
        shutil.rmtree("stopped", ignore_errors=True)
        stopped_run(kind, where)
        assert_equal_runs(whole, resumed_run(kind))


def test_an_exception_leaves_a_file_from_which_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Falls(Tensors):
        def compute_loss(self):
            if self.step == 6 and self._logdir == "stopped" and not self.config.get("again"):
                raise OSError("a cable was pulled")
            return super().compute_loss()

    whole = whole_run(Falls, _save_steps=None)
    torch.manual_seed(7)
    trainer = Falls({"_logdir": "stopped", "_save_steps": None})
    with pytest.raises(OSError, match="a cable was pulled"):
        trainer.train()
    names = {path.name for path in (trainer.run_dir / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "best.ckpt", "crash.ckpt", "index.json"}
    resumed = resumed_run(Falls, _save_steps=None, again=True)
    assert resumed.events.count(("start", 2, 1)) == 2  # the batch that fell is trained anew
    whole.events = []
    assert_equal_runs(whole, resumed)


class Staged(Tensors):
    def define_train_attr(self):
        self._stages = [Stage("first", 1), Stage("second", 2)]

    def on_stage_start(self):
        if self.stage.name == "second":
            self.model[0].requires_grad_(False)
            self.optimizer = torch.optim.Adam(self.model[-1].parameters(), lr=0.01)
            self.scheduler = None

    def on_stage_end(self):
        self.events.append(("stage", self.stage.name))


def test_a_run_with_stages_goes_on_in_its_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(Staged)
    for where in (2, 4, 5, (1, "valid"), 9, 12):
        shutil.rmtree("stopped", ignore_errors=True)
        stopped_run(Staged, where)
        assert_equal_runs(whole, resumed_run(Staged))


def test_stopping_several_times(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(Whole)
    stopped_run(Whole, 3)
    for where in (5, 7, (2, "valid"), 10):
        trainer = Whole({"_logdir": "stopped"})
        trainer.stop_after = where
        with pytest.raises(SystemExit):
            trainer.train(resume=True)
    assert_equal_runs(whole, resumed_run(Whole))


def test_a_background_writer_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(Whole)
    stopped_run(Whole, 6, _async_checkpoint=True)
    assert_equal_runs(whole, resumed_run(Whole, _async_checkpoint=True))


def test_a_finished_run_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(Tensors)
    again = Tensors({"_logdir": "whole", "_verbose": True})
    history = again.train(resume=True)
    assert "already at epoch 3 of 3" in capsys.readouterr().out
    assert [e["epoch"] for e in history] == [1, 2, 3]
    assert again.step == whole.step
    assert torch.equal(again.model[0].weight, whole.model[0].weight)
    more = Tensors({"_logdir": "whole", "_num_epochs": 4})
    assert [e["epoch"] for e in more.train(resume=True)] == [1, 2, 3, 4]
    lines = (more.run_dir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4


def test_nothing_to_resume_starts_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Tensors({"_verbose": True}).train(resume=True)
    assert f"nothing to resume in {Path('runs') / 'Tensors'}: starting from epoch 1" in capsys.readouterr().out


def test_a_path_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.ckpt"):
        Tensors().train(resume="nowhere.ckpt")
    with pytest.raises(ConfigError, match=r"train\(resume=3\): expected True, False, or the path"):
        Tensors().train(resume=3)
    with pytest.raises(ConfigError, match="_logdir is None"):
        Tensors({"_logdir": None}).train(resume=True)


def test_damaged_files_are_passed_over_and_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(Tensors)
    stopped = stopped_run(Tensors, 7)
    folder = stopped.run_dir / "checkpoints"
    last = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").unlink()  # best.ckpt is another name of an older file
    (folder / "last.ckpt").write_bytes(last[: len(last) // 2])
    resumed = resumed_run(Tensors, _verbose=True)
    out = capsys.readouterr().out
    assert out.count("passed over: ") == 1 and "last.ckpt" in out
    assert "best.ckpt" in out
    assert_equal_runs(whole, resumed)


def test_if_no_file_is_intact_nothing_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped = stopped_run(Tensors, 7)
    for path in (stopped.run_dir / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"")
    trainer = Tensors({"_logdir": "stopped"})
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        trainer.train(resume=True)
    assert trainer.step == 0


def test_without_an_index_or_with_a_wrong_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = whole_run(Tensors)
    for content in (None, "{", '{"finished": true}', '{"finished": false, "files": {"last.ckpt": {"step": 0}}}', "[]"):
        shutil.rmtree("stopped", ignore_errors=True)
        index = stopped_run(Tensors, 6).run_dir / "checkpoints" / "index.json"
        index.unlink()
        if content is not None:
            index.write_text(content)
        assert_equal_runs(whole, resumed_run(Tensors))


def test_other_settings_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stopped_run(Tensors, 4)

    class Other(Tensors):
        def get_trainloader(self):
            super().get_trainloader()
            self.train_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4)

        def build_model(self):
            super().build_model()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5, momentum=0.9)
            self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    Other.__name__ = "Tensors"
    Other({"_logdir": "stopped", "_verbose": True}).train(resume=True)
    out = capsys.readouterr().out
    assert "batch size was 3, is 4" in out
    assert "optimizer lr was 0.01, is 0.5" in out


def test_another_model_or_optimizer_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped_run(Tensors, 6)

    class Tensors2(Tensors):
        def build_model(self):
            super().build_model()
            self.optimizer = torch.optim.Adam(self.model.parameters())
            self.scheduler = None

    Tensors2.__name__ = "Tensors"
    with pytest.raises(CheckpointError, match="self.optimizer was a SGD"):
        Tensors2({"_logdir": "stopped"}).train(resume=True)

    class Tensors3(Tensors):
        def build_model(self):
            super().build_model()
            self.model = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 1))
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
            self.scheduler = None

    Tensors3.__name__ = "Tensors"
    with pytest.raises(CheckpointError, match=r"mismatched: 0.weight: \(8, 3\) in the file, \(9, 3\) in the model"):
        Tensors3({"_logdir": "stopped"}).train(resume=True)


def test_signals_leave_their_handlers_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append("mine"))
    mine = signal.getsignal(signal.SIGTERM)
    try:
        stopped_run(Tensors, 2)
        assert called == ["mine"]
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_user_signal_saves_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Asked(Tensors):
        def on_end_training_batch(self):
            super().on_end_training_batch()
            if self.step == 6:
                signal.raise_signal(signal.SIGUSR1)
            if self.step == 7:
                kept = torch.load(self.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
                self.found = kept["step"]

    trainer = Asked({"_save_steps": None})
    assert len(trainer.train()) == EPOCHS
    assert trainer.found == 6


@pytest.mark.parametrize(("at", "ends"), [(2, 3), (4, 5), (6, 7), (EPOCHS * BATCHES, EPOCHS * BATCHES)])
def test_a_signal_that_comes_while_a_checkpoint_is_written_is_not_lost(tmp_path, monkeypatch, at, ends):
    monkeypatch.chdir(tmp_path)

    class Signalled:
        def state_dict(self):
            if trainer.step == at:  # step 2 asks by a signal, 4 and 12 end an epoch, 6 is saved by its number
                signal.raise_signal(signal.SIGTERM)
            return {}

        def load_state_dict(self, state):
            raise AssertionError

    class Asked(Tensors):
        def on_end_training_batch(self):
            super().on_end_training_batch()
            if self.step == 2 == at:
                signal.raise_signal(signal.SIGUSR1)

    trainer = Asked({"_save_steps": 6})
    trainer.part = Signalled()
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 143
    kept = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["step"] == trainer.step == ends


def test_ctrl_c_finishes_the_step_and_a_second_one_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Interrupted(Tensors):
        def compute_loss(self):
            loss = super().compute_loss()
            if self.step == 6:
                for _ in range(self.config["times"]):
                    signal.raise_signal(signal.SIGINT)
            return loss

    once = Interrupted({"times": 1, "_save_steps": None})
    with pytest.raises(KeyboardInterrupt):
        once.train()
    kept = torch.load(once.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["step"] == 6 and len(once.losses) == 6
    twice = Interrupted({"times": 2, "_save_steps": None})
    with pytest.raises(KeyboardInterrupt):
        twice.train()
    assert len(twice.losses) == 5
    kept = torch.load(twice.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["step"] == 4


def test_a_state_that_no_file_can_hold_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Odd(Counter):
        def state_dict(self):
            return {"file": Path("x"), "fine": 1}

    trainer = Tensors()
    trainer.callbacks = [Odd()]
    with pytest.raises(ConfigError, match=r"the state of Odd\['file'\] is a pathlib"):
        trainer.train()


def test_what_a_hook_adds_to_the_history_stays_readable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Adds(Tensors):
        def on_epoch_end(self):
            self.history[-1]["mine"] = np.float64(self.epoch)

    trainer = Adds()
    trainer.train()
    kept = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert [entry["mine"] for entry in kept["run"]["history"]] == [1.0, 2.0, 3.0]


def test_copies_of_a_trainer_train_on_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Tensors({"_async_checkpoint": True})
    trainer.train()
    again = copy.deepcopy(trainer)
    again.train()
    assert again.run_dir != trainer.run_dir


@pytest.mark.slow
@pytest.mark.integration
def test_the_example_with_stages_is_killed_and_lands_in_its_second_stage(tmp_path):
    command = [sys.executable, "-u", str(ROOT / "examples" / "stages.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    shutil.rmtree(tmp_path / "runs")
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith(" 6/10"):
                process.kill()
    assert process.returncode == -signal.SIGKILL
    command.append("--resume")
    resumed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "stage pretrain" not in resumed and "stage classify: epochs 7 to 10" in resumed
    assert resumed.splitlines()[-1] == whole.splitlines()[-1] and "test accuracy 0." in whole
