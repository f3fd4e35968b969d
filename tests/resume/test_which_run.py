"""``train(resume=True)`` takes a run that has not finished; what a longer run makes of a shorter schedule is said."""

import contextlib
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler

from ..trainers import Tiny


class Run(Tiny):
    def define_train_attr(self):
        self._logdir, self._verbose = "runs", True

    def define_misc_attr(self):
        super().define_misc_attr()
        self._logdir, self._verbose = "runs", True
        self.ends = []

    def on_end_training_batch(self):
        if self.step == self.config.get("stop_at"):
            signal.raise_signal(signal.SIGTERM)
        if self.step == self.config.get("enough_at"):
            self.stop_train()

    def on_train_end(self):
        self.ends.append(self.epoch)


def run(resume=False, **settings):
    trainer = Run(settings)
    with contextlib.suppress(SystemExit):
        trainer.train(resume=resume)
    return trainer


def folders():
    return sorted(path.name for path in Path("runs/Run").iterdir() if path.name.isdigit())


def test_a_finished_run_is_left_alone_and_a_new_one_starts(capsys):
    first = run()
    before = {path: path.read_bytes() for path in first.run_dir.rglob("*") if path.is_file()}
    second = run(resume=True)
    assert folders() == ["1", "2"] and [e["epoch"] for e in second.history] == [1, 2] and second.step == 6
    assert "1 is already at epoch 2 of 2: starting a new run; train(resume=" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in first.run_dir.rglob("*") if path.is_file()} == before


def test_one_that_did_not_finish_goes_on_though_a_newer_one_has_finished():
    run(stop_at=4)
    run()
    third = run(resume=True)
    assert folders() == ["1", "2"] and third.run_dir.name == "1" and third.step == 6
    assert run(resume=True).run_dir.name == "3"


def test_a_run_that_was_stopped_by_its_own_will_has_finished(capsys):
    run(enough_at=2)
    assert run(resume=True).run_dir.name == "2"
    assert "was ended by stop_train() in epoch 1 of 2: starting a new run" in capsys.readouterr().out
    assert run(resume="runs/Run/1").run_dir.name == "1"


def test_a_finished_run_goes_on_where_more_epochs_are_asked_for_or_it_is_named():
    run()
    assert [e["epoch"] for e in run(resume=True, _num_epochs=3).history] == [1, 2, 3] and folders() == ["1"]
    assert run(resume="runs/Run/1").step == 9


def test_a_run_that_was_killed_after_its_last_epoch_is_brought_to_its_end():
    first = run()
    index = first.run_dir / "checkpoints" / "index.json"
    noted = json.loads(index.read_text())
    assert noted["finished"] and noted["closed"]
    index.write_text(json.dumps({**noted, "closed": False}))  # as after the last save
    (first.run_dir / "model.pth").unlink()
    again = run(resume=True)
    assert folders() == ["1"] and again.ends == [2] and (first.run_dir / "model.pth").is_file()
    assert run(resume=True).run_dir.name == "2"


def test_a_copied_folder_and_one_without_an_index_tell_the_same():
    first = run()
    shutil.copytree(first.run_dir, "copied")
    shutil.rmtree(first.run_dir)
    shutil.move("copied", first.run_dir)  # with other times
    assert run(resume=True).run_dir.name == "2"
    (Path("runs/Run/2/checkpoints/index.json")).unlink()
    assert run(resume=True).run_dir.name == "3"


SCHEDULES = {
    "cosine": (lambda o, n: lr_scheduler.CosineAnnealingLR(o, T_max=n), "epoch", "T_max=2", "T_max=4"),
    "linear": (
        lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=n),
        "epoch",
        "total_iters=2",
        "total_iters=4",
    ),
    "steps": (lambda o, n: lr_scheduler.CosineAnnealingLR(o, T_max=3 * n), "step", "T_max=6", "T_max=12"),
    "one cycle": (
        lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=3 * n + 1),
        "step",
        "total_steps=7",
        "total_steps=13",
    ),
    "after a warm-up": (
        lambda o, n: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o, 0.5, 1), lr_scheduler.CosineAnnealingLR(o, n - 1)], [1]
        ),
        "epoch",
        "T_max=2",
        "T_max=4",
    ),
}


class Scheduled(Run):
    def build_model(self):
        super().build_model()
        make, self._scheduler_step, *_ = SCHEDULES[self.config["kind"]]
        self.scheduler = make(self.optimizer, self.config.get("made_for", 2))


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("made_for", [2, 4])
def test_a_schedule_for_fewer_epochs_than_there_are_now_is_said(kind, made_for, capsys):
    *_, then, now = SCHEDULES[kind]
    first = Scheduled({"kind": kind, "made_for": 2})
    first.train()
    capsys.readouterr()
    longer = Scheduled({"kind": kind, "made_for": made_for, "_num_epochs": 4})
    with contextlib.suppress(ValueError):  # torch's, of the schedule that ends
        longer.train(resume=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "was made for 2 epochs" in line]
    assert len(said) == 1 and f"({then})" in said[0] and f"it would be {now}" in said[0]
    assert "if self.epoch == 3: self.scheduler = " in said[0]


def test_the_line_that_is_offered_gives_the_longer_schedule():
    Scheduled({"kind": "cosine", "made_for": 2}).train()

    class Longer(Scheduled):
        def on_train_epoch_start(self):
            if self.epoch == 3:
                self.scheduler = lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=4, last_epoch=2)

    Longer.__name__ = Longer.__qualname__ = "Scheduled"
    Longer({"kind": "cosine", "_num_epochs": 4}).train(resume=True)


@pytest.mark.parametrize(
    ("made_for", "settings"), [(2, {}), (40, {"_num_epochs": 4}), (1, {"_num_epochs": 4}), (4, {"_num_epochs": 1})]
)
def test_what_was_not_made_for_the_epochs_of_the_run_is_not_said(made_for, settings, capsys):
    first = Scheduled({"kind": "steps", "made_for": made_for, "stop_at": 4})
    with pytest.raises(SystemExit):
        first.train()
    Scheduled({"kind": "steps", "made_for": made_for, **settings}).train(resume=first.run_dir)
    assert "was made for" not in capsys.readouterr().out


def test_a_second_training_in_the_same_process_says_it_too(capsys):
    trainer = Scheduled({"kind": "cosine"})
    trainer.train()
    assert "was made for" not in capsys.readouterr().out
    trainer.train()
    assert "was made for 2 epochs (T_max=2), and the run now has 4" in capsys.readouterr().out


def test_the_folder_of_a_class_without_runs_begins_a_run():
    assert run(resume=True).step == 6
    assert torch.load("runs/Run/1/checkpoints/last.ckpt", weights_only=True)["run"]["finished"]
