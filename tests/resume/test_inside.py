"""What hooks change inside modules, data sets and callbacks is as it was when a run goes on."""

import random
import shutil

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler
from torchvision import transforms

from farabio_like import Callback, CheckpointError, ConvnetTrainer, Stage
from farabio_like.callbacks import Freeze

from ..trainers import Stopped

X = torch.linspace(-1, 1, 96).reshape(24, 4)
Y = X.sum(1, keepdim=True).sin()
EPOCHS, BATCHES = 4, 4


class Scaled(nn.Module):
    """Has numbers, a tuple, a text, a tensor and a buffer that no state_dict holds, and a function."""

    def __init__(self):
        super().__init__()
        self.layer, self.factor, self.window, self.mode = nn.Linear(4, 8), 1.0, (1, 2), "plain"
        self.shift = torch.zeros(8)
        self.register_buffer("gate", torch.ones(8), persistent=False)
        self.act = torch.tanh
        self.options = {"power": [1, 1.0]}

    def forward(self, x):
        x = self.layer(x) * self.factor * self.gate + self.shift * self.window[1]
        x = x.abs() if self.mode == "abs" else x
        return self.act(x) * self.options["power"][1]


class Noisy(Dataset):
    """Samples by a difficulty, a generator of its own, transforms, labels that may be corrected, and a counter."""

    scale = 1.0  # of the class: a hook sets it on the object

    def __init__(self):
        self.level, self.random, self.labels, self.drawn = (0, 0.1), np.random.default_rng(5), Y.clone(), 0
        self.transform = transforms.Compose([transforms.Lambda(lambda x: x), Jitter()])

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.drawn += 1
        noise = self.level[1] * self.random.random() + 0.01 * (self.drawn % 3)
        return self.transform(X[index] * self.scale + noise), self.labels[index]


class Jitter:
    p = 0.0

    def __call__(self, x):
        return x + self.p * x.flip(0)


class Run(Stopped, ConvnetTrainer):
    """A network with parts of every kind; what a hook changes, and when, is said by the class."""

    stop, at = None, 2

    def define_misc_attr(self):
        self._num_epochs, self._verbose, self._device = EPOCHS, True, "cpu"

    def get_trainloader(self):
        self.data = Noisy()
        self.train_loader = DataLoader(ConcatDataset([Subset(self.data, range(24))]), 6, shuffle=True)
        self.valid_loader = DataLoader(TensorDataset(X, Y), 24)

    def build_model(self):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
        self.model = nn.Sequential(Scaled(), body, nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.model[0].requires_grad_(False)
        self.criterion = nn.SmoothL1Loss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)

    def change(self):
        pass

    def on_train_epoch_start(self):
        if self.epoch == self.at:
            self.change()


class Thaws(Run):
    def change(self):
        self.model[0].requires_grad_(True)


class ThawsAndFreezes(Run):
    """Back to what it was, in the middle of an epoch."""

    def change(self):
        self.model[0].requires_grad_(True)

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if self.step == 10:
            self.model[0].requires_grad_(False)
            self.model[1][1].p = 0.5
        if self.step == 7:
            self.model[1][1].p = 0.2


class Attributes(Run):
    def change(self):
        part = self.model[0]
        self.model[1][1].p = np.float64(0.1)
        part.factor, part.window, part.mode = 1.5, (2, 0.5), "abs"
        part.shift = torch.full((8,), 0.3)
        part.gate[2:5] = 0.0
        part.options["power"][1] = 0.7
        self.model[2].momentum = 0.5
        self.criterion.beta = 0.01


class Data(Run):
    def change(self):
        self.data.level, self.data.scale, self.data.transform.transforms[1].p = (1, 0.5), 2.0, 0.4
        self.data.labels[3:9] = -self.data.labels[3:9]


class Replaced(Run):
    """The same by new objects: a loader with another batch size, a layer of the same class."""

    def change(self):
        self.model[1][1] = nn.Dropout(0.1)
        self.train_loader = DataLoader(self.train_loader.dataset, batch_size=12, shuffle=True)
        self.train_epoch_iter = enumerate(self.train_loader)


class Drifts(Callback):
    """Changes something after every batch."""

    def on_end_training_batch(self, trainer):
        trainer.model[0].factor *= 1.01
        trainer.data.scale += 0.001 * trainer.loss.item()


class ByACallback(Run):
    def define_train_attr(self):
        self.callbacks = [Drifts(), Freeze("2.*", from_epoch=2, until_epoch=3)]


class WithinTheBatches(Run):
    """Another value from the beginning of every epoch's batches to their end."""

    def on_train_epoch_start(self):
        self.model[1][1].p, self.data.scale = 0.1 * self.epoch, 0.5

    def on_train_epoch_end(self):
        self.model[1][1].p, self.data.scale = 0.5, 1.0


class LayersOff(Run):
    """Puts batch norm into eval mode in the middle of an epoch."""

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if self.step == 5:
            self.model[2].eval()


class Staged(Run):
    def define_train_attr(self):
        self._stages = [Stage("first", 1), Stage("second", 3)]

    def on_stage_start(self):
        if self.stage.name == "second":
            self.model[0].requires_grad_(True)
            self.criterion.beta = 0.5

    def change(self):
        self.criterion.beta /= 4
        self.model[1].requires_grad_(False)


class Augment:
    def __init__(self):
        self.strength = 0.0


class Several(Run):
    """Two networks and criteria in dicts, a teacher, a sampler with weights, an object of its own."""

    def get_trainloader(self):
        super().get_trainloader()
        sampler = WeightedRandomSampler(torch.ones(24), 24)
        self.train_loader = DataLoader(self.data, 6, sampler=sampler)

    def build_model(self):
        super().build_model()
        self.model = {"body": self.model, "head": nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))}
        self.criterion = {"one": nn.SmoothL1Loss(), "two": nn.HuberLoss()}
        self.teacher = Scaled().requires_grad_(False).eval()
        parameters = [p for part in self.model.values() for p in part.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=0.01)
        self.augment = Augment()

    def forward(self):
        x = self.inputs + self.augment.strength * self.inputs.flip(1)
        return self.model["head"](self.model["body"](x)) + self.teacher(x).mean(1, keepdim=True)

    def change(self):
        self.model["head"][1].p, self.criterion["two"].delta = 0.2, 0.1
        self.teacher.factor = 0.5
        self.train_loader.sampler.weights = torch.arange(1.0, 25.0)
        self.augment.strength = 0.3


class OtherLayers(Run):
    """Layers and criteria without weights in the place of others, and back; class weights where there were none."""

    def build_model(self):
        super().build_model()
        self.criterion = {"one": nn.MSELoss(), "two": nn.BCEWithLogitsLoss()}
        self.model.append(nn.ReLU())

    def compute_loss(self):
        self.outputs = self.forward()
        one, two = self.criterion.values()
        return one(self.outputs, self.targets) + 0.1 * two(self.outputs, self.targets.sigmoid())

    def on_train_epoch_start(self):
        if self.epoch == 2:
            self.criterion["one"], self.model[4] = nn.SmoothL1Loss(beta=0.2), nn.GELU(approximate="tanh")
            self.criterion["two"].pos_weight = torch.tensor([3.0])
            self.model[1][1] = nn.AlphaDropout(0.2)
        if self.epoch == 3:
            self.model[4] = nn.ReLU()
        if self.epoch == 4:
            self.criterion["one"] = nn.MSELoss()


class Criterion(Run):
    def change(self):
        self.criterion = nn.HuberLoss(delta=0.3)


class Grows(Run):
    """A memory in a buffer, to which every batch adds, as a bank of features is written."""

    def build_model(self):
        super().build_model()
        self.model[0].register_buffer("bank", torch.zeros(0, 1))

    def on_end_training_batch(self):
        bank = self.model[0].bank
        self.model[0].bank = torch.cat([bank, self.outputs.detach()[:1]])
        self.model[0].factor = 1 + 0.1 * self.model[0].bank.mean().item()
        super().on_end_training_batch()


class Settings(Run):
    """Settings that may change in the course of a run, and one within the batches alone."""

    def change(self):
        self._clip_norm, self._accumulation_steps, self._eval_interval = np.float64(0.05), 3, 2

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if self.step == 9:
            self._clip_norm = 0.5


KINDS = [
    OtherLayers,
    Criterion,
    Grows,
    Settings,
    Thaws,
    ThawsAndFreezes,
    Attributes,
    Data,
    Replaced,
    ByACallback,
    WithinTheBatches,
    LayersOff,
    Staged,
    Several,
]


def state_of(trainer):
    modules = trainer.model.values() if isinstance(trainer.model, dict) else [trainer.model]
    return [value for module in modules for value in module.state_dict().values()]


def train(kind, stop=None, logdir="stopped", resume=False):
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(3 if not resume else 99)
    trainer = kind()
    trainer.stop, trainer._logdir = stop, logdir
    if stop is None:
        trainer.train(resume=resume)
    else:
        with pytest.raises(SystemExit):
            trainer.train(resume=resume)
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_what_its_hooks_changed(kind):
    whole = train(kind, logdir="whole")
    assert whole.step == EPOCHS * BATCHES or kind is Replaced
    for where in (6, 10, (4 if kind is Settings else 3, "valid")) if kind is not Replaced else (3, 6):
        shutil.rmtree("stopped", ignore_errors=True)
        train(kind, where)
        resumed = train(kind, resume=True)
        assert all(map(torch.equal, state_of(resumed), state_of(whole))), where
        assert [e["valid"] for e in resumed.history] == [e["valid"] for e in whole.history]


def test_the_second_run_of_a_trainer_keeps_what_the_first_has_changed():
    torch.manual_seed(3)
    trainer = Attributes()
    trainer._num_epochs = 2
    trainer.train()
    trainer.stop = 11
    with pytest.raises(SystemExit):
        trainer.train()  # two more, without a change
    goes_on = Attributes()
    goes_on.train(resume=trainer.run_dir)
    assert goes_on.model[1][1].p == 0.1 and goes_on.model[0].window == (2, 0.5)
    assert goes_on.model[0].gate.tolist() == [1, 1, 0, 0, 0, 1, 1, 1]


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


class Unstorable(Run):
    def change(self):
        self.model[0].act = torch.sigmoid
        self.model[1][1] = Call(torch.sin)
        self.model[2].register_forward_hook(lambda module, inputs, outputs: outputs * 2)
        self.data.transform = transforms.Compose([Jitter()])
        self.data.extra = object()


def test_what_no_file_can_hold_is_named_at_the_first_save(capsys):
    train(Unstorable, 7)
    said = [line for line in capsys.readouterr().out.splitlines() if "not in the checkpoints" in line]
    assert len(said) == 1
    for name in (
        "self.model.0.act (a builtin",
        "self.model.1.1 (now a Call",
        "self.model.2 (now a BatchNorm1d with 1 hooks)",
        "transform (now a Compose of Jitter",
    ):
        assert name in said[0], said[0]
    train(Run, logdir="quiet")
    assert "not in the checkpoints" not in capsys.readouterr().out


def test_what_is_not_there_any_more_is_said(capsys):
    train(Attributes, 7)

    class Other(Attributes):
        def build_model(self):
            super().build_model()
            self.criterion = nn.MSELoss()
            self.model[1][1] = nn.Identity()

    Other.__name__ = Other.__qualname__ = "Attributes"
    train(Other, resume=True)
    # An attribute is set whatever the class is; a place that is gone is named.
    assert "stays as built" not in capsys.readouterr().out

    class Without(Attributes):
        def build_model(self):
            super().build_model()
            self.criterion = lambda outputs, targets: (outputs - targets).pow(2).mean()

    Without.__name__ = Without.__qualname__ = "Attributes"
    Without.change = lambda self: None
    shutil.rmtree("stopped")
    train(Attributes, 7)
    train(Without, resume=True)
    assert "stays as built, though a hook had changed it: self.criterion.beta" in capsys.readouterr().out


def test_a_network_that_a_hook_has_changed_says_where_to_change_it_too():
    class Prunes(Run):
        def change(self):
            nn.utils.prune.random_unstructured(self.model[3], "weight", 0.5)

    train(Prunes, 10)
    with pytest.raises(CheckpointError, match=r"3.weight_orig(.|\n)*change it in on_train_start too"):
        train(Prunes, resume=True)
    Prunes.on_train_start = lambda self: self.change() if self.epoch > 2 else None
    assert train(Prunes, resume=True).step == EPOCHS * BATCHES


def test_a_file_without_such_a_state_is_read(tmp_path):
    stopped = train(Thaws, 3)
    path = stopped.run_dir / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["run"]["inside"], saved["run"]["epoch"]["began"]
    torch.save(saved, path)
    (path.parent / "index.json").unlink()
    assert train(Thaws, resume=True).step == EPOCHS * BATCHES
