"""Events, their order, what an exception does, decorators: golden lists."""

import pytest
import torch

from farabio_like import Callback, CallbackOrder, ConfigError, HookError, Logger
from farabio_like.callbacks import (
    Accuracy,
    BatchTransform,
    Checkpoint,
    LimitBatches,
    Only,
    PeriodicEvaluation,
    QuickCheck,
    SavePredictions,
    dispatch,
)
from farabio_like.callbacks import base as events
from tests.trainers import INPUTS, TARGETS, Tiny


class Own(Tiny):
    """Notes its own hooks; one training batch, one valid batch, one epoch."""

    def get_trainloader(self):
        self.train_loader = self.valid_loader = [(INPUTS, TARGETS)]

    def get_testloader(self):
        self.test_loader = [(INPUTS, TARGETS)]


def noting(event):
    def hook(self, *args):
        self.__dict__.setdefault("calls", []).append(f"own {event}")
        getattr(Tiny, event)(self, *args)

    return hook


def observing(event):
    def method(self, trainer):
        trainer.calls.append(f"{self.name} {event}")
        if event in ("on_exception", "on_train_end"):
            self.saw = trainer.exception
        if event == getattr(self, "fails_in", None):
            raise ZeroDivisionError(event)

    return method


for _event in events.EVENTS:
    if _event != "on_exception":
        setattr(Own, _event, noting(_event))


class Observer(Callback):
    def __init__(self, name, order=CallbackOrder.External, fails_in=None):
        self.name, self.order, self.fails_in = name, order, fails_in
        self.closed = 0

    def close(self):
        self.closed += 1


class Recorder(Observer, Logger):
    pass


for _event in events.EVENTS:
    setattr(Observer, _event, observing(_event))


def trainer_with(*callbacks, **settings):
    trainer = Own({"_num_epochs": 1, **settings})
    trainer.callbacks = list(callbacks)
    trainer.calls = []
    return trainer


ORDER = {"start": ["own", "logger", "early", "late"], "end": ["own", "early", "late", "logger"]}


def calls_of(*hooks):
    return [f"{who} {hook}" for hook in hooks for who in ORDER["end" if "_end" in hook else "start"]]


TRAIN = [
    "on_train_start",
    "on_train_epoch_start",
    "on_start_training_batch",
    "on_end_training_batch",
    "on_train_epoch_end",
    "on_evaluate_epoch_start",
    "on_evaluate_batch_start",
    "on_evaluate_batch_end",
    "on_evaluate_epoch_end",
    "on_epoch_end",
    "on_train_end",
]


def three(**failing):
    return Observer("late", 100, **failing), Recorder("logger", 0), Observer("early", 0)


def test_order_of_one_batch():
    callbacks = three()
    trainer = trainer_with(*callbacks)
    trainer.train()
    assert trainer.calls == calls_of(*TRAIN)
    assert [callback.closed for callback in callbacks] == [1, 1, 1]


def test_order_of_a_test():
    trainer = trainer_with(*three())
    trainer.test()
    assert trainer.calls == calls_of("on_test_start", "on_start_test_batch", "on_end_test_batch", "on_test_end")


def test_callbacks_of_the_same_order_come_as_given():
    trainer = trainer_with(Observer("a"), Observer("b"), Observer("c", 99))
    trainer.train()
    assert [call for call in trainer.calls if call.endswith("on_epoch_end")] == [
        "own on_epoch_end",
        "c on_epoch_end",
        "a on_epoch_end",
        "b on_epoch_end",
    ]


@pytest.mark.parametrize("event", [event for event in TRAIN if event != "on_train_end"])
def test_exception_in_each_event(event):
    callbacks = three(fails_in=event)
    trainer = trainer_with(*callbacks)
    with pytest.raises(ZeroDivisionError, match=event) as caught:
        trainer.train()
    expected = calls_of(*TRAIN)
    expected = expected[: expected.index(f"late {event}") + 1]
    ended = [f"{who} on_exception" for who in ("early", "late", "logger")]
    assert trainer.calls == [*expected, *ended, *calls_of("on_train_end")]
    assert all(callback.saw is caught.value for callback in callbacks)
    assert trainer.exception is None  # its traceback would hold the failed step's tensors
    assert [callback.closed for callback in callbacks] == [1, 1, 1]


def test_every_on_train_end_runs_and_the_first_error_wins(capfd):
    callbacks = [Observer("a", fails_in="on_train_end"), Observer("b", fails_in="on_train_end"), Observer("c")]
    trainer = trainer_with(*callbacks)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.calls[-4:] == [f"{who} on_train_end" for who in ("own", "a", "b", "c")]
    assert [callback.closed for callback in callbacks] == [1, 1, 1]
    assert trainer.exception is None  # its traceback would hold the failed step's tensors
    assert capfd.readouterr().err.count("ZeroDivisionError: on_train_end") == 1


def test_only_overridden_events_are_called():
    class Epochs(Callback):
        def on_epoch_end(self, trainer):
            pass

    found = dispatch.listeners([Epochs(), Callback()])
    assert list(found) == ["on_epoch_end"] and len(found["on_epoch_end"]) == 1


def test_a_method_given_to_one_object_is_called():
    callback = Callback()
    seen = []
    callback.on_epoch_end = seen.append
    trainer = trainer_with(callback)
    trainer.train()
    assert seen == [trainer]


def test_decorators_make_callbacks():
    @events.on_epoch_end
    def late(trainer):
        trainer.calls.append("late function")

    @events.on_epoch_end(order=0)
    def early(trainer):
        trainer.calls.append("early function")

    trainer = trainer_with(late, early)
    trainer.train()
    assert trainer.calls[-4:] == ["own on_epoch_end", "early function", "late function", "own on_train_end"]
    late(trainer)
    assert trainer.calls[-1] == "late function"
    for event in events.EVENTS:
        assert getattr(events, event)(print).event == event
    with pytest.raises(ConfigError, match="no event 'on_epoc_end'. Did you mean 'on_epoch_end'"):
        events.FunctionCallback("on_epoc_end", print)


def test_what_is_no_callback_is_named():
    with pytest.raises(HookError, match=r"callbacks\[0\] is <class .*Observer'>; expected .* Write Observer\(\)"):
        trainer_with(Observer).train()
    with pytest.raises(HookError, match=r"callbacks is a Observer; expected a list"):
        trainer = trainer_with()
        trainer.callbacks = Observer("alone")
        trainer.train()
    twice = Observer("a")
    with pytest.raises(ConfigError, match=r"holds the same Observer twice, the second at \[1\]"):
        trainer_with(twice, twice).train()
    trainer_with(Observer("a"), Observer("a")).train()


def test_metrics_added_by_a_callback_reach_the_history():
    class Adds(Callback):
        def on_end_training_batch(self, trainer):
            trainer.batch_metrics["batchwise"] = torch.tensor(2.0)

        def on_evaluate_epoch_end(self, trainer):
            trainer.loader_metrics["loaderwise"] = 3.0

    trainer = trainer_with(Adds())
    (entry,) = trainer.train()
    assert entry["train"]["batchwise"] == 2 and entry["valid"]["loaderwise"] == 3


def test_stop_loader_stops_the_loader_alone():
    class First(Callback):
        def on_end_training_batch(self, trainer):
            assert trainer.loader_name == "train"
            trainer.stop_loader()

    trainer = Tiny({"_num_epochs": 2})
    trainer.callbacks = [First()]
    assert len(trainer.train()) == 2
    assert trainer.step == 2 and trainer.loader_name is None


@pytest.mark.parametrize("as_container", [tuple, lambda callbacks: dict(enumerate(callbacks)), list])
def test_callbacks_in_any_container_are_called_and_closed(as_container):
    first, second = Observer("a"), Observer("b")
    trainer = Own()
    trainer.callbacks = as_container([first, second])
    trainer.train()
    assert first.closed == second.closed == 1


def test_the_same_callback_in_a_wrapper_is_in_the_run_twice():
    callback = Observer("a")
    with pytest.raises(ConfigError, match=r"twice, the second at \[1\]"):
        dispatch.listeners([callback, Only(Only(callback, epochs=1), loaders=("train",))])


def test_an_interrupt_while_cleaning_up_leaves_nothing_open(capfd):
    class Interrupted(Callback):
        def on_train_end(self, trainer):
            raise KeyboardInterrupt

    first, last = Observer("a", fails_in="on_epoch_end"), Observer("b")
    with pytest.raises(ZeroDivisionError):
        trainer_with(first, Interrupted(), last).train()
    assert (first.closed, last.closed) == (1, 1)
    with pytest.raises(KeyboardInterrupt):
        trainer_with(Interrupted(), last).train()
    assert last.closed == 2


BATCH_EVENTS = {event for event in events.EVENTS if "batch" in event}


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (Checkpoint(), set()),
        (Checkpoint(every_epochs=2), set()),
        (Checkpoint(every_steps=2), {"on_end_training_batch"}),
        (Checkpoint(every_minutes=2), {"on_end_training_batch"}),
        (PeriodicEvaluation([1], "a"), set()),
        (PeriodicEvaluation([1], "a", every_steps=3), {"on_end_training_batch"}),
        (LimitBatches(), set()),
        (LimitBatches(valid=2), {"on_evaluate_batch_start"}),
        (QuickCheck(), {"on_end_training_batch", "on_evaluate_batch_start", "on_end_test_batch"}),
        (Accuracy(loaders=("valid",)), {"on_evaluate_batch_end"}),
        (SavePredictions(), {"on_end_test_batch"}),
        (BatchTransform(abs), {"on_start_training_batch"}),
        (Only(Accuracy(), loaders=("test",)), {"on_end_test_batch"}),
        (Only(LimitBatches(valid=2), epochs=1), {"on_evaluate_batch_start"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_that_is_not_needed_costs_nothing(callback, expected):
    assert set(dispatch.listeners([callback])) & BATCH_EVENTS == expected
