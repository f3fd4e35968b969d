"""Batches: moved, counted, told from loaders; every kind of them trains alike."""

import copy
import dataclasses
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader

from farabio_like import data

from ..trainers import Tiny

CPU = torch.device("cpu")
META = torch.device("meta")  # a device on every machine, to see what was moved

Pair = namedtuple("Pair", ["image", "label"])


class Typed(NamedTuple):
    image: torch.Tensor
    name: str = "x"


@dataclasses.dataclass
class Sample:
    image: torch.Tensor
    name: str
    more: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    image: torch.Tensor
    name: str


class MyList(list):
    pass


class MyDict(dict):
    note = None


class MovesItself:
    def __init__(self):
        self.device = None

    def to(self, device):
        moved = MovesItself()
        moved.device = device
        return moved


class Thing:
    pass


def one():
    return torch.ones(2, 3)


KEPT = {
    "list": lambda: [one(), [one()]],
    "tuple": lambda: (one(), (one(), 3)),
    "namedtuple": lambda: Pair(one(), one()),
    "NamedTuple": lambda: Typed(one()),
    "a result of torch": lambda: torch.max(one(), dim=1),
    "list subclass": lambda: MyList([one()]),
    "dict": lambda: {"image": one(), "more": {"deep": (one(),)}},
    "OrderedDict": lambda: OrderedDict(b=one(), a=one()),
    "defaultdict": lambda: defaultdict(list, image=one()),
    "dict subclass": lambda: MyDict(image=one()),
    "dataclass": lambda: Sample(one(), "name", [one()]),
    "frozen dataclass": lambda: Frozen(one(), "name"),
}


def leaves(batch):
    if dataclasses.is_dataclass(batch):
        batch = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return [leaf for part in batch for leaf in leaves(part)]
    return [batch]


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_containers_keep_their_types_and_every_tensor_moves(make):
    batch = make()
    moved = data.move(batch, META)
    assert type(moved) is type(batch)
    before, after = leaves(batch), leaves(moved)
    assert len(before) == len(after) and any(isinstance(leaf, torch.Tensor) for leaf in after)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, torch.Tensor):
            assert new.device == META and new.shape == old.shape and old.device == CPU
        else:
            assert new is old
    if isinstance(batch, dict):
        assert list(moved) == list(batch) and moved is not batch


def test_what_containers_know_besides_their_parts_goes_along():
    moved = data.move(KEPT["defaultdict"](), META)
    assert moved["new"] == []
    batch = MyDict(image=one())
    batch.note = "kept"
    assert data.move(batch, META).note == "kept"


def test_other_mappings_become_dicts_or_move_themselves():
    assert data.move(MappingProxyType({"image": one()}), META)["image"].device == META

    class Encoding(UserDict):
        def to(self, device):
            return Encoding({key: value.to(device) for key, value in self.items()})

    moved = data.move(Encoding(ids=one()), META)
    assert type(moved) is Encoding and moved["ids"].device == META


def test_packed_sequences_move():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    moved = data.move([packed], CPU)[0]
    assert type(moved) is PackedSequence and torch.equal(moved.data, packed.data)
    assert data.batch_size(packed) == 2


LEAVES = ["text", b"bytes", 3, 2.5, True, None, Thing(), {1, 2}, range(3), len]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_anything_else_is_passed_on_unchanged(leaf):
    assert data.move(leaf, META) is leaf
    assert data.move([leaf, one()], META)[0] is leaf


def test_an_object_that_can_move_itself_does():
    assert data.move({"graph": MovesItself()}, META)["graph"].device == META


def test_a_tensor_that_is_there_already_is_not_copied():
    tensor = one()
    assert data.move(tensor, CPU) is tensor
    assert data.move([tensor], CPU)[0] is tensor


# ---------------------------------------------------------------- samples, inputs, targets


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(5, 2), 5),
        ([torch.zeros(4, 2), torch.zeros(4)], 4),
        ((["a", "b"], torch.zeros(3)), 3),
        ({"name": "x", "image": torch.zeros(6, 1)}, 6),
        ({"scale": torch.tensor(2.0), "image": torch.zeros(6, 1)}, 6),
        ([torch.tensor(1.0), torch.zeros(7)], 7),
        (Sample(torch.zeros(2, 2), "x"), 2),
        (Pair({"deep": {"deeper": torch.zeros(8)}}, None), 8),
        (torch.zeros(0, 3), 0),
        (torch.zeros(9, 2).numpy(), 9),
        (torch.tensor(3.0), 1),
        ("text", 1),
        (["a", "b"], 2),
        (None, 1),
        ([], 1),
    ],
    ids=lambda value: str(value).replace("\n", "")[:40],
)
def test_number_of_samples(batch, samples):
    assert data.batch_size(batch) == samples


def test_inputs_and_targets():
    x, y = torch.zeros(2), torch.ones(2)
    pair = {"inputs": x, "targets": y}
    for batch in ([x, y], (x, y), Pair(x, y), pair, {**pair, "name": "n"}, OrderedDict(pair)):
        assert data.inputs_and_targets(batch) == pair
    for batch in (x, [x], (x,)):
        assert data.inputs_and_targets(batch) == {"inputs": x, "targets": None}
    assert data.inputs_and_targets({"inputs": x}) == {"inputs": x}
    assert data.inputs_and_targets({"image": x, "label": y}) == {}
    assert data.inputs_and_targets([x, x, y]) == {}
    assert data.inputs_and_targets("text") == {}
    packed = pack_sequence([x])
    assert data.inputs_and_targets(packed) == {"inputs": packed, "targets": None}


def test_the_batch_of_an_item():
    x = torch.zeros(2)
    assert data.batch_of((3, x)) is x
    for own in (x, [3, x], (x, x), (3, x, x), {"a": 3}):
        assert data.batch_of(own) is own


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        (torch.zeros(3), True),
        ([torch.zeros(3), torch.zeros(3)], True),
        ({"inputs": torch.zeros(3)}, True),
        (Sample(torch.zeros(3), "x"), True),
        ([[torch.zeros(3), torch.zeros(3)]], False),
        ([{"inputs": torch.zeros(3)}], False),
        ([], False),
        (iter([]), False),
        (DataLoader([1, 2]), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_batch_is_told_from_a_loader(value, is_one):
    assert data.is_batch(value) is is_one


BATCHES = {
    "list": lambda x, y: [x, y],
    "tuple": lambda x, y: (x, y),
    "namedtuple": lambda x, y: Pair(x, y),
    "dict": lambda x, y: {"inputs": x, "targets": y, "names": ["a"] * len(x)},
    "dataclass": lambda x, y: dataclasses.make_dataclass("Both", ["inputs", "targets"])(x, y),
}


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES)
def test_every_kind_of_batch_trains_to_the_same_weights(make):
    class Kinds(Tiny):
        def get_trainloader(self):
            super().get_trainloader()
            self.train_loader = [make(*batch) for batch in self.train_loader]

    plain, kinds = Tiny(), Kinds()
    assert plain.train()[-1]["train"] == kinds.train()[-1]["train"]
    assert torch.equal(plain.model.weight, kinds.model.weight)


def test_ragged_batches_reach_the_hook_as_they_are():
    ragged = [torch.ones(2, 3), torch.ones(1, 3), torch.ones(3, 3)]
    seen = []

    class Ragged(Tiny):
        def compute_loss(self):
            seen.append([len(part) for part in self.batch])
            return self.model(torch.cat(self.batch)).mean()

    trainer = Ragged({"_num_epochs": 1, "_has_eval": False})
    trainer.train_loader = [ragged]
    trainer.train()
    assert seen == [[2, 1, 3]]


def test_a_model_in_a_batch_is_not_taken_for_one():
    module = nn.Linear(1, 1)
    assert data.move({"teacher": module}, CPU)["teacher"] is module
    assert copy.copy(module) is not module
