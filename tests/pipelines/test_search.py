"""Searches: real trials, in processes of their own; what is checked before the first one; Optuna's storage."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")
pytest.importorskip("omegaconf")

from farabio_like.cli.main import main  # noqa: E402
from farabio_like.config.files import load  # noqa: E402
from farabio_like.errors import ConfigError  # noqa: E402
from farabio_like.pipelines import asked as asking  # noqa: E402
from farabio_like.pipelines import space, study, trial  # noqa: E402
from farabio_like.pipelines.asked import Asked  # noqa: E402
from farabio_like.pipelines.study import Objective  # noqa: E402
from tests.trainers import Tiny  # noqa: E402

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "search" / "digits.yml"

TRAINER = """
import os
import time
from pathlib import Path
import torch
from torch import nn
from farabio_like import ConvnetTrainer

class Line(ConvnetTrainer):
    def get_trainloader(self):
        x = torch.linspace(-1, 1, 8).unsqueeze(1)
        self.train_loader = [(x, 2 * x)] * 2
    def build_model(self):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.config.lr)
    def on_epoch_end(self):
        with open(Path(self.run_dir).parents[2] / "epochs.txt", "a") as file:
            file.write(f"{self.config.lr} {self.epoch} {os.getpid()}\\n")
        while Path("slow").exists():
            time.sleep(0.02)
"""
CONFIG = """trainer: line.py:Line
settings: {num_epochs: 2, seed: 0, unsaved_seconds: 0, verbose: false}
config:
  lr: 0.1
"""


@pytest.fixture
def line(tmp_path):
    """Write a small trainer, and return its configuration."""
    (tmp_path / "line.py").write_text(TRAINER)
    (tmp_path / "line.yml").write_text(CONFIG)
    return tmp_path / "line.yml"


def arguments(*words):
    return [sys.executable, "-m", "farabio_like", "search", *map(str, words)]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def search(*words, code=0):
    """Run the command in a process of its own, and return what it printed."""
    done = subprocess.run(arguments(*words), capture_output=True, text=True, env=environment(), timeout=500)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def epochs(name="line"):
    """Return learning rate and epoch of every epoch that was trained, in order."""
    path = Path("searches", name, "epochs.txt")
    return [tuple(row.split()[:2]) for row in path.read_text().splitlines()] if path.exists() else []


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)


def states(name="line"):
    folder = Path("searches", name).absolute()
    storage = study.open_storage(None, folder)
    found = [each.state.name for each in study.study_of(storage, name, folder).trials().values()]
    storage.engine.dispose()
    return found


# ---------------------------------------------------------------- before the first trial


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{low: 1, hihg: 2}", "line.yml:4: the range config.lr has 'hihg'. Did you mean 'high'?"),
        ("{low: 2, high: 1}", "line.yml:4: the range config.lr has low 2 and high 1"),
        ("{low: 0, high: 1, log: true}", "line.yml:4: the range config.lr has log: true and low 0"),
        ("{low: 1}", "high is missing; expected a number"),
        ("{low: a, high: 2}", "low is 'a'; expected a number"),
        ("{low: 1, high: 2, step: 3}", "step 3; expected more than 0, 1 at most"),
        ("{low: 1, high: 2, step: 1, log: true}", "log: true and a step"),
        ("{low: 1, high: 2, log: 1}", "expected true or false"),
        ("{choices: []}", "a list of them"),
        ("{choices: [1, 1]}", "one of its choices twice"),
    ],
)
def test_a_range_that_is_none_is_named_with_file_and_line(line, value, said):
    line.write_text(CONFIG.replace("0.1", value))
    with pytest.raises(ConfigError, match=re.escape(said)):
        asking.check(Asked(line, trials=2))
    assert not Path("searches").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing says what to try"),
        ({"grid": ["config.lr=1,2"], "trials": 3}, "give one of them"),
        ({"trials": 3}, "has no range to draw from"),
        ({"trials": 0}, "--trials 0"),
        ({"grid": ["config.lrr=1,2"]}, "there is no config.lrr. Did you mean 'config.lr'?"),
        ({"grid": ["config.lr="]}, "needs a list of values"),
        ({"grid": ["config.lr=1,1"]}, "is there twice"),
        ({"grid": ["lr"]}, "--grid 'lr': expected a key with its values"),
        ({"grid": ["settings.num_epochs=1,-1"]}, "num_epochs"),
        ({"grid": ["settings.num_epochs=1,2"], "epochs": 3}, "--epochs says"),
        ({"grid": ["config.lr=1,2"], "sampler": "tep"}, "Did you mean 'tpe'?"),
        ({"grid": ["config.lr=1,2"], "pruner": "mediam"}, "Did you mean 'median'?"),
        ({"grid": ["config.lr=1,2"], "workers": 0}, "--workers 0"),
        ({"grid": ["config.lr=1,2"], "metrics": ["speed"]}, "Write --metric speed=max"),
        ({"grid": ["config.lr=1,2"], "metrics": ["loss", "accuracy"], "pruner": "median"}, "is for one objective"),
        ({"grid": ["config.lr=1,2"], "storage": "mysql://here/x"}, "--storage 'mysql'"),
        ({"grid": ["config.lr=1,2"], "name": "a/b"}, "the name 'a/b'"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_trial(line, asked, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        asking.check(Asked(line, **asked))
    assert not Path("searches").exists()


def test_the_command_line_says_it_in_one_line(line, capsys):
    assert main(["search", str(line), "--grid", "config.lrr=1,2"]) == 2
    assert "Did you mean 'config.lr'?" in (said := capsys.readouterr().err) and "Traceback" not in said
    assert main(["search", "best", "lines"]) == 2
    assert "there is no search 'lines'" in capsys.readouterr().err


# ---------------------------------------------------------------- what is tried


def test_values_are_drawn_from_ranges_and_come_back_from_the_study(line, tmp_path):
    line.write_text(
        CONFIG
        + "  a: {low: 1, high: 9, step: 4}\n  b: {low: 1e-4, high: 1, log: true}\n  c: {choices: [[1, 2], relu]}\n"
    )
    found = space.find_ranges(*_read(line))
    assert [each.where.rpartition(":")[2] for each in found] == ["5", "6", "7"]
    drawn = study.Space(found, [])
    trials = optuna.create_study(sampler=study.sampler("random", 0))
    values = [drawn.suggest(trials.ask(), None) for _ in range(40)]
    assert {each["config.a"] for each in values} == {1, 5, 9}
    assert all(1e-4 <= each["config.b"] <= 1 for each in values)
    assert [1, 2] in [each["config.c"] for each in values] and "relu" in [each["config.c"] for each in values]


def _read(path):
    from farabio_like.config.files import read

    data, places, _ = read(path)
    return data, places


def test_rows_of_a_grid_are_lists_commas_ranges_and_dicts(line):
    rows = ["config.lr=0.1,1e-2", "config.n=1-2", "config.m=3", "[{config.a: x, config.b: true}]"]
    assert space.grid_cells(rows, line) == [
        {"config.lr": lr, "config.n": n, "config.m": 3, "config.a": "x", "config.b": True}
        for lr in (0.1, 0.01)
        for n in (1, 2)
    ]
    assert space.as_overrides({"a": "1", "b": 1, "c": None, "d": [1, "x"]}) == ['a="1"', "b=1", "c=null", 'd=[1, "x"]']


def test_the_newest_trial_of_a_key_counts_and_of_two_at_once_the_first():
    made = optuna.create_study()
    for key, again in (("a", 0), ("b", 0), ("b", 0), ("a", 1), ("a", 0)):
        made.enqueue_trial({}, user_attrs={"key": key, "again": again, "values": None})
    assert {key: each.number for key, each in study.newest(made.get_trials()).items()} == {"a": 3, "b": 1}


def test_the_result_is_that_of_the_best_epoch_by_the_first_objective():
    history = [
        {"epoch": 1, "train": {"loss": 3.0, "accuracy": 0.1}, "valid": {"accuracy": 0.5}},
        {"epoch": 2, "train": {"loss": 2.0, "accuracy": 0.2}, "valid": {"accuracy": 0.7}},
        {"epoch": 3, "train": {"loss": 1.0, "accuracy": 0.3}, "valid": {"accuracy": "nan"}},
    ]
    assert trial.outcome(history, [Objective("accuracy", True)]) == (2, [0.7])
    assert trial.outcome(history, [Objective("accuracy", True), Objective("loss", False)]) == (2, [0.7, 2.0])
    assert trial.outcome(history, [Objective("train/accuracy", True)]) == (3, [0.3])
    with pytest.raises(ConfigError, match="no epoch has finite numbers for f1"):
        trial.outcome(history, [Objective("f1", True)])


def test_one_lock_is_held_by_one_process(tmp_path):
    first = study.try_lock(tmp_path / "run" / "lock")
    assert first is not None and study.try_lock(tmp_path / "run" / "lock") is None
    os.close(first)
    again = study.try_lock(tmp_path / "run" / "lock")
    assert again is not None
    os.close(again)


# ---------------------------------------------------------------- real trials


@pytest.mark.slow
def test_a_search_goes_on_and_repeats_nothing(line):
    cells = ["--grid", "config.lr=0.1,0.5"]
    said = search(line, *cells)
    assert "2 of 2 trials are complete" in said
    assert epochs() == [("0.1", "1"), ("0.1", "2"), ("0.5", "1"), ("0.5", "2")]
    assert re.search(r"^best: loss \S+ in epoch 2, trial 1 \(config.lr=0.5\), .*runs/Line/lr-0.5", said, re.MULTILINE)
    assert "nothing was left to evaluate: 2 of 2" in search(line, *cells)
    assert len(epochs()) == 4
    # Trained on.
    assert "2 trials go on from where they are, to 3 epochs" in search(line, *cells, "--epochs", 3)
    assert epochs()[4:] == [("0.1", "3"), ("0.5", "3")]
    # Fewer.
    assert "was trained for 3 epochs: nothing is trained for 2" in search(line, *cells, "--epochs", 2)
    # A folder that is gone, and one cell more.
    (gone,) = Path("searches/line/runs/Line").glob("lr-0.1.*")
    shutil.rmtree(gone)
    said = search(line, "--grid", "config.lr=0.1,0.5,0.7", "--epochs", 3)
    assert "has lost its run folder" in said and "3 of 3 trials are complete" in said
    assert sorted(epochs()[6:]) == [(lr, str(epoch)) for lr in ("0.1", "0.7") for epoch in (1, 2, 3)]
    # Another setting.
    said = search(line, *cells, "--epochs", 3, "settings.seed=1", code=2)
    assert "configuration.settings.seed was 0, is 1" in said and "--name line-2" in said
    # The best one.
    said = search("best", "line", "--write", "best.yml")
    assert "config.lr=0.7" in said
    assert load("best.yml")["config"] == {"lr": 0.7} and "logdir" not in load("best.yml")["settings"]
    assert "3 complete, of 3 epochs" in search("status", "line")


@pytest.mark.slow
def test_a_trial_that_was_killed_goes_on_and_one_that_is_paused_is_left_alone(line):
    Path("slow").touch()
    words = [line, "--grid", "config.lr=0.1,0.5", "--workers", 2]
    first = subprocess.Popen(arguments(*words), env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(epochs()) == 2)
        paused, killed = children(first.pid)
        os.kill(paused, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
        second = subprocess.Popen(arguments(*words), env=environment(), stdout=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: children(first.pid) not in ([paused], [paused, killed]))
            Path("slow").unlink()
            wait_for(lambda: states().count("COMPLETE") == 1)
            time.sleep(2)
            assert states().count("RUNNING") == 1 and children(second.pid) == []
            os.kill(paused, signal.SIGCONT)
            said, waited = first.communicate(timeout=200)[0], second.communicate(timeout=200)[0]
        finally:
            second.kill()
            second.communicate()
    finally:
        first.kill()
        first.communicate()
    assert "was killed by SIGKILL: it is gone on with" in said and "2 of 2 trials are complete" in waited
    rows = [row.split() for row in Path("searches/line/epochs.txt").read_text().splitlines()]
    assert len({pid for _, _, pid in rows}) == 3  # one trial in one process, the killed one in two
    assert "nothing was left" in search(*words)


@pytest.mark.slow
def test_the_trials_of_a_search_that_is_killed_end_with_it(line):
    Path("slow").touch()
    words = [line, "--grid", "config.lr=0.1,0.5"]
    first = subprocess.Popen(arguments(*words), env=environment(), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: len(epochs()) == 1)
    (child,) = children(first.pid)
    first.kill()
    first.communicate()
    wait_for(lambda: not Path(f"/proc/{child}").exists())
    Path("slow").unlink()
    assert "2 of 2 trials are complete" in search(*words)
    assert states() == ["COMPLETE", "COMPLETE"]


def test_a_metric_that_no_epoch_has_is_said_with_the_closest_name(line):
    said = search(line, "--grid", "config.lr=0.1,0.5", "--metric", "losss=min", code=2)
    assert "'losss'" in said and "Did you mean 'loss'?" in said
    assert "had no results, and is begun anew" in search(line, "--grid", "config.lr=0.1,0.5", "--metric", "loss")


@pytest.mark.slow
def test_ranges_pruned_and_with_two_objectives(line):
    line.write_text(CONFIG.replace("lr: 0.1", "lr: {low: 0.01, high: 0.5, log: true}"))
    said = search(line, "--trials", 3, "--sampler", "random", "--seed", 0, "--pruner", "hyperband", "--workers", 2)
    assert "of 3 trials are complete" in said
    assert len({lr for lr, _ in epochs()}) == 3
    said = search(line, "--trials", 2, "--metric", "loss", "--metric", "train/loss=max", "--name", "two")
    assert "2 of 2 trials are complete" in said and said.count("best: ") == 2


def test_a_median_pruner_ends_a_bad_trial_at_the_end_of_an_epoch():
    made = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    good, bad = made.ask(), made.ask()
    good.report(0.0, 1)
    made.tell(good, 0.0)
    trainer = Tiny({"_num_epochs": 4, "_logdir": None})
    trainer.callbacks = [trial.Report(bad, [Objective("loss", False)])]
    history = trainer.train()
    assert len(history) == 1 and bad.user_attrs["pruned"] == 1
    assert made.get_trials()[bad.number].intermediate_values == trial.values_of(history, "loss")


# ---------------------------------------------------------------- must show


@pytest.mark.slow
def test_eight_cells_on_the_digits_with_two_workers_one_killed():
    rows = [word for row in ("config.lr=0.01,0.003", "config.width=4,8", "config.batch_size=32,64")
            for word in ("--grid", row)]  # fmt: skip
    words = [EXAMPLE, *rows, "--workers", 2]
    first = subprocess.Popen(arguments(*words), env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(Path("searches/digits/runs/Digits").glob("*/metrics.jsonl")))
        os.kill(children(first.pid)[0], signal.SIGKILL)
        said = first.communicate(timeout=500)[0]
    finally:
        first.kill()
        first.communicate()
    assert "was killed by SIGKILL: it is gone on with" in said
    assert "8 of 8 trials are complete" in said and said.count("\nbest: accuracy 0.9") == 1
    assert len(re.findall(r"^trial \d+ \(.*\): accuracy", said, re.MULTILINE)) == 8
    before = {path: path.stat().st_mtime_ns for path in Path("searches").glob("*/runs/*/*/metrics.jsonl")}
    assert len(before) == 8
    assert "nothing was left to evaluate: 8 of 8" in search(*words)
    assert before == {path: path.stat().st_mtime_ns for path in before}
