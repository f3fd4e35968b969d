"""One view on whatever configuration a user brings."""

import argparse
import copy
import pickle
import threading
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from farabio_like import ConfigError, Stage
from farabio_like.config.config import Config

from ..trainers import Tiny


@dataclass
class Settings:
    lr: float = 1e-3
    layers: list = field(default_factory=lambda: [1, 2])

    def doubled(self):
        return 2 * self.lr


class Attributes:
    lr = 1e-3

    def __init__(self):
        self.layers = [1, 2]

    @property
    def depth(self):
        return len(self.layers)


class KeysAndItems:
    """Of the shape that other configuration libraries have."""

    def keys(self):
        return ["lr", "layers"]

    def __getitem__(self, key):
        return {"lr": 1e-3, "layers": [1, 2]}[key]


SOURCES = {
    "dict": {"lr": 1e-3, "layers": [1, 2]},
    "argparse.Namespace": argparse.Namespace(lr=1e-3, layers=[1, 2]),
    "SimpleNamespace": SimpleNamespace(lr=1e-3, layers=[1, 2]),
    "dataclass": Settings(),
    "attributes": Attributes(),
    "keys": KeysAndItems(),
    "Config": Config({"lr": 1e-3, "layers": [1, 2]}),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_is_read_by_attribute_and_by_key(source):
    config = Config(source)
    assert config.lr == config["lr"] == config.get("lr") == 1e-3
    assert config.layers == [1, 2]
    assert "lr" in config and "momentum" not in config
    assert config.get("momentum", 0.9) == 0.9 and config.get("momentum") is None


def test_behaves_like_a_mapping():
    config = Config({"lr": 0.1, "epochs": 3})
    assert list(config) == list(config.keys()) == ["lr", "epochs"]
    assert list(config.values()) == [0.1, 3]
    assert dict(**config) == vars(config) == dict(config.items()) == {"lr": 0.1, "epochs": 3}
    assert len(config) == 2 and len(Config()) == 0
    assert config == {"lr": 0.1, "epochs": 3} == config.to_dict()
    assert config == Config({"lr": 0.1, "epochs": 3}) != Config({"lr": 0.2, "epochs": 3})
    assert config != 3
    assert "0.1" in repr(config)


def test_nested_mappings_are_configs_too():
    config = Config({"model": {"width": 8, "head": {"bias": False}}})
    assert config.model.head.bias is False
    assert config["model"]["width"] == 8
    assert config.to_dict() == {"model": {"width": 8, "head": {"bias": False}}}
    assert type(config.to_dict()["model"]["head"]) is dict


def test_values_can_be_set():
    source = {"lr": 0.1}
    config = Config(source)
    config.lr = 0.2
    config["epochs"] = 4
    assert config == {"lr": 0.2, "epochs": 4}
    assert source == {"lr": 0.1}, "the user's own dict is not changed"


@pytest.mark.parametrize("key", ["keys", "values", "items", "get"])
def test_a_value_named_like_a_method_is_the_value(key):
    assert getattr(Config({key: 5}), key) == 5


def test_methods_and_properties_of_an_object_stay_reachable():
    assert Config(Settings(lr=2.0)).doubled() == 4.0
    assert Config(Attributes()).depth == 2


def test_a_missing_key_names_the_closest_and_all_there_are():
    config = Config({"learning_rate": 0.1, "epochs": 3})
    for read in (lambda: config.learning_rat, lambda: config["learning_rat"]):
        with pytest.raises(ConfigError) as caught:
            read()
        message = str(caught.value)
        assert "no key 'learning_rat'" in message
        assert "Did you mean 'learning_rate'?" in message
        assert "epochs" in message
    with pytest.raises(ConfigError, match="Its keys: none"):
        Config(None).anything  # noqa: B018


def test_a_missing_key_behaves_as_it_does_elsewhere():
    config = Config({"lr": 0.1})
    assert not hasattr(config, "momentum")
    assert getattr(config, "momentum", 0.9) == 0.9
    with pytest.raises(KeyError):
        config["momentum"]
    with pytest.raises(AttributeError):
        config.momentum  # noqa: B018


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_and_pickles(clone):
    config = Config({"lr": 0.1, "model": {"width": 8}})
    other = clone(config)
    assert other == config and other.model.width == 8
    other.lr = 0.3
    assert config.lr == 0.1


@pytest.mark.parametrize("source", ["config.yaml", b"x", 3, 1.5, [1], (1, 2), {1}], ids=repr)
def test_a_source_without_names_is_refused(source):
    with pytest.raises(ConfigError, match=type(source).__name__) as caught:
        Config(source)
    assert "MyTrainer({'lr': 1e-3})" in str(caught.value)


def test_a_trainer_reads_its_configuration_in_its_hooks():
    class Configured(Tiny):
        def define_model_attr(self):
            self.read = self.config.width, self.config["width"]

    assert Configured({"width": 7}).read == (7, 7)
    assert Tiny().config == {}


class Kind(Enum):
    FIRST = 1


@pytest.mark.parametrize(
    "value",
    [1, "x", None, [1, {"a": (2.0, Path("x"))}], Kind.FIRST, np.float32(1), np.zeros(2), torch.float32, {1, 2}]
    + [torch.device("cpu"), torch.relu, nn.Linear, range(3), date(2020, 1, 1), Stage("first", 1)],
)
def test_values_that_can_be_written_down(value):
    assert Config({"key": value}).to_dict()["key"] is value or isinstance(value, dict)


@pytest.mark.parametrize("value", [nn.Linear(1, 1), lambda: 0, object(), iter([]), threading.Lock()])
def test_values_that_cannot_be_written_down_are_named(value):
    for source, where in (({"key": value}, "'key'"), ({"a": {"key": [1, value]}}, r"'a.key\[1\]'")):
        with pytest.raises(ConfigError, match=rf"config has under {where} a {type(value).__name__}, which cannot"):
            Config(source)
    config = Config({"key": 1})
    with pytest.raises(ConfigError, match="'key'"):
        config.key = value
