"""Checkpoint: the files of each policy, as golden lists."""

import math
import time
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from farabio_like import Callback, ConfigError, Stage, plots
from farabio_like.callbacks.checkpoint import Checkpoint
from farabio_like.plots import painter
from farabio_like.rundir import environment
from tests.callbacks.scripted import scripted
from tests.trainers import Tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out of the run folder what takes long and has tests of its own."""
    monkeypatch.setattr(environment, "copy_code", lambda owner, folder: None)
    for module in (plots, painter):
        monkeypatch.setattr(module, "curves", lambda history, best=None: Figure())


VALUES = [0.5, 0.7, 0.6, 0.9, 0.2, 0.8]
OWN = ["best.ckpt", "last.ckpt"]


def files(trainer):
    names = sorted(path.name for path in (trainer.run_dir / "checkpoints").glob("*.ckpt"))
    return [name for name in names if name not in OWN]


def run(values, *callbacks, **settings):
    trainer = scripted(values, *callbacks, **{"_logdir": "runs", **settings})
    trainer.train()
    return trainer


def test_keeps_the_best():
    callback = Checkpoint("accuracy", top_k=2)
    trainer = run(VALUES, callback)
    assert files(trainer) == ["epoch-0004-accuracy-0.9000.ckpt", "epoch-0006-accuracy-0.8000.ckpt"]
    assert [path.name for path in callback.files] == files(trainer)
    assert sorted(path.name for path in (trainer.run_dir / "checkpoints").glob("*.ckpt")) == sorted(
        [*OWN, *files(trainer)]
    )


class Listing(Callback):
    order = 200

    def __init__(self):
        self.lists = []

    def on_epoch_end(self, trainer):
        self.lists.append([name[11:-5] for name in files(trainer)])


def test_files_epoch_by_epoch():
    listing = Listing()
    run(VALUES, Checkpoint("accuracy", top_k=2), listing)
    assert listing.lists == [
        ["accuracy-0.5000"],
        ["accuracy-0.5000", "accuracy-0.7000"],
        ["accuracy-0.7000", "accuracy-0.6000"],
        ["accuracy-0.7000", "accuracy-0.9000"],
        ["accuracy-0.7000", "accuracy-0.9000"],
        ["accuracy-0.9000", "accuracy-0.8000"],
    ]


@pytest.mark.parametrize(
    ("values", "arguments", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.5], {"top_k": 2}, ["1-accuracy-0.5000", "2-accuracy-0.5000"]),
        ([0.5, 0.5, 0.4, 0.9], {"top_k": 2}, ["1-accuracy-0.5000", "4-accuracy-0.9000"]),
        ([math.nan, 0.1, math.inf, 0.2], {"top_k": 3}, ["2-accuracy-0.1000", "4-accuracy-0.2000"]),
        (VALUES, {"top_k": 1, "mode": "min"}, ["5-accuracy-0.2000"]),
        ([1e-7, 2e4], {"top_k": 2}, ["1-accuracy-1.00e-07", "2-accuracy-2.00e+04"]),
    ],
)
def test_ties_nan_and_mode(values, arguments, expected):
    assert files(run(values, Checkpoint("accuracy", **arguments))) == [f"epoch-000{name}.ckpt" for name in expected]


def test_epochs_without_evaluation_are_skipped():
    trainer = run(VALUES, Checkpoint("accuracy", top_k=9), _eval_interval=2)
    assert [name[:10] for name in files(trainer)] == ["epoch-0002", "epoch-0004", "epoch-0006"]


def test_every_epochs():
    trainer = run(VALUES, Checkpoint(top_k=0, every_epochs=2))
    assert files(trainer) == ["epoch-0002.ckpt", "epoch-0004.ckpt", "epoch-0006.ckpt"]


def test_every_steps():
    trainer = run([0.1] * 3, Checkpoint(top_k=0, every_steps=4))  # 3 steps an epoch
    assert files(trainer) == ["step-00000004.ckpt", "step-00000008.ckpt"]


def test_every_minutes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow(Callback):
        order = 0

        def on_start_training_batch(self, trainer):
            now[0] += 25

    trainer = run([0.1] * 3, Slow(), Checkpoint(top_k=0, every_minutes=1))
    assert files(trainer) == ["step-00000003.ckpt", "step-00000006.ckpt", "step-00000009.ckpt"]


def test_policies_together():
    trainer = run([0.5, 0.7, 0.6], Checkpoint("valid/accuracy", 1, every_epochs=2, every_steps=3, every_minutes=600))
    assert files(trainer) == [
        "epoch-0002-valid_accuracy-0.7000.ckpt",
        "epoch-0002.ckpt",
        "step-00000003.ckpt",
        "step-00000006.ckpt",
        "step-00000009.ckpt",
    ]


def test_a_file_holds_the_weights_of_its_epoch():
    class Weights(Callback):
        def __init__(self):
            self.seen = {}

        def on_epoch_end(self, trainer):
            self.seen[trainer.epoch] = trainer.model.weight.detach().clone()

    weights = Weights()
    callback = Checkpoint("accuracy", top_k=1)
    trainer = run(VALUES, weights, callback)
    [path] = callback.files
    state = torch.load(path, weights_only=True)
    assert (state["epoch"], state["step"], state["metrics"]["valid"]["accuracy"]) == (4, 12, 0.9)
    assert torch.equal(state["model"]["weight"], weights.seen[4])
    assert not torch.equal(trainer.model.weight, weights.seen[4])
    trainer.load_model(path)
    assert torch.equal(trainer.model.weight, weights.seen[4])


def test_deletes_nothing_that_it_did_not_write():
    class Stranger(Callback):
        def on_train_epoch_end(self, trainer):
            (trainer.run_dir / "checkpoints").mkdir(exist_ok=True)
            (trainer.run_dir / "checkpoints" / f"epoch-{trainer.epoch:04d}-accuracy-0.0000.ckpt").write_text("mine")

    trainer = run([0.5, 0.6, 0.7], Stranger(), Checkpoint("accuracy", top_k=1))
    strange = [f"epoch-000{epoch}-accuracy-0.0000.ckpt" for epoch in (1, 2, 3)]
    assert files(trainer) == sorted([*strange, "epoch-0003-accuracy-0.7000.ckpt"])


def test_two_runs_with_one_callback_keep_their_own():
    callback = Checkpoint("accuracy", top_k=1)
    first = run([0.9], callback)
    second = run([0.1, 0.5, 0.3], callback)
    assert files(first) == ["epoch-0001-accuracy-0.9000.ckpt"]
    assert files(second) == ["epoch-0002-accuracy-0.5000.ckpt"]
    # The first goes on: what is in the callback now belongs to the second.
    first._num_epochs, first.script = 2, [0.9, 0.5]
    first.train()
    assert files(first) == ["epoch-0001-accuracy-0.9000.ckpt", "epoch-0002-accuracy-0.5000.ckpt"]
    assert files(second) == ["epoch-0002-accuracy-0.5000.ckpt"]


def test_a_run_that_goes_on_knows_its_files():
    callback = Checkpoint("accuracy", top_k=1)
    trainer = run([0.5, 0.7], callback)
    trainer._num_epochs, trainer.script = 4, [0.5, 0.7, 0.6, 0.8]
    trainer.train()
    assert files(trainer) == ["epoch-0004-accuracy-0.8000.ckpt"]


def test_state_round_trips_through_a_file():
    first = Checkpoint("accuracy", top_k=2)
    trainer = run([0.5, 0.7], first)
    torch.save(first.state_dict(), "state.pt")
    second = Checkpoint("accuracy", top_k=2)
    second.load_state_dict(torch.load("state.pt", weights_only=True))
    assert second.state_dict() == first.state_dict()
    trainer.callbacks, trainer._num_epochs, trainer.script = [second], 3, [0.5, 0.7, 0.6]
    trainer.train()
    assert files(trainer) == ["epoch-0002-accuracy-0.7000.ckpt", "epoch-0003-accuracy-0.6000.ckpt"]


def test_each_stage_has_its_own_best():
    stages = [Stage("first", 2), Stage("second", 2)]
    trainer = run([0.9, 0.8, 0.2, 0.1], Checkpoint("accuracy", top_k=1), _stages=stages)
    assert files(trainer) == ["epoch-0001-accuracy-0.9000.ckpt", "epoch-0003-accuracy-0.2000.ckpt"]


def test_a_file_that_somebody_deleted_is_no_error():
    class Deletes(Callback):
        def on_train_epoch_start(self, trainer):
            for path in Path(trainer.run_dir).glob("checkpoints/epoch-*"):
                path.unlink()

    assert files(run([0.1, 0.2], Deletes(), Checkpoint("accuracy", top_k=1))) == ["epoch-0002-accuracy-0.2000.ckpt"]


def test_without_a_folder_it_says_so_before_the_first_step():
    trainer = Tiny()
    trainer.callbacks = [Checkpoint()]
    with pytest.raises(ConfigError, match="no run folder.*set self._logdir = 'runs'"):
        trainer.train()
    assert trainer.step == 0


def test_two_by_the_same_metric_are_refused():
    with pytest.raises(ConfigError, match="two Checkpoint callbacks keep the best by 'loss'"):
        run([0.1], Checkpoint(top_k=1), Checkpoint(top_k=2))
    run([0.1], Checkpoint(top_k=1), Checkpoint(top_k=0, every_epochs=1), Checkpoint("accuracy"))


@pytest.mark.parametrize(
    "arguments",
    [
        *[{"top_k": -1}, {"top_k": 1.5}, {"every_epochs": 0}, {"every_steps": -5}, {"every_minutes": 0}],
        *[{"every_minutes": "5"}, {"mode": "up"}, {"monitor": 3}, {"top_k": 0}],
    ],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Checkpoint(**arguments)


OTHERS = "epoch-0001-accuracy-0.9000.ckpt"  # another callback's


@pytest.mark.parametrize(
    "name", ["{outside}", "../victim.txt", "best.ckpt", "last.ckpt", "epoch-0001.ckpt/../../x", 7, OTHERS]
)
def test_names_of_a_stranger_are_not_deleted(tmp_path, name):
    outside = tmp_path / "victim.txt"
    outside.write_text("precious")
    callback = Checkpoint("loss", top_k=1)
    name = name.format(outside=outside) if isinstance(name, str) else name
    callback.load_state_dict(
        {"kept": [[1e30, 1, name], [1e29, 2, "epoch-0002-loss-1.00e+29.ckpt"]], "stage": None, "due": None}
    )
    assert [entry[2] for entry in callback._kept] == ["epoch-0002-loss-1.00e+29.ckpt"] and outside.exists()
