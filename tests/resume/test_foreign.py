"""Trainers as other people write them: stopped after any step, they go on as if they had never been."""

import collections
import copy
import itertools
import logging
import math
import shutil
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader

from farabio_like import ConvnetTrainer
from farabio_like.checkpoint import objects as user_objects

from .test_resume import BATCHES, EPOCHS, INPUTS, TARGETS, Augmented, stopped_run, whole_run


class Stopping(ConvnetTrainer):
    """What all of them have: data that draw random numbers, a save after every step, and a record to compare."""

    def define_misc_attr(self):
        self._device, self._verbose, self._num_epochs, self._save_steps = "cpu", False, EPOCHS, 1
        for name, value in self.config.items():
            setattr(self, name, value)
        self.stop_after, self.seen = None, []

    def get_trainloader(self):
        self.train_loader = DataLoader(Augmented(), batch_size=3, shuffle=True)
        self.valid_loader = DataLoader(Augmented(), batch_size=4)

    def on_end_training_batch(self):
        self.seen.append(self.what_counts())
        if self.stop_after == self.step:
            signal.raise_signal(signal.SIGTERM)


def network():
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def numbers(module):
    return [value.double().sum().item() for value in module.state_dict().values()]


@dataclass
class State:
    """As argus and ignite keep it."""

    iteration: int = 0
    best: float = math.inf
    losses: list = field(default_factory=list)
    last: torch.Tensor = None


@dataclass(frozen=True)
class Progress:
    samples: int = 0


class Argus(Stopping):
    """Everything under names of its own, the step returns a dict, counters in dataclasses."""

    def build_model(self):
        torch.manual_seed(0)
        self.nn_module, self.loss_fn = network(), nn.MSELoss()
        self.optim = torch.optim.Adam(self.nn_module.parameters(), lr=0.01)
        self.state, self.progress = State(), Progress()

    def training_step(self):
        self.nn_module.train()
        self.optim.zero_grad()
        x, y = self.batch
        loss = self.loss_fn(self.nn_module(x), y)
        loss.backward()
        self.optim.step()
        self.state.iteration += 1
        self.state.losses.append(loss.detach())
        self.state.last = loss.detach()
        self.state.best = min(self.state.best, loss.item())
        self.progress = replace(self.progress, samples=self.progress.samples + len(x))

    def evaluate_batch(self, item):
        pass

    def what_counts(self):
        state = self.state
        total = torch.stack(state.losses).sum().item()
        return state.iteration, state.best, total, state.last.item(), self.progress.samples, numbers(self.nn_module)


class AverageMeter:
    """From PyTorch's ImageNet example."""

    def __init__(self, name):
        self.name = name
        self.reset()

    def reset(self):
        self.sum = self.count = 0.0
        self.avg = None

    def update(self, value, n):
        self.sum, self.count = self.sum + value * n, self.count + n
        self.avg = self.sum / self.count


class ImageNet(Stopping):
    """Meters of its own, learning rate by the epoch's number and by a factor that it keeps, records in arrays."""

    def build_model(self):
        torch.manual_seed(0)
        self.model, self.criterion = network(), nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.meters = {"loss": AverageMeter("loss"), "others": [AverageMeter("a"), AverageMeter("b")]}
        self.args = SimpleNamespace(lr=0.05, patience=0)
        self.best = math.inf
        self.confusion, self.window = np.zeros((2, 2), dtype=np.int64), collections.deque(maxlen=4)

    def on_train_epoch_start(self):
        self.meters["loss"].reset()
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * 0.9**self.epoch

    def training_step(self):
        super().training_step()
        loss = self.loss.item()
        self.meters["loss"].update(loss, len(self.inputs))
        self.meters["others"][self.step % 2].update(loss, 1)
        self.window.append(loss)
        self.confusion[self.step % 2, int(loss > 1)] += 1
        if self.meters["loss"].avg > sum(self.window) / len(self.window):
            self.args.lr *= 0.99
            self.args.patience += 1

    def on_epoch_end(self):
        self.best = min(self.best, self.epoch_metrics["valid"]["loss"])

    def what_counts(self):
        meters = [self.meters["loss"], *self.meters["others"]]
        return (
            *(vars(meter).copy() for meter in meters),
            *(vars(self.args).copy(), self.best, self.confusion.tolist(), list(self.window), numbers(self.model)),
        )


class Averages(Stopping):
    """Moving averages by hand, in each way in which people write them, tested on one of them."""

    def build_model(self):
        torch.manual_seed(0)
        self.model, self.criterion = network(), nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.frozen = copy.deepcopy(self.model).requires_grad_(False)
        self.shadow = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.helper = Helper(self.model)
        self.features = network().requires_grad_(False)  # never changes

    def optimizer_step(self):
        super().optimizer_step()
        for old, new in zip(self.frozen.parameters(), self.model.parameters(), strict=True):
            old.data.mul_(0.9).add_(new.data, alpha=0.1)
        for name, value in self.model.named_parameters():
            self.shadow[name] = 0.9 * self.shadow[name] + 0.1 * value.detach()
        self.helper.update()

    def evaluate_batch(self, item):
        self.loss = self.criterion(self.frozen(self.inputs), self.targets)

    def what_counts(self):
        shadow = [value.sum().item() for value in self.shadow.values()]
        return numbers(self.frozen), shadow, numbers(self.helper.average), self.helper.updates, numbers(self.model)


class Helper:
    """An average as timm and YOLO keep it: an object with a copy of the model, the model itself, and a scheduler."""

    def __init__(self, model):
        self.model, self.average, self.updates = model, copy.deepcopy(model).requires_grad_(False), 0
        self.optimizer = torch.optim.SGD(self.average.parameters(), lr=1.0)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.9)

    def update(self):
        self.updates += 1
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                old.lerp_(new, 0.1 * self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()


class Gan(Stopping):
    """Two networks and optimizers in attributes, a pool of old images, steps in turn, noise of its own generator."""

    def build_model(self):
        torch.manual_seed(0)
        self.net_g, self.net_d = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        self.opt_g = torch.optim.Adam(self.net_g.parameters(), lr=0.01)
        self.opt_d = torch.optim.Adam(self.net_d.parameters(), lr=0.01)
        self.schedulers = [torch.optim.lr_scheduler.StepLR(o, 5, 0.5) for o in (self.opt_g, self.opt_d)]
        self.noise, self.choose = torch.Generator().manual_seed(3), np.random.default_rng(3)
        self.pool, self.totals = [], {"g": torch.zeros(()), "d": torch.zeros(())}

    def training_step(self):
        fake = self.net_g(torch.randn(len(self.inputs), 2, generator=self.noise))
        self.pool.append(fake.detach())
        old = self.pool[self.choose.integers(len(self.pool))]
        loss_d = self.net_d(old).mean() - self.net_d(self.inputs).mean()
        self.opt_d.zero_grad()
        loss_d.backward()
        self.opt_d.step()
        loss_g = -self.net_d(fake).mean()
        self.opt_g.zero_grad()
        loss_g.backward()
        self.opt_g.step()
        for scheduler in self.schedulers:
            scheduler.step()
        self.totals["g"] += loss_g.detach()
        self.totals["d"] += loss_d.detach()

    def evaluate_batch(self, item):
        pass

    def what_counts(self):
        totals = {name: value.item() for name, value in self.totals.items()}
        return totals, len(self.pool), self.schedulers[0].get_last_lr(), numbers(self.net_g), numbers(self.net_d)


class Farabio(Stopping):
    """Batches by an iterator of its own, weights by files of its own, sums reset in its hooks."""

    def build_model(self):
        torch.manual_seed(0)
        self.model, self.criterion = network(), nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.train_losses, self.best_loss = [], float("inf")

    def on_train_epoch_start(self):
        self.running, self.train_epoch_iter = 0, enumerate(self.train_loader)

    def on_start_training_batch(self, args):
        self.number, (x, y) = args
        self.images, self.labels = x.to(self.device), y.to(self.device)

    def training_step(self):
        self.optimizer.zero_grad()
        self.outputs = self.model(self.images)
        self.loss = self.criterion(self.outputs, self.labels)
        self.loss.backward()
        self.optimizer.step()
        self.running += self.loss.item() * len(self.images)

    def on_train_epoch_end(self):
        self.train_losses.append(self.running / len(INPUTS))

    def on_evaluate_epoch_start(self):
        self.valid_epoch_iter, self.total = iter([(INPUTS, TARGETS)]), 0.0

    def on_evaluate_batch_start(self, batch):
        self.images, self.labels = batch

    def evaluate_batch(self, batch):
        self.total += self.criterion(self.model(self.images), self.labels).item()

    def on_evaluate_epoch_end(self):
        if self.total < self.best_loss:
            self.best_loss = self.total
            self.save_model()

    def save_model(self):
        torch.save({"state_dict": self.model.state_dict(), "epoch": self.epoch}, "mine.pth")

    def what_counts(self):
        return self.number, self.running, list(self.train_losses), self.best_loss, numbers(self.model)


class Gathers(Stopping):
    """Sums gradients over three batches in a step of its own, and keeps records under names of the base."""

    def build_model(self):
        torch.manual_seed(0)
        self.model, self.criterion = network(), nn.MSELoss()
        self.scale = nn.Parameter(torch.ones(()))
        self.optimizer = torch.optim.Adam([*self.model.parameters(), self.scale], lr=0.01)
        self.history, self.metrics, self.batches = {"loss": []}, {"seen": 0}, 0

    def on_train_epoch_start(self):
        self.loss = 0.0

    def training_step(self):
        loss = self.criterion(self.model(self.inputs) * self.scale, self.targets)
        loss.backward()
        self.batches += 1
        if self.batches % 3 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.loss += loss.item()
        self.history["loss"].append(loss.item())
        self.metrics["seen"] += len(self.inputs)

    def what_counts(self):
        return self.loss, list(self.history["loss"]), self.metrics["seen"], self.scale.item(), numbers(self.model)


class Replays(Stopping):
    """Learns from a queue of its own as well, by a generator of the old kind, and averages as PyTorch names weights."""

    def build_model(self):
        torch.manual_seed(0)
        self.model, self.criterion = network(), nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.queue, self.random = collections.deque(maxlen=4), np.random.RandomState(3)
        self.average = copy.deepcopy(self.model.state_dict())  # an OrderedDict

    def compute_loss(self):
        self.queue.append((self.inputs, self.targets))
        inputs, targets = self.queue[self.random.randint(len(self.queue))]
        return self.criterion(self.model(inputs), targets) + super().compute_loss()

    def on_train_epoch_end(self):
        for name, value in self.model.state_dict().items():
            self.average[name] = self.average[name] * 0.5 + value * 0.5

    def what_counts(self):
        return len(self.queue), [value.double().sum().item() for value in self.average.values()], numbers(self.model)


class Flat(Stopping):
    """An optimizer with one long vector for all parameters."""

    def build_model(self):
        torch.manual_seed(0)
        self.model, self.criterion = network(), nn.MSELoss()
        self.optimizer = torch.optim.LBFGS(self.model.parameters(), lr=0.1, max_iter=3, history_size=2)

    def training_step(self):
        def closure():
            self.optimizer.zero_grad()
            self.loss = self.compute_loss()
            self.loss.backward()
            return self.loss

        self.optimizer.step(closure)

    def what_counts(self):
        return numbers(self.model)


class Largest:
    """A metric without ``state_dict``."""

    def reset(self):
        self.value = 0.0

    def update(self, outputs, targets):
        self.value = max(self.value, (outputs - targets).abs().max().item())

    def compute(self):
        return self.value


class Rows(Flat):
    """An optimizer with numbers for rows and columns, and a metric of its own."""

    def build_model(self):
        super().build_model()
        self.optimizer = torch.optim.Adafactor(self.model.parameters(), lr=0.01)
        self.metrics = {"largest": Largest()}

    def training_step(self):
        ConvnetTrainer.training_step(self)


class Workers(ImageNet):
    """Two workers, and a seed."""

    def define_train_attr(self):
        self._seed = 5

    def get_trainloader(self):
        super().get_trainloader()
        self.train_loader = DataLoader(Augmented(), batch_size=3, shuffle=True, num_workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Argus, ImageNet, Averages, Gan, Farabio, Gathers, Replays, Flat, Rows, Workers])
def test_stopped_after_any_step(kind):
    whole = whole_run(kind)
    assert len(whole.seen) == EPOCHS * BATCHES
    for where in (1, 5, 8) if kind in (Replays, Flat, Rows, Workers) else range(1, EPOCHS * BATCHES):
        shutil.rmtree("stopped", ignore_errors=True)
        stopped_run(kind, where)
        torch.manual_seed(99)
        resumed = kind({"_logdir": "stopped"})
        resumed.train(resume=True)
        assert resumed.seen == whole.seen, where
        histories = [[{**entry, "seconds": 0} for entry in trainer._run_state.history] for trainer in (whole, resumed)]
        assert histories[0] == histories[1]


def test_another_network_than_the_one_that_never_changed_is_named(capsys):
    stopped_run(Averages, 2)
    capsys.readouterr()

    def resume(change):
        class Again(Averages):
            def build_model(self):
                super().build_model()
                with torch.no_grad():
                    self.features[0].weight += change

        Again.__qualname__ = Again.__name__ = "Averages"
        Again({"_logdir": "stopped", "_verbose": True}).train(resume="stopped/Averages/1/checkpoints/last.ckpt")
        return "other weights than before in self.features, which no checkpoint holds" in capsys.readouterr().out

    assert [resume(0), resume(0.5)] == [False, True]


def test_a_network_that_never_changes_is_in_no_checkpoint():
    trainer = stopped_run(Averages, 2)
    saved = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)["run"]
    assert "frozen" in saved["components"] and "features" not in saved["components"]


class Odd(Averages):
    """Keeps what no file can hold."""

    def define_data_attr(self):
        self.numbers, self.names = itertools.count(), np.array(["a"], dtype=object)

    def on_train_epoch_start(self):
        self.batches = iter(self.train_loader)

    def optimizer_step(self):
        super().optimizer_step()
        self.names = np.array(["b", next(self.numbers)], dtype=object)


def test_what_cannot_be_stored_is_said_once(capsys):
    trainer = Odd({"_verbose": True, "_num_epochs": 2})
    trainer.train()
    said = "not in the checkpoints: self.batches (an iterator), self.names (a ndarray), self.numbers (an iterator);"
    out = capsys.readouterr().out
    assert out.count(said) == 1 and out.count("not in the checkpoints") == 1
    Averages({"_verbose": True}).train()
    assert "not in the checkpoints" not in capsys.readouterr().out


def test_large_tensors_are_state_where_they_were_there_before_and_have_changed(monkeypatch):
    class Bank(Averages):
        def define_data_attr(self):
            self.bank, self.data = torch.zeros(50), {"images": torch.zeros(50)}
            self.both = SimpleNamespace(images=np.zeros(50), seen=0)

        def optimizer_step(self):
            super().optimizer_step()
            self.bank[self.step] = 1.0
            self.both.seen += 1
            self.images = torch.zeros(50)  # a batch

    monkeypatch.setattr(user_objects, "LARGEST", 40)
    trainer = stopped_run(Bank, 2)
    saved = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)["run"]["objects"]
    assert "bank" in saved and not {"data", "images"} & set(saved)
    assert saved["both"]["fields"] == [["seen", {"plain": 2}]]


class Parent:
    def __init__(self):
        self.child = SimpleNamespace(parent=self)


class AttrDict(dict):
    __getattr__ = dict.__getitem__


@dataclass
class Unset:
    total: float = field(init=False)
    seen: int = 0


class Surroundings(Averages):
    """Keeps what belongs to no run, or holds itself."""

    def define_data_attr(self):
        self.logger, self.options, self.unset = logging.getLogger("a.b"), AttrDict(lr=0.1), Unset()
        self.figure = Figure()
        self.axes = self.figure.add_subplot()
        self.parent = Parent()
        self.last = None
        for _ in range(3000):
            self.last = SimpleNamespace(before=self.last)
        self.nodes = [SimpleNamespace(others=[]) for _ in range(200)]
        for node in self.nodes:
            node.others += self.nodes


def test_objects_that_hold_each_other_or_answer_oddly_do_no_harm():
    trainer = stopped_run(Surroundings, 2)
    resumed = Surroundings({"_logdir": "stopped"})
    resumed.train(resume=True)
    assert resumed.step == EPOCHS * BATCHES > trainer.step


class Settings(Averages):
    """Reads what it was called with, and changes a part of it."""

    def define_data_attr(self):
        self.args = SimpleNamespace(out=self.config.get("out", "a"), best=0)

    def optimizer_step(self):
        super().optimizer_step()
        self.args.best = self.step


def test_a_record_gets_back_what_has_changed_of_it():
    stopped_run(Settings, 2)
    resumed = Settings({"_logdir": "stopped", "out": "b", "_num_epochs": 1})
    resumed.train(resume=True)
    assert vars(resumed.args) == {"out": "b", "best": BATCHES}


class Lazy(Averages):
    """Makes its meters, and lists what no file can hold, when they are needed."""

    def define_data_attr(self):
        self.meters, self.files, self.record = {}, [], None

    def optimizer_step(self):
        super().optimizer_step()
        self.meters.setdefault("loss", AverageMeter("loss")).update(1.0, 1)
        self.files.append((0.5, Path("model.pth")))
        self.record = State(self.step)


def test_what_a_run_has_made_and_the_constructor_has_not_is_said_and_made_anew(capsys):
    stopped_run(Lazy, 2)
    resumed = Lazy({"_logdir": "stopped", "_verbose": True})
    resumed.train(resume=True)
    assert type(resumed.meters["loss"]) is AverageMeter and all(isinstance(path, Path) for _, path in resumed.files)
    said = capsys.readouterr().out
    for name in ("meters", "files", "record"):
        assert f"self.{name} stays as the constructor has built it" in said


class Cleared(Averages):
    def define_data_attr(self):
        self.epoch_values = SimpleNamespace(values=[])

    def on_train_epoch_start(self):
        self.epoch_values.values.clear()

    def optimizer_step(self):
        super().optimizer_step()
        self.epoch_values.values.append(self.step)


def test_a_record_that_an_epoch_begins_anew_goes_on_in_its_middle():
    stopped_run(Cleared, BATCHES + 2)
    resumed = Cleared({"_logdir": "stopped"})
    resumed.train(resume=True)
    last = EPOCHS * BATCHES
    assert resumed.epoch_values.values == list(range(last - BATCHES + 1, last + 1))


def test_a_large_tensor_that_is_made_anew_is_state(monkeypatch):
    class Bank(Averages):
        def define_data_attr(self):
            self.bank = torch.zeros(50)

        def on_train_epoch_start(self):
            self.bank = torch.full((50,), float(self.epoch))

    monkeypatch.setattr(user_objects, "LARGEST", 40)
    trainer = stopped_run(Bank, BATCHES + 1)
    saved = torch.load(trainer.run_dir / "checkpoints" / "last.ckpt", weights_only=True)["run"]["objects"]
    assert saved["bank"]["tensor"].tolist() == [2.0] * 50
