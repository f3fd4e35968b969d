"""Which loggers a run has, and what they get without being asked."""

import copy
import csv
import json
import threading
import warnings
import weakref

import pytest
import torch

from farabio_like import ConfigError, HookError, Logger
from farabio_like.callbacks import ConfusionMatrix
from farabio_like.distributed import process_group
from farabio_like.loggers import run
from farabio_like.loggers.csv import CSVLogger

from ..trainers import Tiny
from .server import free_port
from .test_worker import Kept, Stuck


def test_epochs_are_recorded_and_threads_are_gone():
    logger = Kept()
    trainer = Tiny({"_loggers": logger, "_num_epochs": 3})
    history = trainer.train()
    records = logger.scalar_records()
    assert [step for *_, step in records] == [3, 6, 9]
    for (_, values, _), entry in zip(records, history, strict=True):
        assert values == {
            "epoch": entry["epoch"],
            "train/loss": entry["train"]["loss"],
            "valid/loss": entry["valid"]["loss"],
            "lr": 0.1,
            "seconds": entry["seconds"],
        }
    assert logger.got[0][0] == "start"
    assert logger.got[-1] == ("finish", "finished")
    assert not [thread for thread in threading.enumerate() if thread in logger.threads]
    assert threading.main_thread() not in logger.threads


def test_texts_say_what_is_run_and_how_it_ended():
    logger = Kept()
    Tiny({"_loggers": [logger]}).train()
    texts = [record[2] for record in logger.got if record[:2] == ("text", "run info")]
    assert texts[0].startswith("Tiny: running\n4 parameters on cpu\n")
    assert texts[-1].startswith("Tiny: finished\n")


class Recorded(Tiny):
    """Names a logger late, and records by itself."""

    def define_log_attr(self):
        self._loggers = self.early = Kept()

    def on_train_start(self):
        self.loggers.scalars({"early": 1})

    def start_logger(self):
        self.kept = Kept()
        self._loggers = [self.early, self.kept]

    def on_epoch_end(self):
        self.loggers.images("inputs", self.train_loader.dataset.tensors[0].reshape(10, 1, 3, 1))
        self.loggers.scalars({"mine": self.epoch})


def test_hook_may_name_loggers_and_hooks_may_record():
    trainer = Recorded({"_num_epochs": 1})
    trainer.train()
    kinds = [record[0] for record in trainer.kept.got]
    assert trainer.early.got[2] == ("scalars", {"early": 1.0}, 0)
    assert kinds == ["start", "text", "images", "scalars", "scalars", "text", "finish"]
    assert trainer.kept.got[3] == ("scalars", {"mine": 1.0}, 3)
    assert list(trainer.loggers) == []
    trainer.loggers.scalars({"nobody": 1})  # outside of a run


class WithTest(Tiny):
    def on_test_end(self):
        self.loggers.text("note", "tested")
        if self.config.get("fails"):
            raise RuntimeError


def test_a_test_after_the_run_is_recorded():
    logger = Kept()
    trainer = WithTest({"_loggers": logger, "_log_interval": 1, "_logdir": "runs"})
    trainer.test()
    assert not logger.got, "there is no run that it could belong to"
    trainer.train()
    lines = len(logger.got)
    metrics = trainer.test()
    kinds = [record[0] for record in logger.got[lines:]]
    assert kinds == ["start", "text", "text", "scalars", "text", "finish"]
    assert ("text", "note", "tested", 6) in logger.got[lines:]
    assert ("scalars", {"epoch": 2.0, "test/loss": metrics["loss"]}, 6) in logger.got[lines:]
    assert logger.got[-1] == ("finish", "finished") and not trainer._run_state.recording.workers


def test_a_test_that_fails_closes_its_loggers():
    logger = Kept()
    trainer = WithTest({"_loggers": logger, "fails": True})
    trainer.train()
    with pytest.raises(RuntimeError):
        trainer.test()
    assert logger.got[-1] == ("finish", "failed") and not trainer._run_state.recording.workers


def test_a_test_within_a_run_is_recorded_by_it():
    logger = Kept()
    trainer = Tiny({"_loggers": logger, "_num_epochs": 1})
    trainer.on_epoch_end = trainer.test
    trainer.train()
    assert [record[0] for record in logger.got].count("start") == 1
    assert any("test/loss" in values for _, values, _ in logger.scalar_records())


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("x"), "failed"), (KeyboardInterrupt(), "interrupted"), (None, "finished")]
)
def test_status_of_the_run(error, status):
    logger = Kept()
    trainer = Tiny({"_loggers": logger})
    if error is not None:
        trainer.on_epoch_end = lambda: (_ for _ in ()).throw(error)
        with pytest.raises(type(error)):
            trainer.train()
    else:
        trainer.train()
    assert logger.got[-1] == ("finish", status)


def weights(**settings):
    trainer = Tiny({"_num_epochs": 3, **settings})
    trainer.train()
    return trainer.model.state_dict()


def test_weights_are_the_same_as_without():
    plain, logged = weights(), weights(_loggers=[Kept(), Kept()], _log_interval=1)
    assert all(torch.equal(plain[name], logged[name]) for name in plain)


def test_running_loss_is_the_mean_of_the_interval_weighted_by_samples():
    logger = Kept()

    class Losses(Tiny):
        def on_end_training_batch(self):
            self.seen = [*getattr(self, "seen", []), (self.loss.item(), len(self.inputs))]

    trainer = Losses({"_loggers": logger, "_log_interval": 3, "_num_epochs": 2, "_logdir": "runs"})
    trainer.train()
    got = {step: values for _, values, step in logger.scalar_records() if "running/loss" in values}
    assert list(got) == [3, 6]
    for step, values in got.items():
        part = trainer.seen[step - 3 : step]
        expected = sum(loss * n for loss, n in part) / sum(n for _, n in part)
        assert values["running/loss"] == pytest.approx(expected)
        assert values["running/lr"] == 0.1
    lines = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [3, 6]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2]


def test_logger_among_the_callbacks_gets_records_and_events():
    class Both(Kept):
        def on_epoch_end(self, trainer):
            self.events = getattr(self, "events", 0) + 1

    first, second = Both(), Both()
    trainer = Tiny({"_loggers": second})
    trainer.callbacks = [first]
    trainer.train()
    for logger in (first, second):
        assert logger.events == 2
        assert len(logger.steps()) == 2


def test_other_ranks_have_no_loggers(monkeypatch):
    monkeypatch.setattr(process_group, "rank", lambda: 1)
    logger = Kept()
    Tiny({"_loggers": logger, "_log_interval": 1}).train()
    assert logger.got == []


def test_confusion_matrix_goes_to_the_loggers():
    class Matrices(Kept):
        def matrix(self, name, matrix, labels, step):
            self._note("matrix", name, matrix, labels, step)

    class Classes(Tiny):
        def build_model(self):
            super().build_model()
            self.criterion = lambda outputs, targets: (outputs - 1).square().mean()
            self.callbacks = [
                ConfusionMatrix(
                    prediction=lambda trainer: (trainer.outputs[:, 0] > 1).long(),
                    target=lambda trainer: (trainer.inputs[:, 0] > 0.5).long(),
                    num_classes=2,
                    class_names=["low", "high"],
                    loaders=("valid",),
                )
            ]

    logger = Matrices()
    Classes({"_loggers": logger, "_num_epochs": 1}).train()
    (found,) = [record for record in logger.got if record[0] == "matrix"]
    assert found[1] == "valid confusion matrix"
    assert found[2].sum() == 10
    assert found[3:] == (["low", "high"], 3)


def test_copy_of_a_trainer_has_no_threads():
    class Copies(Tiny):
        def on_epoch_end(self):
            self.twin = copy.deepcopy(self)

    trainer = Copies({"_loggers": Logger(), "_num_epochs": 1})
    trainer.train()
    assert len(trainer.twin.loggers) == 0
    trainer.twin.train()


@pytest.mark.parametrize("name", ["csv", "tensorboard", "visdom"])
def test_named_loggers_are_copied_with_their_trainer_and_train_again(name, monkeypatch):
    monkeypatch.setenv("VISDOM_PORT", str(free_port()))

    class Copies(Tiny):
        def on_epoch_end(self):
            self.twin = copy.deepcopy(self)

    trainer = Copies({"_loggers": run.make(name), "_num_epochs": 1, "_logdir": "runs"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no visdom server
        trainer.train()
        trainer.twin.train()
    assert repr(copy.deepcopy(trainer._loggers)) == repr(trainer._loggers)


def test_running_loss_over_several_folds_and_batch_sizes():
    """More steps than wait together, and batches of two sizes."""

    class Many(Tiny):
        def get_trainloader(self):
            inputs, targets = torch.rand(700, 3), torch.rand(700, 1)
            sizes = [2, 1] * 20 + [2] * 300
            self.train_loader = list(zip(inputs.split(sizes + [40]), targets.split(sizes + [40]), strict=True))

        def on_end_training_batch(self):
            self.seen = [*getattr(self, "seen", []), (self.loss.item(), len(self.inputs))]

    logger = Kept()
    trainer = Many({"_loggers": logger, "_log_interval": 7, "_num_epochs": 1})
    trainer.train()
    got = {step: values["running/loss"] for _, values, step in logger.scalar_records() if "running/loss" in values}
    assert list(got) == list(range(7, 342, 7))
    for step, value in got.items():
        part = trainer.seen[step - 7 : step]
        assert value == pytest.approx(sum(loss * n for loss, n in part) / sum(n for _, n in part), rel=1e-5)


def test_logger_that_hangs_is_left_alone_and_said():
    logger = Stuck()
    with pytest.warns(UserWarning, match="Stuck has not ended in 0.5 seconds .* its last . records may be lost"):
        Tiny({"_loggers": logger}).train()
    logger.released.set()


def test_trainer_dies_after_its_run():
    trainer = Tiny({"_loggers": Kept(), "_log_interval": 1})
    trainer.train()
    dead = weakref.ref(trainer)
    del trainer
    assert dead() is None


def test_second_training_goes_on():
    logger = Kept()
    trainer = Tiny({"_loggers": logger})
    trainer.train()
    trainer.train()
    assert logger.steps() == [3, 6, 9, 12]
    assert [record[0] for record in logger.got].count("start") == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"_loggers": "tensorbord"}, ("_loggers is 'tensorbord'", "Did you mean 'tensorboard'?")),
        ({"_loggers": ["csv"], "_logdir": None}, ("_loggers[0]", "_logdir is None", "CSVLogger('metrics.csv')")),
        ({"_loggers": [3]}, ("_loggers[0] is 3", "farabio_like.Logger")),
        ({"_loggers": Logger}, ("Write Logger().",)),
        ({"_loggers": ["csv", "csv"], "_logdir": "runs"}, ("_loggers[1] is 'csv', which is there already",)),
        ({"_log_interval": 0}, ("_log_interval is 0", "self._log_interval = 50")),
        ({"_log_interval": 1.5}, ("_log_interval is 1.5",)),
    ],
)
def test_mistakes_are_found_at_construction(settings, words):
    with pytest.raises(ConfigError) as caught:
        Tiny(settings)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package wandb, which is not installed.*pip install wandb"):
        Tiny({"_loggers": "wandb"})


@pytest.mark.parametrize("images", [torch.zeros(3), torch.zeros(2, 5, 4, 4), [1, 2]])
def test_images_of_another_shape_are_refused_where_they_are_given(images):
    with pytest.raises(HookError, match=r"expected a tensor of the shape \(N, H, W\)"):
        Tiny().loggers.images("x", images)


def test_csv_columns_stay_when_a_metric_appears_later():
    class Late(Tiny):
        def on_epoch_end(self):
            self.loggers.scalars({"note, with a comma": self.epoch} if self.epoch == 2 else {})

    trainer = Late({"_loggers": "csv", "_logdir": "runs", "_num_epochs": 3, "_eval_interval": 2})
    trainer.train()
    trainer.train()
    with open(trainer.run_dir / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["step", "epoch", "train/loss", "lr"]
    epochs = [row for row in rows if row["epoch"]]
    assert [int(row["epoch"]) for row in epochs] == [1, 2, 3, 4, 5, 6]
    for row, entry in zip(epochs, trainer.history, strict=True):
        assert float(row["train/loss"]) == entry["train"]["loss"]
        assert row["valid/loss"] == ("" if not entry["valid"] else repr(entry["valid"]["loss"]))
    assert [row["note, with a comma"] for row in rows if row["note, with a comma"]] == ["2.0"]


def test_csv_leaves_out_a_row_that_was_cut_off(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,epoch,\xc3\xa4\n1,,2.0\n2,,")
    Tiny({"_loggers": CSVLogger(path), "_num_epochs": 1}).train()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("step,epoch,ä,train/loss")
    assert lines[1] == "1,,2.0,,,,"
    assert lines[2].startswith("3,1,,")
    assert len(lines) == 3
