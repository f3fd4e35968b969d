"""``farabio-like run``, ``test`` and ``average``: what they leave, what they refuse, and with which exit status."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from farabio_like.cli.main import main
from farabio_like.rundir import reader
from tests.conftest import ROOT

TRAINER = """
import torch
from torch import nn
from farabio_like import ConvnetTrainer

class Line(ConvnetTrainer):
    def get_trainloader(self):
        x = torch.arange(24.0).reshape(8, 3) / 24
        self.train_loader = self.valid_loader = self.test_loader = [(x, x.sum(1, keepdim=True))]

    def build_model(self):
        self.model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.config.lr)
"""
CONFIG = "trainer: line.py:Line\nsettings: {num_epochs: 2, verbose: false, device: cpu}\nconfig: {lr: 0.1}\n"


@pytest.fixture(autouse=True)
def files():
    Path("line.py").write_text(TRAINER)
    Path("c.yml").write_text(CONFIG)


@pytest.fixture
def command(capsys):
    """Return a function that runs a command line in this process: status, output, errors."""

    def run(*arguments):
        path, modules, bytecode = list(sys.path), set(sys.modules), sys.dont_write_bytecode
        try:
            status = main(arguments)
        finally:
            sys.path[:], sys.dont_write_bytecode = path, bytecode
            for name in set(sys.modules) - modules:
                if name in ("line", "late"):
                    del sys.modules[name]
        return status, *capsys.readouterr()

    return run


def called(*arguments, **environment):
    """Return the command line as a process of its own, ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "farabio_like", *arguments], env=environment, capture_output=True, text=True
    )


def weights(run):
    return torch.load(Path(run) / "model.pth", weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_run_trains_and_tests_and_can_be_repeated_when_the_code_has_changed(command):
    assert command("run", "settings.num_epochs=3", "c.yml", "config.lr=0.2")[0] == 0
    found = reader.read("runs/Line/1")
    assert found.settings["_num_epochs"] == "3" and found.config["lr"] == "0.2" and "loss" in found.test
    assert "trainer: line.py:Line" in Path("runs/Line/1/run.yaml").read_text()
    assert Path("runs/Line/1/code/line.py").read_text() == TRAINER
    Path("line.py").write_text(TRAINER.replace("nn.Linear(3, 2)", "nn.Linear(3, 2, bias=False)"))
    Path("c.yml").unlink()
    os.mkdir("elsewhere")
    shutil.move("runs/Line/1", "elsewhere/moved")
    assert command("run", "elsewhere/moved")[0] == 0
    assert same(weights("elsewhere/moved"), weights("runs/Line/1"))


def test_test_uses_the_code_in_the_folder(command):
    command("run", "c.yml")
    before = reader.read("runs/Line/1").test["loss"]
    Path("line.py").write_text("raise RuntimeError\n")
    assert command("test", "runs/Line/1")[0] == 0
    lines = Path("runs/Line/1/metrics.jsonl").read_text().splitlines()
    assert sum('"test"' in line for line in lines) == 2 and reader.read("runs/Line/1").test["loss"] == before
    assert not list(Path("runs/Line/1").glob(".lock"))


def test_a_name_is_taken_once_and_goes_on_with_resume(command):
    assert command("run", "c.yml", "--name", "first", "--resume")[0] == 0
    status, output, error = command("run", "c.yml", "--name", "first")
    assert status == 2 and output == ""
    where = os.path.join("runs", "Line", "first")
    said = "is there already. To go on with it: --resume. For another run: another --name."
    assert error == f"farabio-like: {where} {said}\n"
    assert command("run", "c.yml", "--name", "first", "--resume", "settings.num_epochs=5")[0] == 0
    assert [entry["epoch"] for entry in reader.read("runs/Line/first").history] == [1, 2, 3, 4, 5]
    assert [path.name for path in Path("runs/Line").iterdir()] == ["first"]
    assert "first" in command("ls")[1]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 61, "a b"])
def test_names_that_are_no_folder(command, name):
    assert command("run", "c.yml", "--name", name)[0] == 2
    assert not Path("runs").exists()


def test_dry_run_checks_prints_and_writes_nothing(command):
    before = sorted(Path().rglob("*"))
    status, output, error = command("run", "c.yml", "--dry-run", "+stages=[{name: a, num_epochs: 1}]")
    assert (status, error) == (0, "") and output.startswith("trainer: line.py:Line\n") and "- name: a" in output
    assert sorted(Path().rglob("*")) == before
    status, output, error = command("run", "c.yml", "--dry-run", "settings.num_epochs=x")
    assert (status, output) == (2, "")
    assert error == (
        "farabio-like: override 'settings.num_epochs=x': num_epochs is str 'x'; expected a whole number, 0 or more.\n"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["run"], "farabio-like run: Missing argument"),
        (["run", "lr=1"], "farabio-like: there is no configuration file in: lr=1. Write farabio-like run config.yml"),
        (["run", "nowhere.yml"], "farabio-like: nowhere.yml: No such file or directory"),
        (["run", "c.yml", "settings.num_epoch=1"], "Did you mean 'settings.num_epochs'?"),
        (["run", "c.yml", "--nam", "x"], "farabio-like run: No such option: --nam"),
        (["run", "line.py"], "farabio-like: line.py ends in '.py'; expected one of .yaml, .yml, .json."),
        (["run", "runs"], "farabio-like: runs: No such file or directory"),
        (["run", "."], "farabio-like: . is no folder of a run that a configuration has started: it has no run.yaml."),
        (["run", "c.yml", "--allow", "x y"], "farabio-like: --allow 'x y' is no name of a module"),
        (["run", "c.yml", "+settings.monitor=accuracy"], "farabio-like: "),
        (["test", "."], "farabio-like: . is no run folder: it has no config.yaml."),
        (["average", "."], "farabio-like: . is no run folder"),
    ],
)
def test_mistakes_are_one_line_and_status_2(command, line, said):
    status, output, error = command(*line)
    assert status == 2 and said in error and "Traceback" not in error, error


def test_a_training_that_fails_is_status_1_with_its_traceback(command):
    Path("line.py").write_text(TRAINER + "\n    def on_epoch_end(self):\n        raise ValueError('of the user')\n")
    status, _, error = command("run", "c.yml")
    assert status == 1 and "ValueError: of the user" in error and 'line.py", line' in error


def test_a_trainer_without_test_data_is_not_tested(command):
    Path("line.py").write_text(TRAINER.replace(" = self.test_loader", ""))
    assert command("run", "c.yml")[0] == 0 and reader.read("runs/Line/1").test == {}


def test_average(command):
    Path("c.yml").write_text(CONFIG + "callbacks: [{class: farabio_like.callbacks.Checkpoint, every_epochs: 1}]\n")
    assert command("run", "c.yml", "settings.num_epochs=3")[0] == 0
    status, output, error = command("average", "runs/Line/1")
    assert (status, error) == (0, "")
    kept = {}
    for path in Path("runs/Line/1/checkpoints").glob("*.ckpt"):
        found = torch.load(path, weights_only=True)
        kept[found["step"]] = found["model"]
    assert len(kept) == 3
    mean = torch.load("runs/Line/1/averaged.pth", weights_only=True)
    expected = sum(state["0.weight"].double() for state in kept.values()) / 3
    assert torch.equal(mean["0.weight"], expected.float())
    assert mean["1.num_batches_tracked"] == 3  # of the newest
    assert command("average", "runs/Line/1", "--last", "2", "-o", "two.pth")[0] == 0
    two = (kept[2]["2.bias"].double() + kept[3]["2.bias"].double()) / 2
    assert torch.equal(torch.load("two.pth", weights_only=True)["2.bias"], two.float())
    status, _, error = command("average", "runs/Line/1", "--last", "9")
    assert status == 2 and "an average needs 9 checkpoints of different steps" in error
    status, _, error = command("average", "runs/Line/1", "-c", "bast")
    assert status == 2 and "has no checkpoint 'bast'. There are: " in error


def test_the_example_in_an_empty_folder(command, monkeypatch):
    for name in ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"):  # scikit-learn sets them
        monkeypatch.setenv(name, os.environ.get(name, "TRUE"))
    pytest.importorskip("sklearn")
    for name in ("digits.yml", "digits.py"):
        shutil.copy(ROOT / "examples" / "service" / name, name)
    status, _, error = command("run", "digits.yml", "settings.num_epochs=1", "+settings.verbose=false")
    assert status == 0, error
    found = reader.read("runs/Digits/1")
    assert found.test["accuracy"] > 0.5 and found.settings["_monitor"] == "accuracy"


@pytest.mark.slow
def test_ctrl_c_is_status_130_and_the_run_goes_on():
    slow = "\n    def on_end_training_batch(self):\n        __import__('time').sleep(0.02)\n"
    Path("line.py").write_text(TRAINER + slow)
    arguments = [sys.executable, "-m", "farabio_like", "run", "c.yml", "--name", "a", "settings.num_epochs=3000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        arguments, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not Path("runs/Line/a/metrics.jsonl").is_file() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in error, error
    done = len(reader.read("runs/Line/a").history)
    again = called("run", "c.yml", "--name", "a", "--resume", f"settings.num_epochs={done + 2}")
    assert again.returncode == 0 and len(reader.read("runs/Line/a").history) == done + 2, again.stderr


@pytest.mark.slow
def test_under_torchrun():
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    config = CONFIG.replace("verbose: false", "verbose: false, seed: 1")
    data = "torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)"
    Path("line.py").write_text(TRAINER.replace("[(x, x.sum(1, keepdim=True))]", data))
    Path("c.yml").write_text(config)
    line = [*launcher, "-m", "farabio_like", "run", "c.yml"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in Path("runs/Line").iterdir()] == ["1"]
    assert '"processes": 2' in Path("runs/Line/1/environment.json").read_text()
    assert len(reader.read("runs/Line/1").history) == 2 and Path("runs/Line/1/run.yaml").is_file()
