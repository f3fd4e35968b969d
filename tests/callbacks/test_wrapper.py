import copy

import pytest

from farabio_like.callbacks.base import EVENTS, Callback, FunctionCallback
from farabio_like.callbacks.dispatch import listeners
from farabio_like.callbacks.ema import EMA
from farabio_like.callbacks.swa import SWA
from farabio_like.callbacks.wrapper import Only
from farabio_like.errors import ConfigError
from tests.trainers import Tiny


def note(event):
    def method(self, trainer):
        self.seen.append((event, trainer.epoch))

    return method


class Note(Callback):
    """Notes every event."""

    def __init__(self):
        self.seen = []

    def state_dict(self):
        return {"seen": len(self.seen)}

    def load_state_dict(self, state):
        self.seen = [None] * state["seen"]

    def close(self):
        self.closed = True


for name in EVENTS:
    setattr(Note, name, note(name))

TRAIN = ["on_train_epoch_start", *["on_start_training_batch", "on_end_training_batch"] * 3, "on_train_epoch_end"]
VALID = ["on_evaluate_epoch_start", *["on_evaluate_batch_start", "on_evaluate_batch_end"] * 3, "on_evaluate_epoch_end"]
TEST = ["on_test_start", *["on_start_test_batch", "on_end_test_batch"] * 3, "on_test_end"]


def events(**conditions):
    trainer, wrapped = Tiny(), Note()
    trainer.callbacks = [Only(wrapped, **conditions)]
    trainer.train()
    trainer.test()
    return [event if event in ("on_train_start", "on_train_end") else (event, epoch) for event, epoch in wrapped.seen]


def numbered(names, epoch):
    return [(name, epoch) for name in names]


@pytest.mark.parametrize("epochs", [2, {2}, range(2, 9), [2]])
def test_epochs(epochs):
    inside = numbered([*TRAIN, *VALID, "on_epoch_end"], 2)
    assert events(epochs=epochs) == ["on_train_start", *inside, "on_train_end", *numbered(TEST, 2)]


def test_loaders():
    inside = [pair for epoch in (1, 2) for pair in numbered([*VALID, "on_epoch_end"], epoch)]
    assert events(loaders=("valid",)) == ["on_train_start", *inside, "on_train_end"]


def test_loaders_and_epochs():
    assert events(loaders=("train", "test"), epochs=1) == [
        "on_train_start",
        *numbered([*TRAIN, "on_epoch_end"], 1),
        "on_train_end",
        *numbered(TEST, 2),
    ]


def test_what_was_let_in_is_let_out():
    asked = []

    def first_time_only(trainer):
        asked.append(1)
        return len(asked) == 1

    trainer, wrapped = Tiny({"_num_epochs": 1}), Note()
    trainer.callbacks = [Only(wrapped, when=first_time_only)]
    trainer.train()
    assert [event for event, _ in wrapped.seen] == [
        "on_train_start",
        "on_train_epoch_start",
        "on_train_epoch_end",
        "on_train_end",
    ]


def test_a_condition_may_change_from_batch_to_batch():
    class Batches(Callback):
        def __init__(self):
            self.steps = []

        def on_start_training_batch(self, trainer):
            self.steps.append(trainer.step)

        def on_end_training_batch(self, trainer):
            self.steps.append(-trainer.step)

    trainer, wrapped = Tiny(), Batches()
    trainer.callbacks = [Only(wrapped, when=lambda trainer: trainer.step % 2)]
    trainer.train()
    assert wrapped.steps == [1, -1, 3, -3, 5, -5]


def test_only_overridden_events_are_listened_to():
    class Epochs(Callback):
        def on_epoch_end(self, trainer):
            pass

    assert list(listeners([Only(Epochs(), epochs=1)])) == ["on_epoch_end"]
    assert list(listeners([Only(Only(Epochs(), epochs=1), loaders=("train",))])) == ["on_epoch_end"]
    assert list(listeners([Only(FunctionCallback("on_test_end", print), epochs=1)])) == ["on_test_end"]


def test_state_order_and_close_pass_through():
    wrapped = Note()
    wrapped.order = 7
    only = Only(wrapped, epochs=1)
    wrapped.seen = [1, 2]
    assert only.order == 7 and only.state_dict() == {"seen": 2}
    only.load_state_dict({"seen": 3})
    only.close()
    assert len(wrapped.seen) == 3 and wrapped.closed and only.seen is wrapped.seen
    with pytest.raises(AttributeError, match="'Note' object has no attribute 'nothing'"):
        _ = only.nothing
    assert copy.copy(only).callback is wrapped


def test_an_average_of_some_epochs():
    trainer, ema = Tiny({"_num_epochs": 3}), EMA(0.5)
    trainer.callbacks = [Only(ema, epochs=range(3, 9))]
    trainer.train()
    assert set(trainer.callbacks[0].model_state(trainer)) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"Only\(SWA\(...\)\) filters nothing"),
        ({"epochs": "2"}, r"epochs='2'\): expected a number, a range"),
        ({"epochs": [1.5]}, "expected a number, a range"),
        ({"when": True}, r"when=True\): expected a function"),
        ({"loaders": ("all",)}, "no loader 'all'"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Only(SWA(1), **arguments)


def test_something_that_is_no_callback():
    with pytest.raises(ConfigError, match="expected a Callback"):
        Only(print, epochs=1)
