"""What a subclass keeps as attributes comes back: tensors, arrays, collections, generators, the loaders' too."""

import collections
import copy
import dataclasses
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from farabio_like import callbacks
from farabio_like.checkpoint import objects as user_objects

from ..trainers import Tiny
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

ONE = {"tensor": torch.ones(1), "device": "cpu"}


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


@dataclasses.dataclass
class Meter:
    total: float = 0.5
    seen: torch.Tensor = None


def generator(seed):
    return torch.Generator().manual_seed(seed)


# An object, what a checkpoint holds of it (as older ones do), and another object that takes it.
FORMATS = {
    "tensor": (lambda: torch.ones(2), {"tensor": torch.ones(2), "device": "cpu"}, lambda: None),
    "array": (
        lambda: np.arange(2, dtype=np.uint16),
        {"array": b"\x00\x00\x01\x00", "dtype": "<u2", "shape": [2]},
        lambda: None,
    ),
    "generator": (lambda: generator(3), {"generator": generator(3).get_state()}, lambda: generator(4)),
    "set": (lambda: {1, 2}, {"set": [1, 2]}, lambda: {5}),
    "deque": (lambda: collections.deque([1], 4), {"deque": [1]}, lambda: collections.deque([7], 4)),
    "Counter": (lambda: collections.Counter(a=2), {"Counter": [("a", 2)]}, collections.Counter),
    "OrderedDict": (
        lambda: collections.OrderedDict(a=2),
        {"OrderedDict": [("a", 2)]},
        lambda: collections.OrderedDict(b=1),
    ),
    "defaultdict": (
        lambda: collections.defaultdict(list, a=[1]),
        {"defaultdict": [("a", [1])]},
        lambda: collections.defaultdict(list),
    ),
    "list": (lambda: [torch.ones(1), 3], {"list": [[0, ONE], [1, {"plain": 3}]]}, lambda: [None, None]),
    "tuple": (lambda: (torch.ones(1),), {"tuple": [[0, ONE]]}, lambda: (5,)),
    "queue": (
        lambda: collections.deque([torch.ones(1)]),
        {"queue": [[0, ONE]]},
        lambda: collections.deque([0]),
    ),
    "dict": (
        lambda: collections.OrderedDict(a=torch.ones(1), b=(1,)),
        {"dict": [["a", ONE], ["b", {"plain": (1,)}]]},
        lambda: collections.OrderedDict(b=0, a=0),
    ),
    "fields": (
        lambda: Meter(1.5, torch.ones(1)),
        {"fields": [["total", {"plain": 1.5}], ["seen", ONE]], "class": "Meter"},
        Meter,
    ),
    "part": (
        lambda: [nn.Linear(1, 1, bias=False).requires_grad_(False)],
        {"list": [[0, {"part": {"weight": None}}]]},
        lambda: [nn.Linear(1, 1, bias=False)],
    ),
}


def alike(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_checkpoint_holds_of_each_kind_and_who_takes_it(kind):
    make, expected, target = FORMATS[kind]
    made, state = make(), user_objects.capture(make())
    if kind == "part":
        state["list"][0][1]["part"]["weight"] = None
    assert alike(state, expected) and type(target()) in (type(made), type(None))
    if kind != "part":
        for _ in range(2):  # a state may be given back twice
            there = target()
            assert user_objects.fits(there, state)
            given = user_objects.restore(there, state, torch.device("cpu"))
            assert type(given) is type(made) and alike(user_objects.capture(given), expected)
    # Tensors and arrays, and containers of such alone, are made anew where there are none.
    assert user_objects.fits(object(), state) is (kind in ("tensor", "array", "list", "tuple", "dict"))


def test_generators_of_every_kind_go_on():
    for make, draw in (
        (random.Random, lambda g: g.random()),
        (np.random.default_rng, lambda g: g.random()),
        (np.random.RandomState, lambda g: g.rand()),
    ):
        one, other = make(3), make(4)
        draw(one)
        state = user_objects.capture(one)
        assert user_objects.fits(other, state) and not user_objects.fits(object(), state)
        assert user_objects.restore(other, state, torch.device("cpu")) is other and draw(one) == draw(other)


def test_data_with_the_words_of_a_record_is_data():
    state = user_objects.capture([{"fields": "abc", "class": 1}, torch.zeros(2)])
    assert user_objects.changed(state, user_objects.digest(state)) is None
    assert user_objects.changed(
        user_objects.capture([{"fields": "abd", "class": 1}, torch.zeros(2)]), user_objects.digest(state)
    )


def test_a_trainer_that_another_one_holds_goes_on_with_its_counters(tmp_path):
    class Outer(Tiny):
        def build_model(self):
            super().build_model()
            self.inner = Tiny({"_num_epochs": 2})

        def on_train_start(self):
            self.copied = copy.deepcopy(self)

        def on_epoch_end(self):
            if self.epoch == 1:
                self.inner.train()
            elif self.fails:
                raise ZeroDivisionError

    settings = {"_logdir": str(tmp_path), "_num_epochs": 3, "_save_epoch": 1}
    with pytest.raises(ZeroDivisionError):
        Outer({**settings, "fails": True}).train()
    resumed = Outer({**settings, "fails": False})
    resumed.train(resume=True)
    assert resumed.step == 9 and resumed.inner.step == 6 and resumed.inner.epoch == 2


class Buffer:
    """As a replay buffer is written, of transitions that are tensors."""

    def __init__(self):
        self.storage = collections.deque(maxlen=20_000)


class Replay(Tiny):
    def build_model(self):
        super().build_model()
        self.memory, self.buffer, self.losses = collections.deque(), Buffer(), []
        self.samples = [(torch.zeros(1), index) for index in range(10_001)]  # data, which nobody changes

    def on_end_training_batch(self):
        transition = (torch.ones(1), self.step)
        self.memory.extend([transition] * 4000)
        self.buffer.storage.extend([transition] * self.config["entries"])
        self.losses += [0.5] * 20_000  # plain, but of too many entries in the end


def test_a_container_with_too_many_entries_is_named(tmp_path, capsys):
    trainer = Replay({"_logdir": str(tmp_path), "_verbose": True, "_save_epoch": 1, "entries": 5000})
    trainer.train()
    said = [line for line in capsys.readouterr().out.splitlines() if "not in the checkpoints" in line]
    assert len(said) == 2  # at the end of the first epoch, and of the second
    assert "self.memory (12,000 entries, too many)" in said[0] and "samples" not in "".join(said)
    assert "self.buffer.storage (15,000 entries, too many)" in said[0] and "losses" not in said[0]
    assert "self.losses (120,000 entries, too many)" in said[1] and "memory" not in said[1]
    small = Replay({"_logdir": str(tmp_path), "_verbose": True, "_save_epoch": 1, "entries": 10, "_num_epochs": 1})
    small.train()
    assert "buffer" not in capsys.readouterr().out


def test_the_same_numbers_in_another_order_have_changed():
    before = user_objects.digest(user_objects.capture({"order": torch.arange(5)}))
    now = user_objects.capture({"order": torch.tensor([4, 3, 2, 1, 0])})
    assert user_objects.changed(now, before) == now
    for value in (torch.zeros((), dtype=torch.bool), torch.zeros(0), torch.ones(2, dtype=torch.complex64).conj()):
        assert (
            user_objects.changed(user_objects.capture([value]), user_objects.digest(user_objects.capture([value])))
            is None
        )


def test_numbers_of_numpy_come_back():
    class Best(Tiny):
        def on_epoch_end(self):
            self.best = np.float64(min(entry["valid"]["loss"] for entry in self.history))

    Best({"_logdir": "runs"}).train()
    again = Best({"_logdir": "runs"})
    again.train(resume="runs/Best/1")
    assert again.best == min(entry["valid"]["loss"] for entry in again.history) and type(again.best) is np.float64
