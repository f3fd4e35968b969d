"""Every callback that ships: a run that is broken off and goes on in new objects ends as one that never stopped.

The trainer's own part of a resume (weights, counters, random numbers, the position in the epoch) is done here by
hand, in the order that every callback may rely on: counters and history before ``on_train_start``, the callbacks'
states after it, and in mid-epoch once more after ``on_train_epoch_start``.
"""

import copy
from itertools import islice

import pytest
import torch

from farabio_like.callbacks.base import Callback
from tests.callbacks.test_battery import CLASSES, Images, assert_same, build, quick, trainer_with  # noqa: F401


class Longer(Images):
    def define_misc_attr(self):
        super().define_misc_attr()
        self._num_epochs = 4


class Snapshot(Callback):
    """Save the state of everything at the end of an epoch, or after one of its batches."""

    order = 1000

    def __init__(self, callback, path, epoch, batch=None):
        self.callback, self.path, self.epoch, self.batch = callback, path, epoch, batch

    def on_end_training_batch(self, trainer):
        index, _ = trainer._run_state.item
        if (trainer.epoch, index + 1) == (self.epoch, self.batch):
            self.save(trainer, read=self.batch)

    def on_epoch_end(self, trainer):
        if trainer.epoch == self.epoch and self.batch is None:
            self.save(trainer, read=0)

    def save(self, trainer, read):
        state = {
            "read": read,
            "callback": self.callback.state_dict(),
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "step": trainer.step,
            "history": copy.deepcopy(trainer.history),
        }
        torch.save(state, self.path)


class Restore(Callback):
    order = 1000

    def __init__(self, callback, state):
        self.callback, self.state = callback, state
        self.read = state["read"]

    def on_train_start(self, trainer):
        self.callback.load_state_dict(self.state["callback"])
        torch.set_rng_state(self.state["random"])

    def on_train_epoch_start(self, trainer):
        if self.read:
            self.callback.load_state_dict(self.state["callback"])
            items = list(islice(trainer.train_epoch_iter, self.read, None))
            torch.set_rng_state(self.state["random"])
            trainer.train_epoch_iter, self.read = items, 0


@pytest.mark.parametrize("when", [{"epoch": 2}, {"epoch": 2, "batch": 1}, {"epoch": 3, "batch": 2}], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_a_resumed_run_ends_as_one_that_never_stopped(name, when, tmp_path):
    torch.manual_seed(1)
    callback = build(name)
    whole = trainer_with(Longer, callback, Snapshot(callback, tmp_path / "state.pt", **when))
    whole.train()
    if name in ("QuickCheck", "OverfitBatches") and not (tmp_path / "state.pt").exists():
        return  # there is no such epoch, or no such batch
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.manual_seed(1)
    fresh = build(name)
    resumed = trainer_with(Longer, fresh, Restore(fresh, state))
    resumed.model.load_state_dict(state["model"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed._run_state.progress.step, resumed._run_state.progress.last_epoch_done = state["step"], len(state["history"])
    resumed._run_state.history[:] = state["history"]
    resumed._run_state.folder, resumed.run_dir = whole._run_state.folder, whole.run_dir
    resumed.train()
    assert_same(fresh.state_dict(), callback.state_dict())
    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    assert [entry["valid"] for entry in resumed.history] == [entry["valid"] for entry in whole.history]
    if name not in ("FunctionMetric", "GradientNorm", "Timer"):  # means over batches, which the trainer keeps; time
        for ours, theirs in zip(resumed.history, whole.history, strict=True):
            assert_same({**ours["train"], "loss": 0}, {**theirs["train"], "loss": 0})
