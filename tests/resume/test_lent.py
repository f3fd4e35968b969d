"""A file holds the weights of the training, whatever is in the model when it is written, and nothing is done twice."""

import copy
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback, ConvnetTrainer
from farabio_like.callbacks import EMA, SWA, Checkpoint

X = torch.linspace(-1, 1, 96).reshape(24, 4)
Y = X.sum(1, keepdim=True).sin()
EPOCHS, BATCHES = 4, 4
SAVES = ("on_evaluate_epoch_start", "on_evaluate_batch_end", "on_evaluate_epoch_end", "on_epoch_end")


class Run(ConvnetTrainer):
    """Saves in one hook of epoch 2, or is stopped there, as `where` says; a schedule stepped by the base."""

    where, stops = None, False

    def define_misc_attr(self):
        self._num_epochs, self._verbose, self._device = EPOCHS, False, "cpu"

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(X, Y), 6, shuffle=True)
        self.valid_loader = DataLoader(TensorDataset(X, Y), 12)

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.scheduler = lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def save_in(self, hook):
        if self.where == hook and self.epoch == 2:
            if self.stops:
                signal.raise_signal(signal.SIGTERM)
            else:
                self.save_checkpoint("mine.ckpt")

    def on_train_epoch_start(self):
        self.save_in("on_train_epoch_start")

    def on_end_training_batch(self):
        if self.step == 6:
            self.save_in("on_end_training_batch")

    def on_train_epoch_end(self):
        self.save_in("on_train_epoch_end")

    def on_evaluate_epoch_start(self):
        self.save_in("on_evaluate_epoch_start")

    def on_evaluate_batch_end(self):
        self.save_in("on_evaluate_batch_end")

    def on_evaluate_epoch_end(self):
        self.save_in("on_evaluate_epoch_end")

    def on_epoch_end(self):
        self.save_in("on_epoch_end")


class Ours(Run):
    def define_train_attr(self):
        self.ema = EMA(0.8)
        self.callbacks = [self.ema]


class OursWithinABlock(Ours):
    """Evaluates and saves with the averages where a user asks for them, in every hook."""

    def save_in(self, hook):
        with self.ema.applied(self):
            super().save_in(hook)


class Averages(Run):
    """An average by hand, that `enter` and `leave` put into the model."""

    def build_model(self):
        super().build_model()
        self.shadow = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.backup = {}

    def optimizer_step(self):
        super().optimizer_step()
        for name, p in self.model.named_parameters():
            self.shadow[name].lerp_(p.detach(), 0.2)

    def enter(self):
        self.backup = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(self.shadow[name])

    def leave(self):
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(self.backup[name])

    def on_evaluate_epoch_start(self):
        self.enter()
        super().on_evaluate_epoch_start()

    def on_evaluate_epoch_end(self):
        super().on_evaluate_epoch_end()
        self.leave()


class ByData(Averages):
    """As old code does it: ``.data``, which counts no version."""

    def enter(self):
        self.backup = {name: p.data.clone() for name, p in self.model.named_parameters()}
        for name, p in self.model.named_parameters():
            p.data.copy_(self.shadow[name])

    def leave(self):
        for name, p in self.model.named_parameters():
            p.data = self.backup[name]


class ByStateDict(Averages):
    def enter(self):
        self.backup = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict({**self.backup, **self.shadow})

    def leave(self):
        self.model.load_state_dict(self.backup)


class OtherModule(Run):
    """Two networks that change places while it evaluates."""

    def build_model(self):
        super().build_model()
        self.average = copy.deepcopy(self.model).requires_grad_(False)

    def optimizer_step(self):
        super().optimizer_step()
        for old, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            old.data.lerp_(new.data, 0.2)

    def on_evaluate_epoch_start(self):
        self.model, self.average = self.average, self.model
        super().on_evaluate_epoch_start()

    def on_evaluate_epoch_end(self):
        super().on_evaluate_epoch_end()
        self.model, self.average = self.average, self.model


class FromTheTrainingOn(Averages):
    """Puts the averages in when the training batches end, and takes them out when the epoch does."""

    def on_train_epoch_end(self):
        self.enter()
        Run.on_train_epoch_end(self)

    def on_evaluate_epoch_start(self):
        Run.on_evaluate_epoch_start(self)

    def on_evaluate_epoch_end(self):
        Run.on_evaluate_epoch_end(self)

    def on_epoch_end(self):
        Run.on_epoch_end(self)
        self.leave()


class Lends(Callback):
    """A callback of the user's that lends weights of its own."""

    order = 5

    def on_evaluate_epoch_start(self, trainer):
        self.raw = copy.deepcopy(trainer.model.state_dict())
        with torch.no_grad():
            for p in trainer.model.parameters():
                p.mul_(0.5)

    def on_evaluate_epoch_end(self, trainer):
        trainer.model.load_state_dict(self.raw)


class Saves(Callback):
    def on_evaluate_batch_end(self, trainer):
        Run.save_in(trainer, "callback")


class ByACallback(Run):
    def define_train_attr(self):
        self.callbacks = [Lends(), Saves()]


class ByHandAtTheEnd(Run):
    """What on_epoch_end does by hand: a schedule, a rate, weights, meters, a counter in the model."""

    def build_model(self):
        super().build_model()
        self.scheduler, self.sched = None, lr_scheduler.StepLR(self.optimizer, 1, 0.8)
        self.meter, self.factor = Meter(), 1.0

    def on_evaluate_batch_end(self):
        self.meter.values.append(self.loss.detach())
        super().on_evaluate_batch_end()

    def on_epoch_end(self):
        self.sched.step()
        self.set_lr(self.get_lr() * (1 + 0.1 * sum(self.meter.values).item()))
        self.model[3].p *= 0.9
        with torch.no_grad():
            self.model[4].weight *= 0.9
        super().on_epoch_end()
        self.sched.last_epoch += 0


class Meter:
    def __init__(self):
        self.values = []


class EndOfTheRun(Run):
    def define_train_attr(self):
        self.callbacks = [SWA(2)]


def train(kind, where=None, stops=False, resume=False, logdir="runs"):
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(3 if not resume else 99)
    trainer = kind()
    trainer.where, trainer.stops, trainer._logdir = where, stops, logdir
    if stops:
        with pytest.raises(SystemExit):
            trainer.train(resume=resume)
    else:
        trainer.train(resume=resume)
    return trainer


def assert_same(whole, resumed, where):
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs), where
    assert [entry["valid"] for entry in resumed.history] == [entry["valid"] for entry in whole.history], where
    assert [entry["lr"] for entry in resumed.history] == [entry["lr"] for entry in whole.history], where


KINDS = {
    Ours: (*SAVES, "on_train_epoch_end"),
    OursWithinABlock: ("on_train_epoch_start", "on_end_training_batch", "on_train_epoch_end", "on_epoch_end"),
    **dict.fromkeys((Averages, ByData, ByStateDict, OtherModule), SAVES[:3]),
    FromTheTrainingOn: (*SAVES, "on_train_epoch_end"),
    ByACallback: ("callback",),
    ByHandAtTheEnd: ("on_evaluate_batch_end", "on_epoch_end"),
    EndOfTheRun: ("on_train_epoch_end", "on_epoch_end"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_any_hook_holds_the_weights_of_the_training(kind):
    whole = train(kind, logdir="whole")
    for where in KINDS[kind]:
        train(kind, where)
        assert_same(whole, train(kind, resume="mine.ckpt", logdir="other"), where)


@pytest.mark.parametrize("kind", [*list(KINDS)[:7], ByACallback, ByHandAtTheEnd])
def test_a_signal_while_other_weights_are_lent(kind):
    whole = train(kind, logdir="whole")
    where = "callback" if kind is ByACallback else "on_evaluate_batch_end"
    stopped = train(kind, where, stops=True)
    assert_same(whole, train(kind, resume=stopped.run_dir), where)


class Kept(ByHandAtTheEnd):
    def define_train_attr(self):
        self.callbacks = [EMA(0.8), Checkpoint("train/loss", top_k=0, every_epochs=1)]


def test_the_files_of_the_checkpoint_callback_go_on_as_the_run_did():
    whole = train(Kept, logdir="whole")
    for epoch in (1, 3):
        path = whole.run_dir / "checkpoints" / f"epoch-{epoch:04d}.ckpt"
        assert_same(whole, train(Kept, resume=path, logdir="other"), epoch)


class Fails(ByHandAtTheEnd):
    fails = True

    def on_epoch_end(self):
        super().on_epoch_end()
        if self.epoch == 2 and self.fails:
            raise ZeroDivisionError


def test_an_error_after_a_hook_has_done_its_work_does_not_do_it_twice(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        train(Fails)
    monkeypatch.setattr(Fails, "fails", False)
    assert_same(train(Fails, logdir="whole"), train(Fails, resume=True), "crash")


def test_a_copy_of_the_weights_is_kept_only_where_hooks_could_lend_others():
    class Quiet(Run):
        on_evaluate_epoch_start = ConvnetTrainer.on_evaluate_epoch_start
        on_evaluate_epoch_end = ConvnetTrainer.on_evaluate_epoch_end
        on_epoch_end = ConvnetTrainer.on_epoch_end

        def on_evaluate_batch_end(self):
            self.kept = "model" in self._run_state.progress.evaluation_records

    class Loud(Quiet):
        def on_epoch_end(self):
            pass

    assert [train(kind).kept for kind in (Quiet, Loud)] == [False, True]
    assert train(Loud)._run_state.progress.evaluation_records is None
