"""Features that meet: exceptions and resuming, tests within an epoch, settings of NumPy's kinds."""

import os
import warnings

import numpy as np
import pytest
import torch

from farabio_like import Callback

from ..trainers import Tiny


class Momentum(Tiny):
    def build_model(self):
        super().build_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)


class Fails(Callback):
    def __init__(self, step):
        self.step = step

    def on_end_training_batch(self, trainer):
        if trainer.step == self.step:
            raise OSError("a cable was pulled")


def results(trainer):
    history = [{name: part for name, part in entry.items() if name != "seconds"} for entry in trainer.history]
    return history, [p.tolist() for p in trainer.model.parameters()]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("settings", [{}, {"_accumulation_steps": 2}, {"_save_steps": 1}, {"_precision": "bf16"}])
def test_an_error_after_a_step_does_not_train_its_batch_twice(settings, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {**settings, "_num_epochs": 3}
    whole = Momentum(settings)
    whole.train()
    for step in (1, 5, 6):
        stopped = Momentum({**settings, "_logdir": f"runs-{step}"})
        if own:
            stopped.on_end_training_batch = lambda t=stopped, k=step: Fails(k).on_end_training_batch(t)
        else:
            stopped.callbacks = [Fails(step)]
        with pytest.raises(OSError, match="a cable was pulled"):
            stopped.train()
        resumed = Momentum({**settings, "_logdir": f"runs-{step}"})
        resumed.train(resume=True)
        assert results(resumed) == results(whole)


def test_a_test_at_the_end_of_an_epoch_leaves_the_training_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Tests(Momentum):
        def on_epoch_end(self):
            self.test()

    whole = Momentum({"_num_epochs": 4})
    whole.train()
    trainer = Tests({"_num_epochs": 4, "_logdir": "runs"})
    trainer.train()
    assert results(trainer) == results(whole)
    assert trainer.load_model() is None and trainer._run_state.weights.startswith(os.path.relpath(trainer.run_dir))


def test_a_run_resumed_in_its_first_evaluation_gives_no_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Stops(Momentum):
        def on_evaluate_epoch_start(self):
            raise OSError("a cable was pulled")

    with pytest.raises(OSError, match="a cable was pulled"):
        Stops({"_logdir": "runs"}).train()
    run = next((tmp_path / "runs").rglob("crash.ckpt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Momentum({"_logdir": "other"}).train(resume=run)) == 2


@pytest.mark.parametrize("name", ["_save_steps", "_log_interval", "_accumulation_steps", "_clip_norm"])
def test_numbers_of_numpy_are_settings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {name: np.float32(0.5) if name == "_clip_norm" else np.int64(2), "_logdir": "runs"}
    Tiny(settings).train()
    assert len(Tiny({**settings, "_num_epochs": 3}).train(resume=True)) == 3


def test_own_values_under_the_names_of_a_batch_stay():
    class Sizes(Tiny):
        def define_data_attr(self):
            self.batch, self.inputs, self.targets = 7, 3, 1

        def on_start_training_batch(self, item):
            self.x, self.y = item[1]

        def training_step(self):
            self.optimizer.zero_grad()
            self.criterion(self.model(self.x), self.y).backward()
            self.optimizer.step()

        def on_evaluate_batch_start(self, item):
            self.x, self.y = item[1]

        def evaluate_batch(self, item):
            assert (self.batch, self.inputs, self.targets) == (7, 3, 1)

        def test_step(self, item):
            assert (self.batch, self.inputs, self.targets) == (7, 3, 1)

    trainer = Sizes()
    trainer.train()
    trainer.test()
    assert (trainer.batch, trainer.inputs, trainer.targets) == (7, 3, 1)


@pytest.mark.parametrize("hook", ["training_step", "train_batch"])
def test_an_error_in_a_step_of_ones_own_after_the_weights_have_moved(hook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fails_afterwards(self, *item):
        getattr(super(Own, self), hook)(*item)
        if self.step == 5:
            raise OSError("a cable was pulled")

    Own = type("Own", (Momentum,), {hook: fails_afterwards})
    whole = Momentum({"_num_epochs": 3})
    whole.train()
    stopped = Own({"_num_epochs": 3, "_logdir": "runs"})
    with pytest.raises(OSError, match="a cable was pulled"):
        stopped.train()
    resumed = Own({"_num_epochs": 3, "_logdir": "runs"})
    resumed.train(resume=True)
    assert results(resumed) == results(whole)


def test_an_epoch_of_ones_own_is_timed_and_its_weights_are_tested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Own(Tiny):
        def train_epoch(self):
            for item in enumerate(self.train_loader):
                self.train_batch(item)

    torch.save(torch.nn.Linear(3, 1).state_dict(), "other.pth")
    trainer = Own({"_model_path": "other.pth"})
    assert all(entry["seconds"] < 60 for entry in trainer.train())
    weight = trainer.model.weight.clone()
    trainer.test()
    assert torch.equal(trainer.model.weight, weight)
