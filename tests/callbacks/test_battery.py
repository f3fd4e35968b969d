"""Every callback that ships goes through the same checks; one that this file cannot build fails.

A class comes into `ARGUMENTS` (or, where it needs none, works as it is), a base that is only there to be subclassed
into `BASES`.
"""

import importlib
import inspect
import pkgutil

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import farabio_like.callbacks
from farabio_like import ConvnetTrainer, plots
from farabio_like.callbacks.base import EVENTS, Callback, FunctionCallback, Logger
from farabio_like.callbacks.dispatch import listeners
from farabio_like.callbacks.ema import EMA
from farabio_like.plots import painter
from farabio_like.rundir import environment
from farabio_like.trainer import SETTINGS

# Not used as they are: subclasses say what they do.
BASES = {"Average", "Callback", "ImageQuality", "Logger", "MetricCallback", "LabelMetric", "Overlap"}


def print_nothing(trainer):
    pass


def mean_error(prediction, target):
    return (prediction.argmax(1) != target).float().mean()


def torch_accuracy():
    torchmetrics = pytest.importorskip("torchmetrics")
    return torchmetrics.classification.MulticlassAccuracy(num_classes=3)


def images(trainer):
    return nn.functional.interpolate(trainer.inputs, (12, 12))


def brighter(trainer):
    return images(trainer).sqrt()


# Positional and named arguments, made anew for every object.
ARGUMENTS = {
    "BatchTransform": lambda: ((torch.neg, ("train", "valid", "test")), {}),
    "CutMix": lambda: ((), {"num_classes": 3}),
    "Freeze": lambda: (("0.*",), {}),
    "FunctionCallback": lambda: (("on_epoch_end", print_nothing), {}),
    "FunctionMetric": lambda: (("error", mean_error), {}),
    "Mixup": lambda: ((), {"num_classes": 3}),
    "Only": lambda: ((EMA(0.5),), {"epochs": range(1, 9)}),
    "PSNR": lambda: ((), {"prediction": images, "target": brighter}),
    "SSIM": lambda: ((), {"prediction": images, "target": brighter}),
    "SWA": lambda: ((1,), {"lr": 0.01}),
    "SavePredictions": lambda: ((("valid", "test"),), {}),
    "PeriodicEvaluation": lambda: (([(torch.rand(4, 1, 4, 4), torch.arange(4) % 3)], "further"), {}),
    "Profiler": lambda: ((), {"wait": 0, "warmup": 1, "active": 1}),
    "TorchMetric": lambda: (("torch_accuracy", torch_accuracy()), {}),
    "Unfreeze": lambda: (("0.*",), {}),
}


def shipped():
    """Return every public callback class of the package, by name, from all its modules."""
    found = {}
    for module in pkgutil.walk_packages(farabio_like.callbacks.__path__, "farabio_like.callbacks."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and issubclass(value, Callback) and value.__module__ == module.name:
                if not name.startswith("_"):
                    found[name] = value
    return found


SHIPPED = shipped()
CLASSES = sorted(set(SHIPPED) - BASES)


def build(name):
    positional, named = ARGUMENTS[name]() if name in ARGUMENTS else ((), {})
    try:
        return SHIPPED[name](*positional, **named)
    except TypeError as error:
        pytest.fail(
            f"{SHIPPED[name].__module__}.{name} cannot be built without arguments ({error}); "
            "give it an entry in ARGUMENTS of tests/callbacks/test_battery.py."
        )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out of the run folder what takes long and has tests of its own: the code and the curves."""
    monkeypatch.setattr(environment, "copy_code", lambda owner, folder: None)
    for module in (plots, painter):
        monkeypatch.setattr(module, "curves", lambda history, best=None: Figure())


class Images(ConvnetTrainer):
    """Three classes of small images; batch norm, a frozen layer, and classes as the largest of three outputs."""

    def define_misc_attr(self):
        self._device, self._verbose, self._num_epochs = "cpu", False, 2
        self.calls = 0

    def get_trainloader(self):
        torch.manual_seed(0)
        self.data = TensorDataset(torch.rand(12, 1, 4, 4), torch.arange(12) % 3)
        self.train_loader = DataLoader(self.data, batch_size=4)
        self.valid_loader = DataLoader(self.data, batch_size=6)

    def get_testloader(self):
        self.test_loader = DataLoader(self.data, batch_size=6)

    def build_model(self):
        self.model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
        self.model[1].bias.requires_grad_(False)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)


class Fails(Images):
    """Fails with an error of its own: in a step, or in an evaluation."""

    where = "train"

    def on_end_training_batch(self):
        if self.where == "train" and self.step == 2:
            raise LookupError("the user's own")

    def on_evaluate_batch_end(self):
        if self.where == "valid":
            raise LookupError("the user's own")


def trainer_with(kind, *callbacks):
    trainer = kind()
    trainer.callbacks = list(callbacks)
    return trainer


def surroundings(trainer):
    """Return what a callback may not leave changed."""
    return {
        "requires_grad": [p.requires_grad for p in trainer.model.parameters()],
        "modes": [part.training for part in trainer.model.modules()],
        "identity": [(id(p), p.data_ptr()) for p in trainer.model.parameters()],
        "buffers": [(id(b), b.data_ptr()) for b in trainer.model.buffers()],
        "momentum": trainer.model[1].momentum,
        "lr": trainer.get_lr(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "hooks": [len(part._forward_hooks) + len(part._backward_hooks) for part in trainer.model.modules()],
    }


def assert_same(first, second):
    """Assert that two states are equal: tensors, containers, numbers with NaN."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second or (first != first and second != second)


def test_there_are_callbacks_and_every_base_has_a_subclass():
    assert {"EMA", "Freeze", "Mixup", "Only"} <= set(CLASSES)
    assert set(ARGUMENTS) <= set(SHIPPED)
    for name in BASES & set(SHIPPED) - {"Logger"}:
        assert any(issubclass(SHIPPED[other], SHIPPED[name]) for other in CLASSES), f"{name} is no base"


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_described(name):
    first = (SHIPPED[name].__doc__ or "").strip().split("\n")[0]
    assert first.endswith((".", "?")) and len(first) > 15, f"{name} has no one-line description: {first!r}"


@pytest.mark.parametrize("name", CLASSES)
def test_it_closes_twice(name):
    callback = build(name)
    callback.close()
    callback.close()
    trainer_with(Images, callback).train()
    callback.close()
    callback.close()


@pytest.mark.parametrize("name", CLASSES)
def test_it_trains_twice_and_with_another_trainer(name):
    callback = build(name)
    trainer = trainer_with(Images, callback)
    trainer.train()
    first = len(trainer.history)
    assert first >= 1
    trainer.train()
    assert len(trainer.history) > first or name == "EarlyStopping"
    trainer.test()
    other = trainer_with(Images, callback)
    other.train()
    assert other.history


@pytest.mark.parametrize("where", ["train", "valid"])
@pytest.mark.parametrize("name", CLASSES)
def test_it_survives_an_exception(name, where):
    callback = build(name)
    trainer = trainer_with(Fails, callback)
    trainer.where = where
    before = surroundings(trainer)
    with pytest.raises(LookupError, match="^\"?'?the user's own'?\"?($|\n)") as raised:
        trainer.train()
    assert raised.value.__cause__ is None
    after = surroundings(trainer)
    assert after == before
    trainer.where = None
    trainer.train()
    assert trainer.history


@pytest.mark.parametrize("name", CLASSES)
def test_its_state_round_trips(name, tmp_path):
    callback = build(name)
    trainer = trainer_with(Images, callback)
    trainer.train()
    state = callback.state_dict()
    torch.save(state, tmp_path / "state.pt")
    fresh = build(name)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(fresh.state_dict(), state)
    trainer_with(Images, fresh).train()


@pytest.mark.parametrize("name", CLASSES)
def test_it_leaves_the_trainer_as_it_was(name):
    trainer = trainer_with(Images, build(name))
    settings = {key: value for key, value in vars(trainer).items() if key in SETTINGS}
    before = surroundings(trainer)
    trainer.train()
    trainer.test()
    assert surroundings(trainer) == before
    loaders = trainer.train_loader, trainer.valid_loader, trainer.test_loader
    assert all(isinstance(loader, DataLoader) for loader in loaders)
    after = {key: vars(trainer)[key] for key in settings}
    assert {key for key in settings if settings[key] != after[key]} <= {"_epoch"}


@pytest.mark.parametrize("name", CLASSES)
def test_it_listens_only_to_what_it_overrides(name):
    callback = build(name)
    listened = set(listeners([callback]))
    if isinstance(callback, FunctionCallback):
        assert listened == {callback.event}
        return
    inner = getattr(callback, "callback", callback) if name == "Only" else callback
    overridden = {event for event in EVENTS if getattr(type(inner), event) is not getattr(Callback, event)}
    assert listened == {event for event in overridden if inner.listens_to(event)}


def test_a_class_that_cannot_be_built_says_what_to_do(monkeypatch):
    class Needs(Callback):
        def __init__(self, something):
            pass

    monkeypatch.setitem(SHIPPED, "Needs", Needs)
    with pytest.raises(pytest.fail.Exception, match="give it an entry in ARGUMENTS"):
        build("Needs")


def test_all_of_them_together():
    """One run with every callback that does not need the run for itself."""
    alone = {"QuickCheck", "OverfitBatches", "LimitBatches", "EarlyStopping", "CutMix"}
    callbacks = [build(name) for name in CLASSES if name not in alone and not issubclass(SHIPPED[name], Logger)]
    trainer = trainer_with(Images, *callbacks)
    before = surroundings(trainer)
    trainer.train()
    trainer.test()
    assert len(trainer.history) == 2 and surroundings(trainer) == before
