"""Several runs side by side: real runs, read from their folders."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from farabio_like import compare
from farabio_like.errors import ConfigError

from .conftest import ROOT
from .trainers import Tiny


class Scored(Tiny):
    def define_misc_attr(self):
        super().define_misc_attr()
        self._logdir = "runs"

    def compute_loss(self):
        self.batch_metrics["accuracy"] = 1 - 1 / (self.epoch + self._num_epochs)
        return super().compute_loss()


@pytest.fixture
def runs():
    """Two runs of other lengths, the first one tested."""
    first = Scored({"_num_epochs": 2, "_monitor": "accuracy"})
    first.train()
    first.test()
    second = Scored({"_num_epochs": 4, "_monitor": "accuracy"})
    second.train()
    return first, second


def rows(text, title):
    """Return the rows of one table by their first cell."""
    table = text.partition(title + "\n")[2].split("\n\n" + "test")[0].partition("\n\nconf")[0]
    return {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.split()}


def test_best_values_tests_and_differences(runs):
    first, second = runs
    text = compare.compare([first.run_dir, second.run_dir])
    best = rows(text, "best values")
    assert best["run"] == ["epochs", "time", "accuracy", "loss"], "what is monitored comes first"
    losses = [min(entry["valid"]["loss"] for entry in trainer.history) for trainer in runs]
    assert best["1"][0] == "2/2" and best["2"][0] == "4/4"
    assert best["1"][2] == "0.7500" and best["2"][2:4] == ["0.8750", "*"], "the higher accuracy is marked"
    shown = [row[-2] if row[-1] == "*" else row[-1] for row in (best["1"], best["2"])]
    assert shown == [f"{loss:.4f}" for loss in losses]
    assert [row[-1] == "*" for row in (best["1"], best["2"])] == [loss == min(losses) for loss in losses]
    test = rows(text, "\ntest")
    assert test["run"] == ["loss", "accuracy"] and test["2"] == ["-", "-"]
    differ = rows(text, "configuration and settings that differ")
    assert differ == {"run": ["_num_epochs"], "1": ["2"], "2": ["4"]}
    assert max(map(len, text.splitlines())) <= 80


def test_one_metric(runs):
    text = compare.compare([trainer.run_dir for trainer in runs], "loss")
    assert "accuracy" not in text and "loss" in text


def test_the_same_settings_are_said_to_be(runs):
    again = Scored({"_num_epochs": 4, "_monitor": "accuracy"})
    again.train()
    assert "the same in all runs" in compare.compare([runs[1].run_dir, again.run_dir])


def test_the_command_prints_and_draws(runs):
    folders = [str(trainer.run_dir) for trainer in runs]
    done = subprocess.run(
        [sys.executable, "-m", "farabio_like.compare", *folders, "-o", "out/both.png", "--metric", "accuracy"],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("curves in out/both.png\n") and "best values" in done.stdout
    assert Path("out/both.png").read_bytes().startswith(b"\x89PNG")


def test_one_run_is_shown_too(runs, capsys):
    compare.main([str(runs[0].run_dir)])
    assert "differ" not in capsys.readouterr().out and Path("compare.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/Scored/1", "runs/Scored/9"], "runs/Scored/9 is no folder"),
        (["runs/Scored/1", "runs"], "runs is no run folder"),
        (["runs/Scored/1", "runs/Scored/../Scored/1"], "given twice"),
        (["runs/Scored/1", "--metric", "acuracy"], "Did you mean 'accuracy'?"),
    ],
)
def test_mistakes_are_named(runs, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert message in err and not out
    assert not Path("compare.png").exists()
    with pytest.raises(ConfigError):
        compare.compare([a for a in arguments if not a.startswith("--") and a != "acuracy"], *arguments[2:][-1:])


def test_labels_are_what_tells_runs_apart():
    assert compare.labels([Path("runs/A/1"), Path("runs/A/2")]) == ["1", "2"]
    assert compare.labels([Path("runs/A/1"), Path("other/B/1")]) == ["runs/A/1", "other/B/1"]
    assert compare.labels([Path("runs/A/7")]) == ["7"]


def test_many_long_names_stay_within_80_columns(tmp_path):
    for number in range(3):
        run = tmp_path / f"{'long_' * 20}{number}"
        run.mkdir()
        metrics = {f"metric_with_a_long_name_{'x' * i}": float("1e-300") for i in range(12)}
        line = {"epoch": 1, "train": metrics, "valid": {}, "lr": 0.1, "seconds": 1e6}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (run / "config.yaml").write_text(f'config:\n  key: "{"value" * 30}{number}"\n  n{"k" * 60}: {number}\n')
    text = compare.compare(sorted(tmp_path.glob("long*")))
    assert max(map(len, text.splitlines())) <= 80
    assert all(
        any(line.split()[:1] and line.split()[0].endswith(str(n)) for line in text.splitlines()) for n in range(3)
    )
    compare.draw(sorted(tmp_path.glob("long*")), "all.png")
    assert Path("all.png").is_file()


def test_a_run_without_an_epoch_is_shown(tmp_path, runs):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("class: A\n")
    text = compare.compare([runs[0].run_dir, tmp_path / "empty"])
    assert rows(text, "best values")["empty"] == ["0/?", "0.0s", "-", "-"]
