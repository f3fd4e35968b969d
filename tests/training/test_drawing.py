"""A run draws while it goes on where that costs little, and everything at its end."""

import copy
import threading
import warnings

import pytest
import torch

from farabio_like import plots
from farabio_like.callbacks import ConfusionMatrix, Dice
from farabio_like.plots import figure, painter
from farabio_like.plots.painter import Painter
from farabio_like.rundir import reader

from ..trainers import Tiny


def entry(epoch, seconds=100.0):
    return {"epoch": epoch, "train": {"loss": 1.0 / epoch}, "valid": {}, "lr": 0.1, "seconds": seconds}


def test_a_drawing_is_made_where_it_costs_less_than_its_share_of_an_epoch(tmp_path):
    worker, path = Painter(), tmp_path / "curves.png"
    worker.draw([entry(1, seconds=painter.FIRST_GUESS / painter.SHARE - 1)], None, path)
    assert worker.thread is None and not path.exists()
    worker.draw([entry(1, seconds=painter.FIRST_GUESS / painter.SHARE + 1)], None, path)
    worker.join()
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 0 < worker.seconds != painter.FIRST_GUESS, "and then by what it took"
    path.unlink()
    worker.draw([entry(1, seconds=worker.seconds / painter.SHARE * 0.9)], None, path)
    worker.join()
    assert not path.exists()


def test_one_drawing_at_a_time(tmp_path, monkeypatch):
    going, save = threading.Event(), plots.save
    monkeypatch.setattr(figure, "save", lambda *given: (going.wait(10), save(*given)))
    worker = Painter()
    worker.draw([entry(1)], None, tmp_path / "curves.png")
    first = worker.thread
    worker.draw([entry(1), entry(2)], None, tmp_path / "curves.png")
    assert worker.thread is first
    assert copy.deepcopy(worker).thread is None
    going.set()
    worker.join()
    assert not first.is_alive()


def test_a_drawing_that_fails_is_not_tried_again_before_the_end(tmp_path):
    (tmp_path / "plots").write_text("a file in its place")
    worker = Painter()
    worker.draw([entry(1)], None, tmp_path / "plots" / "curves.png")
    worker.join()
    assert isinstance(worker.error, OSError)
    worker.draw([entry(1)], None, tmp_path / "curves.png")
    assert worker.thread is None


class Long(Tiny):
    """Its epochs count as long ones."""

    def define_log_attr(self):
        self.seen = []

    def on_train_epoch_start(self):
        self._run_state.progress.epoch_started -= 1000
        self._run_state.pictures.join()
        self.seen.append((self.run_dir / "plots" / "curves.png").is_file())
        if self.config.get("fails") and self.epoch == 3:
            raise KeyboardInterrupt


def test_a_long_run_has_curves_before_its_end():
    trainer = Long({"_num_epochs": 3, "_logdir": "runs"})
    trainer.train()
    assert trainer.seen == [False, True, True]
    assert trainer._run_state.pictures.thread is None


class Failing(Tiny):
    """Fails in an epoch, or before the first one."""

    def on_train_epoch_start(self):
        if self.epoch == self.config["at"]:
            raise ValueError("<b>bad</b> pixel\n" + "x" * 5000)


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_that_fails_leaves_what_it_recorded(at):
    trainer = Failing({"_num_epochs": 4, "_logdir": "runs", "at": at})
    with pytest.raises(ValueError, match="bad"):
        trainer.train()
    assert (trainer.run_dir / "plots" / "curves.png").is_file() == (at == 3)
    text = (trainer.run_dir / "report.html").read_text()
    assert "ended by <code>ValueError: &lt;b&gt;bad&lt;/b&gt; pixel\nxxx" in text
    assert f"(step {3 * (at - 1)})" in text and "x" * 2000 not in text
    assert reader.read(trainer.run_dir).error.startswith("ValueError: <b>bad</b> pixel\n")
    again = Tiny({"_num_epochs": 4, "_logdir": "runs"})
    if at == 3:
        again.train(resume=trainer.run_dir)
        assert reader.read(trainer.run_dir).error == ""
        assert "ended by" not in (trainer.run_dir / "report.html").read_text()


def test_a_failure_is_not_hidden_by_one_to_draw_it():
    trainer = Failing({"_num_epochs": 4, "_logdir": "runs", "at": 3})
    trainer.on_train_end = lambda: (trainer.run_dir / "plots").write_text("a file in its place")
    with pytest.raises(ValueError, match="bad"), pytest.warns(UserWarning, match="pictures .* could not be drawn"):
        trainer.train()


def test_no_thread_is_left_by_a_run_that_is_interrupted():
    trainer = Long({"_num_epochs": 3, "_logdir": "runs", "fails": True})
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer._run_state.pictures.thread is None
    assert (trainer.run_dir / "plots" / "curves.png").is_file()


def test_the_drawing_thread_does_not_change_the_weights():
    weights = []
    for logdir in ("runs", None):
        trainer = Tiny({"_num_epochs": 3, "_logdir": logdir})
        trainer.on_train_epoch_start = lambda t=trainer: setattr(t._run_state.progress, "epoch_started", -1000.0)
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("what", ["plots", "report.html"])
def test_pictures_and_reports_that_cannot_be_written_do_not_hide_the_result(what):
    trainer = Tiny({"_logdir": "runs"})

    def block():
        if what == "plots":
            (trainer.run_dir / what).write_text("a file in its place")
        else:
            (trainer.run_dir / what).mkdir()

    trainer.on_train_start = block
    with pytest.warns(UserWarning, match="could not be") as caught:
        history = trainer.train()
    assert len(history) == 2 and len(caught) == 1
    assert str(trainer.run_dir) in str(caught[0].message)
    assert (trainer.run_dir / "model.pth").is_file()


class Segmenting(Tiny):
    def get_trainloader(self):
        masks = torch.randint(0, 3, (4, 5, 5))
        self.train_loader = self.valid_loader = [(torch.rand(4, 2, 5, 5), masks)]

    def build_model(self):
        self.model = torch.nn.Conv2d(2, 3, 1)
        self.criterion = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.callbacks = [Dice(), ConfusionMatrix(class_names=["ground", "cell", "nucleus"])]


def test_values_per_class_are_drawn_with_the_names_of_the_classes(monkeypatch):
    seen = {}
    draw = plots.class_bars
    monkeypatch.setattr(plots, "class_bars", lambda *given: seen.update(given=given) or draw(*given))
    trainer = Segmenting({"_logdir": "runs"})
    history = trainer.train()
    values, names = seen["given"]
    best = trainer._run_state.best[3]
    assert values == {"dice_per_class": history[best - 1]["valid"]["dice_per_class"]}
    assert names == ["ground", "cell", "nucleus"]
    assert (trainer.run_dir / "plots" / "per_class.png").is_file()


def test_without_a_run_folder_nothing_is_drawn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tiny().train()
    assert not any(tmp_path.iterdir())
