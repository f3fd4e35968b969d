"""A second look at what hooks have changed finds what a first one would, whatever has changed in between."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from farabio_like.components import inventory
from farabio_like.resume import inside

from ..trainers import Tiny


class Bare(Dataset):
    """Has nothing of its own until a hook sets something."""

    scale = 1.0

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((3,), float(index)) * self.scale, torch.ones(1)


class Crop:
    size = 3

    def __call__(self, x):
        return x


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.names, self.options, self.pair = ["a", "b"], {"power": [1, 2.0]}, (torch.zeros(2), torch.ones(2))
        self.scale, self.array, self.crop = 1.0, np.zeros(3), Crop()
        self.crops = [Crop(), Crop()]
        self.register_buffer("gate", torch.ones(1), persistent=False)

    def forward(self, x):
        return self.layers(x) * self.scale * self.gate


class Run(Tiny):
    def get_trainloader(self):
        self.train_loader = DataLoader(Bare(), batch_size=4)
        self.valid_loader = None

    def build_model(self):
        torch.manual_seed(0)
        self.model, self.criterion = Parts(), nn.SmoothL1Loss()
        self.heads = {"one": nn.Linear(2, 2)}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def on_train_epoch_start(self):  # a hook of the user's, so that what is inside is looked at
        pass


def set_item(container, key, value):
    container[key] = value


CHANGES = {
    "a number": lambda t: setattr(t.model, "scale", 2.0),
    "a number and back": lambda t: (setattr(t.model, "scale", 2.0), setattr(t.model, "scale", 1.0)),
    "a list in place": lambda t: t.model.names.append("c"),
    "a dict in a dict": lambda t: set_item(t.model.options["power"], 1, 3.0),
    "a tensor in place": lambda t: t.model.pair[0].add_(1),
    "another tensor": lambda t: setattr(t.model, "pair", (torch.zeros(2), torch.zeros(2))),
    "an array in place": lambda t: set_item(t.model.array, 0, 5.0),
    "a buffer in place": lambda t: t.model.gate.fill_(3.0),
    "another buffer": lambda t: setattr(t.model, "gate", torch.zeros(1)),
    "of a layer": lambda t: setattr(t.model.layers[1], "p", 0.1),
    "another layer": lambda t: set_item(t.model.layers, 1, nn.ReLU()),
    "a layer with weights": lambda t: set_item(t.model.layers, 3, nn.Linear(4, 1)),
    "of a transform": lambda t: setattr(t.model.crop, "size", 5),
    "of one in a list": lambda t: setattr(t.model.crops[1], "size", 5),
    "one more in a list": lambda t: t.model.crops.append(Crop()),
    "of a data set with nothing of its own": lambda t: setattr(t.train_loader.dataset, "scale", 2.0),
    "another loader": lambda t: setattr(t, "train_loader", DataLoader(Bare(), batch_size=2)),
    "of the criterion": lambda t: setattr(t.criterion, "beta", 0.1),
    "another criterion": lambda t: setattr(t, "criterion", nn.MSELoss()),
    "a flag of a parameter": lambda t: t.model.layers[0].weight.requires_grad_(False),
    "a module of a dict": lambda t: set_item(t.heads, "two", nn.Dropout(0.3)),
    "of a module of a dict": lambda t: setattr(t.heads["one"], "in_features", 7),
    "a hook": lambda t: t.model.layers[0].register_forward_hook(lambda *_: None),
    "an attribute that goes": lambda t: delattr(t.model, "scale"),
    "a new attribute": lambda t: setattr(t.model, "fresh", [1, 2]),
    "a function": lambda t: setattr(t.model, "act", torch.tanh),
    "a setting": lambda t: setattr(t, "_clip_norm", 1.0),
}


def looked_at(trainer):
    found = inside.changed(trainer, inventory.take(trainer))
    trainer._run_state.last_look = None
    anew = inside.changed(trainer, inventory.take(trainer))
    return repr(found), repr(anew)


@pytest.fixture
def trainer():
    made = Run({"_num_epochs": 1})
    made.train()
    return made


@pytest.mark.parametrize("change", CHANGES)
def test_a_second_look_finds_what_a_first_one_would(trainer, change):
    inside.changed(trainer, inventory.take(trainer))
    CHANGES[change](trainer)
    found, anew = looked_at(trainer)
    assert found == anew


def test_changes_one_after_the_other(trainer):
    inside.changed(trainer, inventory.take(trainer))
    for change in [name for name in CHANGES if name != "an attribute that goes"]:
        CHANGES[change](trainer)
        found = repr(inside.changed(trainer, inventory.take(trainer)))
        look, trainer._run_state.last_look = trainer._run_state.last_look, None
        assert found == repr(inside.changed(trainer, inventory.take(trainer))), change
        trainer._run_state.last_look = look


def test_nothing_is_looked_at_again_where_nothing_has_changed(trainer):
    inside.changed(trainer, inventory.take(trainer))
    look = trainer._run_state.last_look
    holders = list(look.holders)
    inside.changed(trainer, inventory.take(trainer))
    assert trainer._run_state.last_look is look and all(map(lambda a, b: a is b, look.holders, holders))
