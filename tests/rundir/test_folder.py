"""The folder of a run: its number, what was run, and every number line by line."""

import json
import math
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from farabio_like import CheckpointError, ConfigError, rundir
from farabio_like.rundir import runs

from ..trainers import Tiny


class Owner:
    pass


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------- its name


def test_runs_of_a_class_are_numbered():
    assert [rundir.RunDir("runs", Owner).path for _ in range(3)] == [
        Path(f"runs/Owner/{n}").absolute() for n in (1, 2, 3)
    ]
    assert rundir.RunDir(Path("runs"), Tiny).path == Path("runs/Tiny/1").absolute()


def test_the_next_number_is_after_the_largest():
    for name in ("2", "10", "best-so-far", "0x1", "³"):
        Path("runs/Owner", name).mkdir(parents=True)
    Path("runs/Owner/11").write_text("a file may have taken a number")
    assert rundir.RunDir("runs", Owner).path.name == "12"


def make_many(count):
    return [rundir.RunDir("runs", Owner).path.name for _ in range(count)]


def test_processes_that_start_together_get_numbers_of_their_own():
    numbers = []
    readers = []
    for _ in range(4):
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.write(writing, json.dumps(make_many(25)).encode())
            os._exit(0)
        os.close(writing)
        readers.append((reading, child))
    for reading, child in readers:
        with os.fdopen(reading) as file:
            numbers += json.load(file)
        assert os.waitpid(child, 0)[1] == 0
    assert sorted(map(int, numbers)) == list(range(1, 101))
    assert len(os.listdir("runs/Owner")) == 100


def test_two_trainings_of_one_trainer_are_one_run():
    trainer = Tiny({"_num_epochs": 1, "_logdir": "runs"})
    trainer.train()
    trainer.train()
    assert os.listdir("runs/Tiny") == ["1"]
    assert [entry["epoch"] for entry in entries(trainer.run_dir)] == [1, 2]


def test_the_newest_weights_are_the_best_of_the_newest_run_that_has_any():
    assert runs.newest_weights("runs", Owner) is None
    for number, names in ((2, ["model.pth"]), (9, ["checkpoints/last.ckpt"]), (10, []), (3, ["model.pth"])):
        for name in names:
            path = Path("runs/Owner", str(number), name)
            path.parent.mkdir(parents=True)
            path.write_text("")
    Path("runs/Owner/10").mkdir()
    newest = Path("runs/Owner/9")
    assert runs.newest_weights("runs", Owner) == newest / "checkpoints/last.ckpt"
    (newest / "model.pth").write_text("")
    assert runs.newest_weights("runs", Owner) == newest / "model.pth"
    (newest / "checkpoints/best.ckpt").write_text("")
    assert runs.newest_weights("runs", Owner) == newest / "checkpoints/best.ckpt"
    assert runs.newest_weights("runs", Tiny) is None


# ---------------------------------------------------------------- where it cannot be


class Steps(Tiny):
    taken = 0

    def training_step(self):
        super().training_step()
        self.taken += 1


@pytest.mark.parametrize("logdir", ["taken", "taken/below", "folder"])
def test_a_file_in_its_place_is_an_error_before_the_first_step(logdir):
    Path("taken").write_text("")
    Path("folder").mkdir()
    Path("folder/Steps").write_text("")
    trainer = Steps({"_logdir": logdir})
    with pytest.raises(ConfigError) as caught:
        trainer.train()
    assert repr(logdir) in str(caught.value) and "_logdir = None" in str(caught.value)
    assert trainer.taken == 0


def train_where_nothing_can_be_written():
    if os.geteuid() == 0:  # who may write anywhere
        os.setuid(65534)
    trainer = Steps({"_logdir": "closed"})
    try:
        trainer.train()
    except ConfigError as error:
        return str(error), trainer.taken


def test_a_folder_that_cannot_be_written_is_an_error_before_the_first_step(in_child):
    os.chmod(".", 0o755)
    Path("closed").mkdir(mode=0o555)
    message, taken = in_child(train_where_nothing_can_be_written)
    assert "_logdir is 'closed', but closed/Steps cannot be made or written: Permission denied" in message
    assert taken == 0


def train_without_room():
    trainer = Steps({"_logdir": "runs"})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
    try:
        trainer.train()
    except ConfigError as error:
        return str(error), trainer.taken
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_full_disk_is_an_error_before_the_first_step(in_child):
    message, taken = in_child(train_without_room)
    assert "runs/Steps/1 cannot be written" in message and "File too large" in message
    assert taken == 0


def append_without_room():
    run = rundir.RunDir("runs", Owner)
    run.append({"step": 1})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
    try:
        run.append({"text": "x" * 100})
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        run.append({"step": 2})


def test_a_disk_that_is_full_at_a_line_of_metrics_names_the_file_and_the_next_line_is_whole(in_child):
    assert "cannot write runs/Owner/1/metrics.jsonl: File too large" in in_child(append_without_room)
    assert Path("runs/Owner/1/metrics.jsonl").read_text() == '{"step": 1}\n{"text":\n{"step": 2}\n'


def test_no_logdir_writes_nothing_at_all():
    trainer = Tiny({"_logdir": None})
    trainer.train()
    trainer.test()
    assert trainer.run_dir is None
    assert os.listdir() == []


def test_nothing_is_written_before_training_or_by_a_test_alone():
    Tiny({"_logdir": "runs"}).test()
    assert os.listdir() == []


# ---------------------------------------------------------------- the numbers


def test_every_line_is_json_whatever_the_numbers():
    run = rundir.RunDir("runs", Owner)
    run.append({"epoch": 1, "train": {"loss": math.nan, "best": math.inf, "worst": -math.inf}, "odd": "\u2028\n"})
    run.append({"a": np.float32(0.5), "b": np.int64(2), "c": (1, [math.nan]), 3: None, "d": True, "e": Path("x")})

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    lines = (run.path / "metrics.jsonl").read_text().split("\n")
    found = [json.loads(line, parse_constant=refuse) for line in lines[:-1]]
    assert lines[-1] == "" and len(found) == 2
    assert found[0]["train"] == {"loss": "NaN", "best": "Infinity", "worst": "-Infinity"}
    assert found[0]["odd"] == "\u2028\n"
    assert found[1] == {"a": 0.5, "b": 2, "c": [1, ["NaN"]], "3": None, "d": True, "e": repr(Path("x"))}


def test_the_lines_of_a_run_are_its_history():
    class Diverging(Tiny):
        def evaluate_batch(self, item):
            super().evaluate_batch(item)
            self.batch_metrics["bad"] = math.nan

        def on_epoch_end(self):
            self.history[-1]["note"] = f"epoch {self.epoch}"

    trainer = Diverging({"_num_epochs": 3, "_logdir": "runs"})
    history = trainer.train()
    tested = trainer.test()
    *epochs, test = entries(trainer.run_dir)
    assert len(epochs) == 3
    for line, entry in zip(epochs, history, strict=True):
        assert line["train"] == entry["train"] and line["valid"] == {**entry["valid"], "bad": "NaN"}
        assert line["epoch"] == entry["epoch"] and line["lr"] == 0.1 and line["seconds"] == entry["seconds"]
        assert line["note"] == f"epoch {line['epoch']}"
    losses = [line["valid"]["loss"] for line in epochs]
    assert [line["best"] for line in epochs] == [loss == min(losses[: i + 1]) for i, loss in enumerate(losses)]
    assert test["test"] == tested
    assert {path.name for path in trainer.run_dir.iterdir()} == {
        "config.yaml", "environment.json", "code", "metrics.jsonl", "plots", "checkpoints", "model.pth",
            "report.html",
    }  # fmt: skip
