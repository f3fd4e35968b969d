"""Metrics keep each pass over a loader apart, whatever happens in a run, and go on with a resumed one."""

import io
import itertools
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from farabio_like import ConfigError, HookError
from farabio_like.callbacks.accuracy import Accuracy
from farabio_like.callbacks.auc import AUC
from farabio_like.callbacks.base import Callback, CallbackOrder
from farabio_like.callbacks.confusion_matrix import ConfusionMatrix
from farabio_like.callbacks.function_metric import FunctionMetric
from farabio_like.callbacks.metric import MetricCallback, gather, joined, keep
from farabio_like.callbacks.overlap import Dice, IoU
from farabio_like.callbacks.precision_recall import PrecisionRecallF1
from tests.trainers import INPUTS, TARGETS, Tiny

from .replay import Replay, batches, measure, replay, scores


class Bias(MetricCallback):
    def update(self, state, prediction, target):
        state["sum"] = state.get("sum", 0.0) + (prediction - target).sum()
        state["count"] = state.get("count", 0) + target.numel()

    def compute(self, state):
        return {"bias": state["sum"] / state["count"]}


class Seen(MetricCallback):
    """Records the targets of every pass."""

    def update(self, state, prediction, target):
        keep(state, "targets", target)

    def compute(self, state):
        return {"seen": joined(state, "targets")}


def numbers(first, last, size=4):
    values = torch.arange(float(first), float(last))
    return batches(values, values, size)


def test_a_metric_is_in_the_same_places_as_every_number():
    trainer = Tiny()
    trainer.callbacks = [Bias()]
    history = trainer.train()
    assert len(history) == 2
    for entry in history:
        assert set(entry["train"]) == set(entry["valid"]) == {"loss", "bias"}
        assert all(type(value) is float for part in ("train", "valid") for value in entry[part].values())
    expected = (trainer.model(INPUTS) - TARGETS).mean().item()
    assert history[-1]["valid"]["bias"] == pytest.approx(expected, abs=1e-6)
    assert trainer.epoch_metrics["valid"] is trainer.history[-1]["valid"]
    trainer._monitor, trainer._monitor_mode = "bias", "min"
    trainer.train()
    tested = trainer.test()
    assert tested["bias"] == pytest.approx((trainer.model(INPUTS) - TARGETS).mean().item(), abs=1e-6)


def test_the_metric_decides_which_epoch_is_best():
    trainer = Tiny({"_monitor": "bias", "_monitor_mode": "min", "_logdir": "runs"})
    trainer.callbacks = [Bias()]
    history = trainer.train()
    values = [entry["valid"]["bias"] for entry in history]
    state = torch.load(trainer.run_dir / "checkpoints/best.ckpt", weights_only=True)
    assert state["epoch"] == 1 + values.index(min(values))


def test_each_loader_is_a_pass_of_its_own_and_loaders_restricts():
    train, valid, test = numbers(0, 10), numbers(10, 15), numbers(20, 23)
    trainer = replay(Seen(), train, valid, test, _num_epochs=2)
    for entry in trainer.train():
        assert entry["train"]["seen"] == [float(n) for n in range(10)]
        assert entry["valid"]["seen"] == [float(n) for n in range(10, 15)]
    assert trainer.test()["seen"] == [20.0, 21.0, 22.0]
    trainer = replay([Seen(loaders=("valid",)), Seen(loaders=["test"], prefix="late_")], train, valid, test)
    (entry,) = trainer.train()
    assert set(entry["train"]) == {"loss"} and set(entry["valid"]) == {"loss", "seen"}
    assert set(trainer.test()) == {"loss", "late_seen"}


def test_an_evaluation_within_a_training_batch_mixes_nothing():
    class Often(Replay):
        inner = []

        def on_end_training_batch(self):
            if self.step == 2:
                self.inner.append(self.evaluate_epoch()["seen"])

        def training_step(self):
            super().training_step()
            if self.step == 1:
                self.inner.append(self.evaluate_epoch()["seen"])

    trainer = replay(Seen(), numbers(0, 10), numbers(10, 15), kind=Often)
    (entry,) = trainer.train()
    valid = [float(n) for n in range(10, 15)]
    assert trainer.inner == [valid, valid] and entry["valid"]["seen"] == valid
    assert entry["train"]["seen"] == [float(n) for n in range(10)]


def test_an_evaluation_in_the_hook_before_takes_nobodys_place():
    class Early(Replay):
        def on_train_epoch_end(self):
            self.evaluate_epoch()

    trainer = replay(Seen(), numbers(0, 4), numbers(10, 12), kind=Early)
    (entry,) = trainer.train()
    assert entry["train"]["seen"] == [0.0, 1.0, 2.0, 3.0] and entry["valid"]["seen"] == [10.0, 11.0]


class StopLoader(Callback):
    order = CallbackOrder.External

    def on_end_training_batch(self, trainer):
        trainer.stop_loader()


def test_a_pass_that_is_left_early_is_measured_as_far_as_it_went():
    trainer = replay([Seen(), StopLoader()], numbers(0, 10), numbers(10, 12), _num_epochs=2)
    assert [entry["train"]["seen"] for entry in trainer.train()] == [[0.0, 1.0, 2.0, 3.0]] * 2


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_nothing_of_a_pass_that_failed_leaks_into_the_next(part):
    class Failing(Replay):
        failures = 1

        def compute_loss(self):
            if self.loader_name == part and self.failures and self.inputs[0] % 10 == 4:
                self.failures = 0
                raise KeyboardInterrupt
            return super().compute_loss()

    trainer = replay(Seen(), numbers(0, 10), numbers(10, 20), numbers(20, 30), kind=Failing)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
        trainer.test()
    if part != "test":
        trainer.train()
    found = {**trainer.history[-1], "test": trainer.test()}
    for name, first in (("train", 0), ("valid", 10), ("test", 20)):
        assert found[name]["seen"] == [float(n) for n in range(first, first + 10)]


def test_a_loader_without_a_batch_has_no_metric():
    class AllSkipped(Replay):
        def on_evaluate_batch_start(self, item):
            self._next_loop = True

    trainer = replay(Seen(), numbers(0, 4), kind=AllSkipped)
    (entry,) = trainer.train()
    assert entry["valid"] == {} and entry["train"]["seen"] == [0.0, 1.0, 2.0, 3.0]


def test_a_skipped_batch_is_not_measured():
    class Skipping(Replay):
        def on_evaluate_batch_start(self, item):
            self.take_batch(item)
            self._next_loop = item[0] == 0

    trainer = replay(Seen(), numbers(0, 4), numbers(0, 10), kind=Skipping)
    assert trainer.train()[0]["valid"]["seen"] == [float(n) for n in range(4, 10)]


def test_one_object_in_two_trainers_and_two_runs():
    metric = Seen()
    for first in (0, 100):
        trainer = replay(metric, numbers(first, first + 5))
        for _ in range(2):
            trainer.train()
            metric.close()
            metric.close()
        assert [e["train"]["seen"] for e in trainer.history] == [[float(n) for n in range(first, first + 5)]] * 2


def test_prediction_and_target_are_taken_as_asked():
    metric = Seen(target=lambda trainer: trainer.targets["digit"], prediction=lambda trainer: trainer.outputs * 2)
    trainer = replay(metric, [(torch.ones(2), {"digit": torch.tensor([3.0, 4.0])})])
    assert trainer.train()[0]["train"]["seen"] == [3.0, 4.0]


def test_what_is_kept_is_a_copy_without_a_graph_and_no_graph_is_made():
    class Look(MetricCallback):
        def update(self, state, prediction, target):
            assert not prediction.requires_grad and not torch.is_grad_enabled()
            keep(state, "all", prediction)

        def compute(self, state):
            return {"values": joined(state, "all")}

    class Reusing(Tiny):
        def on_train_epoch_start(self):
            self.buffer = torch.zeros(1)

        def compute_loss(self):
            loss = super().compute_loss()
            assert self.outputs.requires_grad or self.loader_name == "valid"
            self.outputs = self.buffer.fill_(self.step)
            return loss

    trainer = Reusing({"_num_epochs": 1})
    trainer.callbacks = [Look(loaders=("train",))]
    assert trainer.train()[0]["train"]["values"] == [1.0, 2.0, 3.0]


def stopped_after(metric, steps):
    """Return what the metric saves when the process ends in the middle of an epoch, as a file gives it back."""

    class Interrupt(Callback):
        order = CallbackOrder.Other

        def on_end_training_batch(self, trainer):
            if trainer.step == steps:
                file = io.BytesIO()
                torch.save(metric.state_dict(), file)
                file.seek(0)
                self.saved = torch.load(file, weights_only=True)

    interrupt = Interrupt()
    trainer = replay([metric, interrupt], numbers(0, 10), numbers(10, 15))
    trainer.train()
    return interrupt.saved


@pytest.mark.parametrize("steps", [1, 2])
def test_a_resumed_pass_goes_on_where_it_was(steps):
    saved = stopped_after(Seen(), steps)
    metric = Seen()
    metric.load_state_dict(saved)
    torch.testing.assert_close(metric.state_dict(), saved, rtol=0, atol=0)
    trainer = replay(metric, numbers(4 * steps, 10), numbers(10, 15), _evaluate_first=True)
    trainer.train()
    trainer.train()
    rest = [float(n) for n in range(4 * steps, 10)]
    assert trainer.history[0]["train"]["seen"] == [float(n) for n in range(10)]
    assert trainer.history[1]["train"]["seen"] == rest
    assert trainer.history[0]["valid"]["seen"] == [float(n) for n in range(10, 15)]


def test_a_saved_state_stays_as_it_was_and_between_epochs_there_is_none():
    metric = Seen()
    saved = stopped_after(metric, 1)
    again = Seen()
    again.load_state_dict(saved)
    replay(again, numbers(4, 10)).train()
    assert [part.tolist() for part in saved["train"]["targets"]] == [[0.0, 1.0, 2.0, 3.0]]
    assert metric.state_dict() == again.state_dict() == {}
    metric.load_state_dict(saved)
    metric.load_state_dict({})
    assert metric.state_dict() == {}


def test_outputs_of_the_pass_before_are_not_measured():
    class OwnStep(Tiny):
        def training_step(self):
            self.loss = self.criterion(self.model(self.inputs), self.targets)

    trainer = OwnStep()
    trainer.callbacks = [Bias(loaders=("valid", "train"))]
    with pytest.raises(
        HookError, match=r"step has not set self.outputs.*or measure elsewhere, with loaders=\('valid',\)"
    ):
        trainer.train()
    trainer = OwnStep()
    trainer.callbacks = [Bias(loaders=("valid",))]
    trainer.train()
    trainer.callbacks = [Bias()]  # now there are outputs, but those of the valid pass
    with pytest.raises(HookError, match="Bias has no prediction for a train batch"):
        trainer.train()


def test_missing_targets_are_said():
    trainer = replay(Bias(loaders=("train",)), [(torch.ones(2), None)])
    with pytest.raises(HookError, match=r"no target for a train batch.*self.targets.*Bias\(target=lambda trainer"):
        trainer.train()


class NoReading(TorchDispatchMode):
    """Fails on what makes a GPU wait: values read back, and shapes that depend on values."""

    forbidden = ("_local_scalar_dense", "nonzero", "bincount", "unique", "masked_select", "equal", "item")

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert not function.__name__.startswith(self.forbidden), function.__name__
        return function(*arguments, **(options or {}))


CLASSES = (torch.rand(5, 3), torch.tensor([0, 1, 2, 1, 0]))
BINARY = (torch.randn(5, 1), torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))
SEVERAL = (torch.randn(5, 3), torch.ones(5, 3))


@pytest.mark.parametrize(
    ("metric", "data"),
    [
        (Accuracy((1, 2)), (CLASSES,)),
        (Accuracy(ignore_index=1), (CLASSES, BINARY, SEVERAL)),
        (AUC(), (CLASSES, BINARY, SEVERAL)),
        (PrecisionRecallF1(), (CLASSES, BINARY, SEVERAL)),
        (ConfusionMatrix(), (CLASSES, BINARY)),
        (Dice(), (CLASSES, BINARY, SEVERAL)),
        (IoU(per_image=True, ignore_index=0), (CLASSES, BINARY, SEVERAL)),
        (FunctionMetric("one", lambda prediction, target: 1, per="loader"), (CLASSES, BINARY, SEVERAL)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MetricCallback) else "",
)
def test_a_batch_reads_nothing_back(metric, data):
    for prediction, target in data:
        state = metric.start()
        with NoReading(), torch.no_grad():
            metric.update(state, prediction, target)
            metric.update(state, prediction, target)
        assert state


def test_two_metrics_of_one_name_are_a_mistake():
    trainer = replay([Bias(), Bias()], numbers(0, 4))
    with pytest.raises(ConfigError, match=r"another metric called 'bias' already. Write Bias\(prefix='my_'\)"):
        trainer.train()
    trainer = replay([Bias(), Bias(prefix="my_")], numbers(0, 4))
    assert set(trainer.train()[0]["train"]) == {"loss", "bias", "my_bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loaders": "valid"}, r'Bias\(loaders=\'valid\'\).*Write loaders=\("valid",\)'),
        ({"loaders": ()}, "expected some of"),
        ({"loaders": ("valid", "dev")}, "'dev'"),
        ({"prediction": "outputs"}, "prediction=lambda trainer: trainer.outputs"),
        ({"target": 3}, "target=lambda trainer: trainer.targets"),
    ],
)
def test_arguments_that_are_not_allowed(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Bias(**arguments)


def test_a_subclass_without_its_methods_is_told():
    for methods in ({}, {"update": lambda self, state, prediction, target: None}):
        metric = type("Half", (MetricCallback,), methods)()
        with pytest.raises(NotImplementedError, match="Half has to override"):
            replay(metric, numbers(0, 4)).train()


def test_metrics_come_before_other_callbacks():
    found = []

    class Reader(Callback):
        def on_train_epoch_end(self, trainer):
            found.append(trainer.loader_metrics["bias"])

    replay([Reader(), Bias()], numbers(0, 4)).train()
    assert found == [0.0]


def test_a_warning_is_said_once():
    metric, other = Bias(), Bias()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for each, text in itertools.product((metric, other), ("one", "one", "two")):
            each.say_once(text)
    assert [str(w.message) for w in said] == ["one", "two", "one", "two"]


MERGED = [
    Accuracy(top_k=(1, 3)),
    AUC(),
    PrecisionRecallF1(),
    Dice(),
    IoU(per_image=True),
    FunctionMetric("error", lambda prediction, target: (prediction.argmax(1) != target).float().mean(), per="loader"),
]


@pytest.mark.parametrize("metric", MERGED, ids=lambda metric: type(metric).__name__)
def test_parts_of_a_loader_read_by_several_processes_give_what_one_gives(metric):
    prediction, target = scores(40, 4)
    given = batches(prediction, target)
    states = []
    for part in (given[:1], given[1:2], given[2:]):
        states.append(metric.start())
        for batch in part:
            metric.update(states[-1], *batch)
    ours = metric.compute(metric.merge(states))
    for name, value in measure(metric, prediction, target, size=40).items():
        assert torch.as_tensor(ours[name]).tolist() == pytest.approx(value, nan_ok=True), name


def test_the_range_of_scores_is_that_of_all_processes():
    merged = Accuracy().merge([{"low": torch.tensor(1.0), "high": torch.tensor(2.0)}, {"low": torch.tensor(-1.0)}, {}])
    assert (merged["low"].item(), merged["high"].item()) == (-1, 2)


def test_a_state_that_is_no_dict_has_to_be_merged_by_its_metric():
    with pytest.raises(HookError, match="has to override merge"):
        Bias().merge([[1], [2]])


def test_a_single_process_gathers_its_own_state():
    assert gather({"a": 1}) == [{"a": 1}] and gather(None) == []


def test_a_resumed_pass_may_be_given_before_and_after_its_start():
    metric, whole = Bias(loaders=("train",)), Bias(loaders=("train",))
    prediction, target = torch.arange(4.0), torch.zeros(4)
    for part in (metric, whole):
        part._states["train"] = part.start()
        part.update(part._states["train"], prediction, target)
    saved = metric.state_dict()
    trainer = replay(fresh := Bias(loaders=("train",)), batches(prediction + 1, target))

    class Resumes(Callback):
        order = 1000

        def on_train_start(self, trainer):
            fresh.load_state_dict(saved)

        on_train_epoch_start = on_train_start

    trainer.callbacks.append(Resumes())
    (entry,) = trainer.train()
    assert entry["train"]["bias"] == pytest.approx((prediction.sum() + (prediction + 1).sum()).item() / 8)
    assert fresh.state_dict() == {}
