"""PeriodicEvaluation: when it evaluates, that its numbers are right, and that training does not notice."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback, ConfigError
from farabio_like.callbacks.early_stopping import EarlyStopping
from farabio_like.callbacks.evaluation import PeriodicEvaluation
from farabio_like.callbacks.limits import LimitBatches
from tests.trainers import INPUTS, TARGETS, Tiny

FURTHER = [(INPUTS[:6] + 1, TARGETS[:6]), (INPUTS[6:] + 1, TARGETS[6:])]


class Random(Tiny):
    """Shuffles and drops out, so that a random number drawn elsewhere would show."""

    def get_trainloader(self):
        super().get_trainloader()
        generator = torch.Generator().manual_seed(3)
        self.train_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4, shuffle=True, generator=generator)
        self.valid_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4, shuffle=True)

    def build_model(self):
        super().build_model()
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def training_step(self):
        super().training_step()
        self.batch_metrics["noise"] = random.random() + np.random.rand()


def run(*callbacks, kind=Tiny, **settings):
    trainer = kind(settings)
    trainer.callbacks = list(callbacks)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    trainer.train()
    return trainer


def test_every_so_many_epochs():
    callback = PeriodicEvaluation(FURTHER, "further", every_epochs=2)
    history = run(callback, _num_epochs=5).history
    assert ["further_loss" in entry["valid"] for entry in history] == [False, True, False, True, False]
    assert [(result["epoch"], result["step"]) for result in callback.results] == [(2, 6), (4, 12)]
    assert history[1]["valid"]["further_loss"] == callback.results[0]["further_loss"] != history[1]["valid"]["loss"]


def test_every_so_many_steps():
    class Losses(Callback):
        def __init__(self):
            self.values = []

        def on_end_training_batch(self, trainer):
            with torch.no_grad():
                outputs = trainer.model(torch.cat([inputs for inputs, _ in FURTHER]))
            self.values.append(nn.functional.mse_loss(outputs, TARGETS).item())

    losses, callback = Losses(), PeriodicEvaluation(FURTHER, "further", every_steps=2)
    history = run(losses, callback, _num_epochs=3).history
    assert [(result["epoch"], result["step"]) for result in callback.results] == [(1, 2), (2, 4), (2, 6), (3, 8)]
    found = [result["further_loss"] for result in callback.results]
    assert found == pytest.approx([losses.values[step - 1] for step in (2, 4, 6, 8)], rel=1e-6)
    assert [entry["valid"]["further_loss"] for entry in history] == [found[0], found[2], found[3]]


@pytest.mark.parametrize("which", ["train", "further"])
@pytest.mark.parametrize("every", [{"every_epochs": 1}, {"every_steps": 1}, {"every_steps": 2}])
def test_training_does_not_notice(every, which):
    plain = run(kind=Random, _num_epochs=3)
    watched = Random({"_num_epochs": 3})
    loader = watched.train_loader if which == "train" else DataLoader(TensorDataset(INPUTS, TARGETS), 5, shuffle=True)
    watched.callbacks = [PeriodicEvaluation(loader, "further", **every)]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    watched.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    for entry, other in zip(plain.history, watched.history, strict=True):
        assert entry["train"] == other["train"]
        assert entry["valid"] == {name: value for name, value in other["valid"].items() if "further" not in name}
    assert all(module.training for module in watched.model.modules())


def test_the_batch_under_way_and_its_metrics_are_as_they_were():
    seen = []

    class Before(Callback):
        order = 0

        def on_end_training_batch(self, trainer):
            trainer.batch_metrics["mine"] = 2.0
            seen.append([trainer.loss, trainer.outputs, trainer.inputs, trainer.batch, trainer.batch_metrics])

        def on_epoch_end(self, trainer):
            seen.append([trainer.loss, trainer.outputs, trainer.loader_metrics, trainer.epoch_metrics["train"]])

    class After(Before):
        order = 300

        def on_end_training_batch(self, trainer):
            now = [trainer.loss, trainer.outputs, trainer.inputs, trainer.batch, trainer.batch_metrics]
            assert all(one is other for one, other in zip(now, seen.pop(), strict=True))
            assert trainer.loader_name == "train"

        def on_epoch_end(self, trainer):
            now = [trainer.loss, trainer.outputs, trainer.loader_metrics, trainer.epoch_metrics["train"]]
            assert all(one is other for one, other in zip(now, seen.pop(), strict=True))

    for every in ({"every_steps": 1}, {"every_epochs": 1}):
        history = run(Before(), PeriodicEvaluation(FURTHER, "further", **every), After()).history
        assert history[0]["train"]["mine"] == 2.0 and not seen


def test_without_a_valid_loader_and_in_epochs_without_evaluation():
    trainer = Tiny()
    trainer.valid_loader = None
    trainer.callbacks = [PeriodicEvaluation(FURTHER, "further")]
    assert [list(entry["valid"]) for entry in trainer.train()] == [["further_loss"]] * 2
    assert trainer.valid_loader is None
    trainer = run(PeriodicEvaluation(FURTHER, "further"), _eval_interval=2)
    assert [list(entry["valid"]) for entry in trainer.history] == [["further_loss"], ["loss", "further_loss"]]


def test_its_metric_can_be_watched():
    stopping = EarlyStopping("further_loss", patience=1, min_delta=1e9)
    trainer = run(stopping, PeriodicEvaluation(FURTHER, "further"), _num_epochs=9, _eval_interval=4)
    assert [list(entry["valid"]) for entry in trainer.history] == [["further_loss"]] * 2
    assert stopping.best == trainer.history[0]["valid"]["further_loss"]


def test_a_limit_of_the_training_batches_stays():
    class Early(LimitBatches):
        order = 0  # asks for the end before the evaluation begins

    trainer = run(Early(train=2), PeriodicEvaluation(FURTHER, "further", every_steps=1))
    assert trainer.step == 4


def test_an_exception_gives_the_loader_back():
    class Fails(Tiny):
        def on_evaluate_batch_end(self):
            if self.valid_loader is FURTHER:
                raise LookupError

    trainer = Fails()
    loader = trainer.valid_loader
    trainer.callbacks = [PeriodicEvaluation(FURTHER, "further", every_steps=1)]
    with pytest.raises(LookupError):
        trainer.train()
    assert trainer.valid_loader is loader


def test_state_and_runs():
    callback = PeriodicEvaluation(FURTHER, "further")
    run(callback)
    run(callback, _num_epochs=1)
    assert len(callback.results) == 1
    torch.save(callback.state_dict(), "state.pt")
    fresh = PeriodicEvaluation(FURTHER, "further")
    fresh.load_state_dict(torch.load("state.pt", weights_only=True))
    assert fresh.results == callback.results


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FURTHER, ""), "name"),
        ((FURTHER, "x", 0), r"every_epochs\) is 0; expected a whole number"),
        ((FURTHER, "x", None, 1.5), r"every_steps\) is 1.5"),
        ((FURTHER, "x", 1, 1), "give one of them"),
        ((iter(FURTHER), "x"), "can be read only once"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ConfigError, match=message):
        PeriodicEvaluation(*arguments)
