"""A model of the whole: trainers that are drawn, killed at a point that is drawn, go on as if nothing had been."""

import multiprocessing
import os
import random
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from farabio_like import ConvnetTrainer, Stage
from farabio_like.callbacks import EMA, SWA, Checkpoint, Freeze

X = torch.linspace(-1, 1, 72).reshape(18, 4)
Y = X.sum(1, keepdim=True).sin()
EPOCHS, BATCHES = 3, 4  # 18 samples in batches of 5: the last one has 3


class Data(Dataset):
    """Samples with random numbers of every kind, of a scale that a hook may change."""

    def __init__(self):
        self.scale, self.own = 1.0, np.random.default_rng(2)

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(()).item() + self.own.random()
        return X[index] * self.scale + 0.01 * noise, Y[index]


class Meter:
    def __init__(self):
        self.total, self.values = torch.zeros(()), []


class Drawn(ConvnetTrainer):
    """A trainer as its configuration says; `die` is called wherever it may be killed."""

    die = staticmethod(lambda trainer, where: None)

    def define_misc_attr(self):
        config = self.config
        self._device, self._verbose, self._num_epochs = "cpu", False, EPOCHS
        self._save_steps, self._save_epoch, self._seed = config.save_steps, config.save_epoch, config.seed
        self._accumulation_steps, self._clip_norm = config.accumulation, config.clip
        self._scheduler_step = "step" if config.schedule in ("one cycle", "cosine per step") else "epoch"
        if config.stages:
            self._stages = [Stage("first", 1), Stage("second", EPOCHS - 1, clip_norm=0.1)]
        averages = {"ema": [EMA(0.8)], "ema every two": [EMA(0.7, every=2, warmup_steps=2)], "swa": [SWA(2)]}
        self.callbacks = averages.get(config.average, [])
        if config.freezing == "callback":
            self.callbacks = [*self.callbacks, Freeze("0.*", until_epoch=2)]
        if config.checkpoint:
            self.callbacks = [*self.callbacks, Checkpoint("train/loss", top_k=1, every_epochs=1)]
        self.meter, self.drawn = Meter(), np.random.RandomState(4)

    def get_trainloader(self):
        self.data, kind = Data(), self.config.sampler
        if kind == "weights":
            self.train_loader = DataLoader(self.data, 5, sampler=WeightedRandomSampler(torch.arange(1.0, 19.0), 18))
        elif kind == "list":
            self.train_loader = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 18, 5)]
        else:
            generator = torch.Generator().manual_seed(1) if kind == "generator" else None
            self.train_loader = DataLoader(self.data, 5, shuffle=True, generator=generator)
        self.valid_loader = DataLoader(self.data, 9)

    def build_model(self):
        torch.manual_seed(0)
        parts = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1)]
        self.model, self.criterion = nn.Sequential(*parts), nn.SmoothL1Loss()
        if self.config.freezing in ("thaw", "add group"):
            self.model[0].requires_grad_(False)
        self.make_optimizer(self.config.optimizer)
        self.shadow = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def make_optimizer(self, kind):
        head = self.config.freezing == "add group"
        chosen = list(self.model[4].parameters() if head else self.model.parameters())
        groups = [{"params": chosen[:1], "weight_decay": 0.01}, {"params": chosen[1:]}]
        self.optimizer = {
            "sgd": lambda: torch.optim.SGD(chosen, lr=0.05, momentum=0.9),
            "adam": lambda: torch.optim.Adam(groups, lr=0.02),
            "rmsprop": lambda: torch.optim.RMSprop(chosen, lr=0.01, centered=True),
            "adamw": lambda: torch.optim.AdamW(groups, lr=0.02, amsgrad=True),
        }[kind]()
        self.scheduler = self.by_hand = None
        make = {
            "step": lambda o: lr_scheduler.StepLR(o, 1, 0.7),
            "cosine per step": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
            "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=EPOCHS * BATCHES + 1),
            "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.5),
            "warm-up": lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LinearLR(o, 0.3, total_iters=1), lr_scheduler.ExponentialLR(o, 0.8)], [1]
            ),
        }.get(self.config.schedule)
        if make is not None:
            self.scheduler = make(self.optimizer)
        if self.config.schedule == "by hand":
            self.by_hand = lr_scheduler.ExponentialLR(self.optimizer, 0.8)

    def on_stage_start(self):
        if self.stage.name == "second" and self.config.stages == "other optimizer":
            self.make_optimizer("sgd")

    def on_train_epoch_start(self):
        if self.epoch == self.config.epoch:
            self.change("epoch")
        self.die(self, "epoch start")

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if self.step == self.config.epoch * BATCHES - 1:
            self.change("batch")
        self.die(self, "batch start")

    def change(self, when):
        changes = self.config.changes if self.config.change_in == when else ()
        if when == self.config.change_in and self.config.freezing in ("thaw", "add group"):
            self.model[0].requires_grad_(True)
            if self.config.freezing == "add group" and len(self.optimizer.param_groups) < 3:
                self.optimizer.add_param_group({"params": self.model[0].parameters(), "lr": 0.005})
        if "dropout" in changes:
            self.model[3].p = 0.1
        if "criterion" in changes:
            self.criterion.beta = 0.2
        if "another criterion" in changes:
            self.criterion = nn.HuberLoss(delta=0.3)
        if "clip" in changes:
            self._clip_norm = 0.05
        if "data" in changes:
            self.data.scale = 1.5
        if "momentum of the norm" in changes:
            self.model[1].momentum = None
        if "rate" in changes:
            self.set_lr(0.011)
        if "optimizer" in changes:
            self.optimizer = torch.optim.Adagrad(self.model.parameters(), lr=0.03)

    def optimizer_step(self):
        super().optimizer_step()
        for name, p in self.model.named_parameters():
            self.shadow[name].lerp_(p.detach(), 0.3)

    def on_end_training_batch(self):
        self.meter.total += self.loss.detach()
        self.meter.values.append(self.loss.item() * self.drawn.rand())
        self.die(self, "batch end")

    def on_train_epoch_end(self):
        self.die(self, "training end")

    def on_evaluate_epoch_start(self):
        if self.config.average == "by hand":
            self.raw = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            self.put(self.shadow)

    def on_evaluate_batch_end(self):
        self.meter.total += 0.5 * self.loss
        self.die(self, "evaluation")

    def on_evaluate_epoch_end(self):
        if self.config.average == "by hand":
            self.put(self.raw)

    def put(self, values):
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(values[name])

    def on_epoch_end(self):
        if self.by_hand is not None:
            self.by_hand.step()
        self.meter.values.append(-1.0)
        self.die(self, "epoch end")


CHANGES = ["dropout", "criterion", "another criterion", "data", "momentum of the norm", "rate", "clip", "optimizer"]
PLACES = ("epoch start", "batch start", "batch end", "training end", "evaluation", "epoch end")
CONFIGS = st.fixed_dictionaries(
    {
        "optimizer": st.sampled_from(["sgd", "adam", "rmsprop", "adamw"]),
        "schedule": st.sampled_from([None, "step", "cosine per step", "one cycle", "plateau", "warm-up", "by hand"]),
        "average": st.sampled_from([None, "ema", "ema every two", "swa", "by hand"]),
        "freezing": st.sampled_from([None, "callback", "thaw", "add group"]),
        "stages": st.sampled_from([None, None, "two", "other optimizer"]),
        "sampler": st.sampled_from(["shuffle", "weights", "list", "generator"]),
        "changes": st.sets(st.sampled_from(CHANGES), max_size=3).map(sorted),
        "change_in": st.sampled_from(["epoch", "batch"]),
        "epoch": st.integers(1, EPOCHS),
        "accumulation": st.sampled_from([1, 1, 2, 3]),
        "clip": st.sampled_from([None, 0.5]),
        "seed": st.sampled_from([None, 7]),
        "save_steps": st.integers(1, 4),
        "save_epoch": st.integers(1, 2),
        "checkpoint": st.booleans(),
    }
)
KILLS = st.lists(
    st.tuples(st.integers(1, EPOCHS * BATCHES), st.sampled_from(PLACES), st.sampled_from(["kill", "signal"])),
    min_size=1,
    max_size=2,
)


def sensible(config):
    """Return whether torch itself can run such a trainer."""
    grows = config["freezing"] == "add group"
    replaced = "optimizer" in config["changes"]
    per_group = ("cosine per step", "one cycle", "warm-up", "plateau")
    return not (grows and (config["schedule"] in per_group or config["stages"] == "other optimizer" or replaced))


def seed(number):
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(number)


def dies_at(step, where, how):
    """Return what ends a run once, at a place at or after a step: at once, with what is in its files, or by SIGTERM."""
    left = [True]

    def die(trainer, place):
        if left[0] and place == where and trainer.step >= step:
            left[0] = False
            if how == "signal":
                signal.raise_signal(signal.SIGTERM)
            elif how == "kill -9":
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise KeyboardInterrupt  # that no signal has asked for: nothing more is written

    return die


def run(config, logdir, die=None, resume=False):
    seed(3)  # as a script that begins by seeding; a run that goes on must not depend on it
    if resume and (Path(logdir) / "Drawn" / "1" / "checkpoints").is_dir():
        seed(99)
    trainer = Drawn(config)
    trainer._logdir = logdir
    if die is not None:
        trainer.die = die
    try:
        trainer.train(resume=resume)
    except (KeyboardInterrupt, SystemExit):
        pass
    return trainer


def outcome(trainer):
    weights = [value.tolist() for value in trainer.model.state_dict().values()]
    history = [{name: value for name, value in entry.items() if name != "seconds"} for entry in trainer.history]
    others = trainer.meter.total.item(), trainer.meter.values, trainer.data.scale, trainer.get_lr(), trainer.step
    return {"weights": weights, "history": history, "others": others}


def saved_anything(logdir):
    return any(Path(logdir).rglob("*.ckpt"))


def check(config, kills):
    folder = tempfile.mkdtemp(dir=".")
    whole = outcome(run(config, f"{folder}/whole"))
    for step, where, how in kills:
        trainer = run(config, f"{folder}/cut", dies_at(step, where, how), resume=saved_anything(folder + "/cut"))
        if not saved_anything(f"{folder}/cut"):
            return  # there is nothing to go on from
        if len(trainer.history) == EPOCHS and trainer._run_state.progress.last_epoch_done == EPOCHS:
            break  # it came to its end before that step
    else:
        trainer = run(config, f"{folder}/cut", resume=True)
    assert outcome(trainer) == whole


COMMON = dict(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=15, **COMMON)
@given(CONFIGS, KILLS)
def test_a_trainer_that_is_drawn_goes_on_as_if_it_had_not_been_killed(config, kills):
    assume(sensible(config))
    check(config, kills)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(max_examples=200, phases=[Phase.explicit, Phase.generate], **COMMON)
@given(CONFIGS, KILLS)
def test_two_hundred_trainers_go_on_as_if_they_had_not_been_killed(config, kills):
    assume(sensible(config))
    check(config, kills)


PLAIN = {
    **{"optimizer": "adam", "schedule": "by hand", "average": "ema", "freezing": "thaw", "stages": None},
    **{"sampler": "shuffle", "changes": ["criterion", "data", "dropout"], "change_in": "epoch", "epoch": 2},
    **{"accumulation": 2, "clip": 0.5, "seed": None, "save_steps": 2, "save_epoch": 1, "checkpoint": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
def test_the_same_after_kill_9(where):
    whole = outcome(run(PLAIN, "whole"))
    child = multiprocessing.get_context("fork").Process(target=run, args=(PLAIN, "cut", dies_at(7, where, "kill -9")))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert outcome(run(PLAIN, "cut", resume=True)) == whole
