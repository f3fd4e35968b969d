"""Objects that answer to every name, or raise, wherever the package asks what an object can do."""

import weakref
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from farabio_like import Callback, data, rng
from farabio_like.callbacks import EMA, Only
from farabio_like.checkpoint import objects as user_objects
from farabio_like.checkpoint import plain
from farabio_like.components import parameters_of
from farabio_like.config import Config
from farabio_like.data.prefetch import tensors_in
from farabio_like.duck_typing import attribute, has_methods, has_state, is_a, method, own_attributes
from farabio_like.metrics.objects import MetricObjects
from farabio_like.resume import attributes
from tests.odd import ODD, AnyCall, Missing, NoClass, Owned, Proxy, Wrapper
from tests.trainers import INPUTS, TARGETS, Tiny


@pytest.fixture(params=ODD)
def odd(request):
    return ODD[request.param](Tiny())


def test_what_they_answer_is_not_believed(odd):
    assert not has_state(odd)
    assert type(odd).__name__ == "MagicMock" or not has_methods(odd, "tolist") and not has_methods(odd, "record_stream")
    assert not is_a(odd, (nn.Module, torch.Tensor, torch.optim.Optimizer))
    assert parameters_of(odd) == []


def test_they_pass_where_a_part_of_a_batch_may_be(odd):
    batch = {"inputs": INPUTS, "meta": odd}
    moved = data.move(batch, torch.device("cpu"))
    assert moved["inputs"] is INPUTS
    assert type(odd) in (list, dict) or has_methods(odd, "to") or moved["meta"] is odd
    assert data.batch_size([odd, INPUTS]) == len(INPUTS)
    assert any(tensor is INPUTS for tensor in tensors_in(batch))


def test_they_have_no_generators_and_no_state(odd):
    state = rng.get_state(odd)
    assert state["loaders"] == []
    rng.set_state(state, odd)
    captured = user_objects.capture(SimpleNamespace(odd=odd, number=1))
    assert dict(captured["fields"])["number"] == {"plain": 1}
    assert plain.is_plain(1) and user_objects.mark(odd) == user_objects.mark(odd)
    assert user_objects.fits(odd, {"part": {}}) is False


class Asked(nn.Module):
    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return lambda *arguments: name


def test_what_a_class_has_is_believed():
    for value in (nn.Linear(1, 1), torch.optim.SGD([INPUTS.clone().requires_grad_()], lr=0.1), Asked(), Owned(None)):
        assert has_state(value)
    assert has_state(Wrapper(nn.Linear(1, 1))) and has_state(Proxy(nn.Linear(1, 1)))
    assert has_state(net := nn.Linear(1, 1)) and has_state(weakref.proxy(net))
    assert not has_state(nn.Linear) and not has_methods(nn.Linear, "to")
    assert method(Asked(), "anything") is None and method(Asked(), "to") is not None


def test_what_an_object_has_itself_is_believed():
    one = SimpleNamespace(to=lambda device: device, state_dict=lambda: {}, load_state_dict=print, number=3)
    assert has_methods(one, "to") and not has_methods(one, "number")
    assert not has_state(one)  # bare functions: whose state?
    assert (
        attribute(one, "number") == 3 and attribute(Missing(), "nothing", 5) == 5 and attribute(NoClass(), "a") is None
    )


def test_whose_attributes_they_are():
    class Slots:
        __slots__ = ("a",)

    one, inside = AnyCall(), Missing()
    assert own_attributes(one) is vars(one) and own_attributes(SimpleNamespace(a=1)) == {"a": 1}
    assert (
        own_attributes(Proxy(inside)) is own_attributes(Slots()) is own_attributes(3) is own_attributes(Slots) is None
    )


def test_a_configuration_that_raises_the_wrong_error():
    config = Config(Missing())
    assert config.size == 3 and not hasattr(config, "nothing") and config.get("nothing", 1) == 1
    with pytest.raises(KeyError, match="config has no key 'nothing'"):
        config["nothing"]
    assert Config(mock.Mock(lr=0.5)).lr == Config(mock.MagicMock(lr=0.5)).lr == 0.5
    assert Config(AnyCall()).to_dict() == {"sent": []}


def test_a_batch_that_raises_the_wrong_error():
    class Keyed(Missing):
        def __init__(self, **values):
            self.values = values

    assert data.inputs_and_targets(Keyed(inputs=1)) == {"inputs": 1}
    assert data.inputs_and_targets(Keyed(inputs=1, targets=2, more=3)) == {"inputs": 1, "targets": 2}


def test_an_error_in_a_property_of_a_batch_is_not_hidden():
    class Broken:
        @property
        def inputs(self):
            raise ValueError("of the user's")

    with pytest.raises(ValueError, match="of the user's"):
        data.inputs_and_targets(Broken())


def test_a_callback_that_sends_any_call_to_a_server():
    class Board(Callback):
        __getattr__ = AnyCall.__getattr__

        def __init__(self):
            self.sent, self.losses = [], []

        def on_train_epoch_end(self, trainer):
            self.losses.append(trainer.loader_metrics["loss"])

    class Boards(Tiny):
        def build_model(self):
            super().build_model()
            self.callbacks = [Board(), Only(EMA(0.5), epochs=range(1, 9))]

    trainer = Boards({"_logdir": "runs"})
    trainer.train()
    assert list(attributes.averaging(trainer)) == ["EMA"]
    board = trainer.callbacks[0]
    assert len(board.losses) == 2 and board.sent == []
    assert trainer.test()["loss"] > 0


def test_a_metric_that_sends_any_call_to_a_server():
    class Sum:
        __getattr__ = AnyCall.__getattr__

        def __init__(self):
            self.sent, self.total = [], 0.0

        def update(self, prediction, target):
            self.total += float(target.sum())

        def compute(self):
            return self.total

        def reset(self):
            self.total = 0.0

    objects = MetricObjects(metric := Sum(), torch.device("cpu"))
    assert objects.compute() == {} and objects.state_dict() == {"updated": False, "metrics": {}}
    objects.update(INPUTS, TARGETS)
    assert objects.compute() == {"metric": float(TARGETS.sum())} and metric.sent == []
