"""What a subclass keeps as attributes comes back: tensors, arrays, collections, generators, the loaders' too."""

import collections
import random
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

from farabio_like import callbacks
from farabio_like.checkpoint import objects as user_objects

from .test_resume import (
    INPUTS,
    TARGETS,
    Augmented,
    Tensors,
    Whole,
    assert_equal_runs,
    resumed_run,
    stopped_run,
    whole_run,
)


class Total(Tensors):
    """Sums its loss in a tensor, and counts in an array, per epoch."""

    def on_train_epoch_start(self):
        self.total, self.counts = torch.zeros(()), np.zeros(3, dtype=np.uint16)

    def on_end_training_batch(self):
        super().on_end_training_batch()
        self.total = self.total + self.loss.detach()
        self.counts += 1

    def on_train_epoch_end(self):
        self.losses.append((self.total.item(), self.counts.tolist()))


class Windows(Tensors):
    def define_train_attr(self):
        self.window = collections.deque(maxlen=3)
        self.lists, self.steps = collections.defaultdict(list), set()

    def on_end_training_batch(self):
        super().on_end_training_batch()
        self.window.append(self.loss.item())
        self.lists["all"].append(self.step)
        self.steps.add(self.step)
        self.losses.append((sum(self.window), len(self.lists["all"]), len(self.steps)))


class Generators(Tensors):
    def define_train_attr(self):
        self.one, self.two = random.Random(4), np.random.default_rng(4)
        self.three = np.random.Generator(np.random.MT19937(4))
        self.four = torch.Generator().manual_seed(4)

    def on_end_training_batch(self):
        super().on_end_training_batch()
        drawn = (self.one.random(), self.two.random(), self.three.random(), torch.rand((), generator=self.four).item())
        self.losses.append(drawn)


class Temperature(Tensors):
    """Trains a number that belongs to no module."""

    def build_model(self):
        super().build_model()
        self.temperature = torch.zeros((), requires_grad=True)
        self.other = torch.optim.SGD([self.temperature], lr=0.1, momentum=0.9)

    def compute_loss(self):
        return super().compute_loss() * torch.exp(-self.temperature)

    def optimizer_step(self):
        super().optimizer_step()
        self.other.step()
        self.other.zero_grad()

    def on_end_training_batch(self):
        super().on_end_training_batch()
        self.losses.append(self.temperature.item())


class Zipped(Whole):
    """Reads two loaders of its own together, one with a generator of its own."""

    def get_trainloader(self):
        super().get_trainloader()
        self.one, self.train_loader = self.train_loader, None
        self.two = DataLoader(Augmented(), 3, shuffle=True, generator=torch.Generator().manual_seed(8))

    def on_train_epoch_start(self):
        self.train_epoch_iter = enumerate((a[0], b[1]) for a, b in zip(self.one, self.two, strict=True))


class Weighted(Tensors):
    def get_trainloader(self):
        super().get_trainloader()
        sampler = WeightedRandomSampler(torch.arange(1.0, 12.0), 11, generator=torch.Generator().manual_seed(1))
        self.train_loader = DataLoader(Augmented(), 3, sampler=sampler)


class Endless:
    def __iter__(self):
        while True:
            chosen = torch.randint(11, (3,))
            yield INPUTS[chosen], TARGETS[chosen]


class Stops(Tensors):
    """An endless loader, stopped after every fourth batch: a save may come between that and the end of the epoch."""

    def get_trainloader(self):
        self.train_loader, self.valid_loader = Endless(), [(INPUTS, TARGETS)]

    def on_end_training_batch(self):
        super().on_end_training_batch()
        if self.step % 4 == 0:
            self.stop_loader()


class StopsForGood(Tensors):
    def on_end_training_batch(self):
        super().on_end_training_batch()
        if self.step == 6:
            self.stop_train()


class Limited(Whole):
    def build_model(self):
        super().build_model()
        self.callbacks += [callbacks.LimitBatches(train=3, valid=2)]


class Evaluates(Whole):
    def on_end_training_batch(self):
        if self.step % 3 == 0:
            self.losses.append(self.evaluate_loader(self.valid_loader)["loss"])
        super().on_end_training_batch()


KINDS = [Total, Windows, Generators, Temperature, Zipped, Weighted, Stops, StopsForGood, Limited, Evaluates]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_goes_on_with_it(kind):
    whole = whole_run(kind)
    for where in (2, 6, (2, "valid")):
        shutil.rmtree("stopped", ignore_errors=True)
        stopped_run(kind, where)
        assert_equal_runs(whole, resumed_run(kind))


def test_what_has_no_state_is_left_out():
    assert user_objects.capture(np.array(["text"])) is None
    assert user_objects.capture({Whole}) is None
    assert user_objects.capture([1, 2]) is None  # plain data is stored as it is


@pytest.mark.parametrize(
    "value", [np.arange(6, dtype=np.uint16).reshape(2, 3), np.array(1.5), np.array([True, False]), np.zeros((0, 2))]
)
def test_arrays_come_back_with_type_and_shape(value):
    found = user_objects.restore(None, user_objects.capture(value), torch.device("cpu"))
    assert found.dtype == value.dtype and found.shape == value.shape and np.array_equal(found, value)
    found.fill(1)  # it can be written to


def test_data_with_the_words_of_a_record_is_data():
    state = user_objects.capture([{"fields": "abc", "class": 1}, torch.zeros(2)])
    assert user_objects.changed(state, user_objects.digest(state)) is None
    assert user_objects.changed(
        user_objects.capture([{"fields": "abd", "class": 1}, torch.zeros(2)]), user_objects.digest(state)
    )
