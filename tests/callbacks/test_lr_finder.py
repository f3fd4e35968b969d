"""find_lr: its curve against a loop by hand, its suggestion, and that it leaves no trace, bit for bit."""

import copy
import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback, ConfigError, DataError, HookError
from farabio_like.callbacks.lr_finder import LRFinderResult, find_lr
from tests.trainers import INPUTS, TARGETS, Tiny


class Rich(Tiny):
    """Everything that a step changes: batch norm, dropout, Adam, a scheduler per step, random numbers, own records."""

    def get_trainloader(self):
        data = TensorDataset(INPUTS, TARGETS)
        generator = torch.Generator().manual_seed(3) if self.config.get("own_generator") else None
        self.train_loader = DataLoader(data, batch_size=4, shuffle=True, generator=generator)
        self.valid_loader = DataLoader(data, batch_size=4)
        self.seen, self.calls = [], 0

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.model[0].bias.requires_grad_(False)
        self.criterion = nn.MSELoss()
        kind = getattr(torch.optim, self.config.get("optimizer", "Adam"))
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        self.optimizer = kind(
            [{"params": self.model[0].parameters(), "lr": 0.01}, {"params": self.model[3].parameters()}],
            lr=0.02,
            **options,
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=0.1, total_steps=12)
        self._scheduler_step = "step"

    def on_train_epoch_start(self):
        self.model[1].eval()

    def training_step(self):
        super().training_step()
        self.batch_metrics["noise"] = random.random() + np.random.rand()
        self.seen.append(self.loss.item())
        self.calls += 1


def seed():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)


def plain(value):
    """Return a copy of a state that ``==`` can compare."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.tolist())
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else copy.deepcopy(value)


def everything(trainer):
    """Return all that a sweep may not change."""
    attributes = {k: v for k, v in vars(trainer).items() if not k.startswith("_run") and k not in ("config",)}
    return {
        "attributes": {
            k: plain(v) if isinstance(v, (int, float, list, dict, str)) else id(v) for k, v in attributes.items()
        },
        "model": plain(trainer.model.state_dict()),
        "gradients": [plain(p.grad) for p in trainer.model.parameters()],
        "identity": [(id(p), id(p.grad), p.data_ptr()) for p in trainer.model.parameters()],
        "trainable": [p.requires_grad for p in trainer.model.parameters()],
        "modes": [part.training for part in trainer.model.modules()],
        "optimizer": plain(trainer.optimizer.state_dict()),
        "scheduler": plain(trainer.scheduler.state_dict()),
        "lr": trainer.get_lr(),
        "counters": (
            trainer.step,
            trainer.epoch,
            trainer.loader_name,
            trainer._run_state.requests.stop,
            trainer._run_state.item,
        ),
        "run": {name: getattr(trainer._run_state, name) for name in ("trained", "listeners", "lent")},
        "progress": {
            name: getattr(trainer._run_state.progress, name)
            for name in ("last_epoch_done", "trained_step", "phase", "batches", "epoch_step", "left_early")
        },
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "loader": None if (g := trainer.train_loader.generator) is None else g.get_state().tolist(),
    }


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_leaves_no_trace(optimizer, own_generator, trained):
    settings = {"optimizer": optimizer, "own_generator": own_generator, "_num_epochs": 2}
    first, second = Rich(settings), Rich(settings)
    for trainer in (first, second):
        seed()
        if trained:
            trainer._num_epochs = 1
            trainer.train()
            trainer._num_epochs = 3
        before = everything(trainer)
        if trainer is second:
            result = find_lr(trainer, num_steps=20, diverge=1e9)
            assert len(result.losses) > 10
            after = everything(trainer)
            assert [name for name in before if before[name] != after[name]] == []
        trainer.train()
    assert plain(first.model.state_dict()) == plain(second.model.state_dict())
    assert plain(first.optimizer.state_dict()) == plain(second.optimizer.state_dict())
    assert first.seen == second.seen and first.calls == second.calls
    assert [entry["train"] for entry in first.history] == [entry["train"] for entry in second.history]


def test_the_comparison_sees_what_a_step_changes():
    trainer = Rich()
    before = everything(trainer)
    trainer.train_step((INPUTS, TARGETS))
    changed = {name for name, value in everything(trainer).items() if value != before[name]}
    assert {
        "attributes",
        "model",
        "gradients",
        "optimizer",
        "scheduler",
        "lr",
        "run",
        "torch",
        "numpy",
        "python",
    } <= changed


def test_an_exception_leaves_no_trace_either():
    class Fails(Rich):
        def training_step(self):
            super().training_step()
            if self.calls == 5:
                raise LookupError

    trainer = Fails()
    before = everything(trainer)
    with pytest.raises(LookupError):
        find_lr(trainer)
    after = everything(trainer)
    assert [name for name in before if before[name] != after[name]] == []


def test_curve_is_that_of_a_loop_by_hand():
    result = find_lr(Tiny(), min_lr=1e-3, max_lr=1.0, num_steps=7, smoothing=0.25, diverge=1e9)
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(7):
        lr = optimizer.param_groups[0]["lr"] = 10 ** (-3 + 0.5 * step)
        part = [slice(0, 4), slice(4, 8), slice(8, 10)][step % 3]
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(INPUTS[part]), TARGETS[part])
        loss.backward()
        optimizer.step()
        assert result.lrs[step] == pytest.approx(lr, rel=1e-9)
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, rel=1e-6)
    weights = [[0.75 ** abs(step - other) for other in range(7)] for step in range(7)]
    smoothed = [np.average(np.minimum(losses, losses[0]), weights=row) for row in weights]
    assert result.smoothed == pytest.approx(smoothed, rel=1e-6)


def test_suggestion_is_the_steepest_descent():
    lrs = np.geomspace(1e-6, 1, 61).tolist()
    curve = [1 / (1 + np.exp((np.log10(lr) + 3) * 4)) for lr in lrs]  # falls fastest at 1e-3
    assert LRFinderResult(lrs, curve, curve).suggestion == pytest.approx(1e-3)
    assert LRFinderResult(lrs, curve[::-1], curve[::-1]).suggestion is None
    assert LRFinderResult([], [], []).suggestion is None
    noisy = [9.0, 1.0, *curve[2:]]  # the first tenth does not count
    assert LRFinderResult(lrs, noisy, noisy).suggestion == pytest.approx(1e-3)


class Digits(Tiny):
    def get_trainloader(self):
        digits = load_digits()
        images = torch.tensor(digits.data, dtype=torch.float32) / 16
        data = TensorDataset(images, torch.tensor(digits.target))
        self.train_loader = DataLoader(data, batch_size=64, shuffle=True)
        self.valid_loader = DataLoader(data, batch_size=512)

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)


def test_suggestion_trains_digits():
    trainer = Digits({"_num_epochs": 2})
    result = find_lr(trainer, min_lr=1e-5, max_lr=100)
    assert 1e-2 < result.suggestion < 2
    assert trainer.get_lr() == 1e-6
    trainer.set_lr(result.suggestion)
    assert trainer.train()[-1]["valid"]["loss"] < 1 < 2.3 < result.losses[0]


def test_stops_where_the_loss_diverges():
    result = find_lr(Tiny(), num_steps=100, max_lr=1e6)
    assert len(result.losses) < 100
    average, running = 0.0, []
    for step, loss in enumerate(result.losses, 1):
        average = 0.95 * average + 0.05 * loss
        running.append(average / (1 - 0.95**step))
    lowest = [min(running[10 : step + 1]) for step in range(10, len(running))]
    over = [value > 5 * low for value, low in zip(running[10:], lowest, strict=True)]
    assert over.index(True) == len(over) - 1
    later = find_lr(Tiny(), num_steps=100, max_lr=1e6, diverge=100)
    assert len(later.losses) > len(result.losses)


def test_stops_at_nan():
    class Breaks(Tiny):
        def compute_loss(self):
            loss = super().compute_loss()
            return loss * float("nan") if self.get_lr() > 1e-3 else loss

    result = find_lr(Breaks(), min_lr=1e-5, max_lr=1e-1, num_steps=5)
    assert result.lrs == pytest.approx([1e-5, 1e-4, 1e-3])
    assert np.isfinite(result.losses).all()


def test_a_loss_below_zero_is_not_taken_for_divergence():
    class Negative(Tiny):
        def compute_loss(self):
            return super().compute_loss() - 100

    assert len(find_lr(Negative(), max_lr=1e-3, num_steps=30).losses) == 30


def test_callbacks_are_not_called_and_are_there_afterwards():
    class Counts(Callback):
        calls = 0

        def on_train_epoch_start(self, trainer):
            Counts.calls += 1

        on_start_training_batch = on_end_training_batch = on_train_epoch_start

    trainer = Tiny({"_num_epochs": 1})
    trainer.callbacks = [Counts()]
    find_lr(trainer)
    assert Counts.calls == 0
    trainer.train()
    assert Counts.calls == 7


def test_in_the_course_of_a_run():
    found = []

    class Finds(Callback):
        def on_train_start(self, trainer):
            found.append(find_lr(trainer, num_steps=10).suggestion)

        def on_end_training_batch(self, trainer):
            before = trainer.loss, trainer.inputs, trainer.batch_metrics, trainer.step
            found.append(find_lr(trainer, num_steps=10).suggestion)
            after = trainer.loss, trainer.inputs, trainer.batch_metrics, trainer.step
            assert all(one is other for one, other in zip(before, after, strict=True))

    seed()
    plain_run = Rich()
    plain_run.train()
    seed()
    watched = Rich()
    watched.callbacks = [Finds()]
    watched.train()
    assert len(found) == 7
    assert plain(plain_run.model.state_dict()) == plain(watched.model.state_dict())
    assert [entry["train"] for entry in plain_run.history] == [entry["train"] for entry in watched.history]


def test_persistent_workers_of_the_loader_are_not_touched():
    trainer = Tiny()
    trainer.train_loader = DataLoader(TensorDataset(INPUTS, TARGETS), 4, num_workers=1, persistent_workers=True)
    loader = trainer.train_loader
    find_lr(trainer, num_steps=4)
    assert trainer.train_loader is loader and loader._iterator is None


def test_several_optimizers():
    class Pair(Tiny):
        def build_model(self):
            super().build_model()
            self.optimizer = {
                "a": torch.optim.SGD([self.model.weight], lr=0.5),
                "b": torch.optim.Adam([self.model.bias], lr=0.25),
            }

    trainer = Pair()
    assert len(find_lr(trainer, num_steps=5).lrs) == 5
    assert trainer.get_lr() == {"a": 0.5, "b": 0.25}
    assert not trainer.optimizer["b"].state


def test_picture():
    result = find_lr(Tiny())
    [panel] = result.figure().axes
    assert [line.get_label() for line in panel.lines] == ["loss", "smoothed", f"suggestion {result.suggestion:.2e}"]
    assert list(panel.lines[0].get_xdata()) == result.lrs and panel.get_xscale() == "log"
    assert panel.get_ylim()[0] < min(result.losses), "what fell is seen, what diverges may leave the picture"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_lr": 0}, r"min_lr\) is 0; expected a number greater than 0"),
        ({"min_lr": 1, "max_lr": 0.5}, r"max_lr\) is 0.5; expected more than min_lr, 1"),
        ({"num_steps": 2}, "num_steps.*3 or more"),
        ({"smoothing": 0}, "smoothing"),
        ({"smoothing": 1.5}, "smoothing.*1 or less"),
        ({"diverge": 1}, "diverge.*more than 1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ConfigError, match=message):
        find_lr(Tiny(), **arguments)


def test_trainers_that_it_cannot_use():
    trainer = Tiny()
    trainer.train_loader = iter([(INPUTS, TARGETS)])
    with pytest.raises(DataError, match="list_iterator, which can be read only once"):
        find_lr(trainer)
    trainer.train_loader = None
    with pytest.raises(HookError, match="no train loader"):
        find_lr(trainer)
    trainer.optimizer = None
    with pytest.raises(ConfigError, match="Tiny has no optimizer"):
        find_lr(trainer)
