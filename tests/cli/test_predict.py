"""``farabio-like predict``, ``trace`` and ``quantize``: from the folder of a run to files, and each mistake."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from farabio_like import launch
from farabio_like.cli.main import main
from farabio_like.export.formats import load

CODE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from farabio_like import ConvnetTrainer, Stage
from farabio_like.callbacks import EMA, Checkpoint

class Base(ConvnetTrainer):
    def define_train_attr(self):
        self._verbose, self._device = False, "cpu"
        self._stages = [Stage("first", 1), Stage("second", 2)]
        self.callbacks = [EMA(decay=0.5), Checkpoint(top_k=0, every_epochs=1)]

    def get_trainloader(self):
        torch.manual_seed(0)
        data = TensorDataset(torch.rand(6, 1, 8, 8), self.targets_of(6))
        self.train_loader = self.valid_loader = DataLoader(data, batch_size=3)

class Digits(Base):
    def define_data_attr(self):
        self.input_spec = {"mode": "L", "size": [8, 8], "classes": ["a", "b", "c"]}

    def targets_of(self, number):
        return torch.arange(number) % 3

    def build_model(self):
        self.model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 3)
        )
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

class Pixels(Base):
    def define_data_attr(self):
        self.input_spec = {"mode": "L", "output": "masks", "task": "binary"}

    def targets_of(self, number):
        return torch.ones(number, 1, 8, 8)

    def build_model(self):
        self.model = nn.Conv2d(1, 1, 1)
        self.criterion = nn.BCEWithLogitsLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

class Unsaid(Pixels):
    def define_data_attr(self):
        pass

if __name__ == "__main__":
    for kind in (Digits, Pixels, Unsaid):
        kind().train()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with runs of three trainers, whose live code is gone."""
    import os
    import subprocess
    import sys

    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("runs")
    (folder / "script.py").write_text(CODE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "script.py"], cwd=folder, env=environment, check=True)
    (folder / "script.py").unlink()
    return folder / "runs"


@pytest.fixture
def command(capsys):
    """Return a function that runs a command line in this process: status, output, errors."""

    def run(*arguments):
        status = main(list(map(str, arguments)))
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def run(trained, tmp_path):
    """Return a function that gives a copy of a run's folder."""
    import shutil

    return lambda name: Path(shutil.copytree(trained / name / "1", tmp_path / "runs" / name / "1"))


def pictures(folder, number=3, size=(8, 8)):
    generator = np.random.default_rng(0)
    for k in range(number):
        path = folder / ("inner" if k else "") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    return folder


def test_a_table_of_classes_is_what_the_trainer_predicts(command, run, tmp_path):
    folder = run("Digits")
    status, said, _ = command("predict", folder, pictures(tmp_path / "in"), "-o", tmp_path / "out.csv")
    assert status == 0 and "3 predictions" in said and "best.ckpt" in said
    trainer = launch.rebuild(folder)
    trainer.load_model(folder / "checkpoints" / "best.ckpt")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["file"] for row in rows] == [str(tmp_path / "in" / n) for n in ("0.png", "inner/1.png", "inner/2.png")]
    for row in rows:
        tensor = torch.from_numpy(np.asarray(Image.open(row["file"]))).float()[None, None] / 255
        expected = next(trainer.predict(tensor)).softmax(1)[0].numpy()
        assert [np.float32(row[name]) for name in "abc"] == list(expected)
        assert row["predicted"] == "abc"[expected.argmax()]


def test_masks_keep_folders_and_sizes_and_broken_files_are_named(command, run, tmp_path):
    given = pictures(tmp_path / "in", size=(9, 12))
    (given / "broken.png").write_bytes(b"hello")
    np.save(given / "batch.npy", np.random.default_rng(0).random((2, 1, 5, 5)))
    torch.save(torch.rand(1, 4, 6), given / "one.pt")
    torch.save(torch.nn.Linear(1, 1), given / "object.pt")
    folder = run("Pixels")
    status, said, errors = command("predict", folder, given)
    assert status == 1 and "6 predictions" in said
    assert errors.count("passed over") == 2 and "broken.png" in errors and "object.pt" in errors
    out = folder / "predictions"
    found = {str(p.relative_to(out)): np.asarray(Image.open(p)) for p in out.rglob("*.png")}
    assert sorted(found) == ["0.png", "batch-00000.png", "batch-00001.png", "inner/1.png", "inner/2.png", "one.png"]
    assert found["0.png"].shape == (9, 12) and found["one.png"].shape == (4, 6)
    assert set(np.unique(found["0.png"])) <= {0, 255}


def test_nothing_recorded(command, run, tmp_path):
    folder = run("Unsaid")
    status, _, errors = command("predict", folder, pictures(tmp_path / "in"))
    assert status == 2 and "self.input_spec = " in errors and len(errors.splitlines()) == 1
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2, 1, 5, 5), np.float32))
    status, _, errors = command("predict", folder, tmp_path / "a.npy", "-o", tmp_path / "out")
    assert status == 0
    trainer = launch.rebuild(folder)
    trainer.load_model(folder / "checkpoints" / "best.ckpt")
    expected = next(trainer.predict(torch.from_numpy(np.load(tmp_path / "a.npy"))[:1]))
    assert np.array_equal(np.load(tmp_path / "out" / "a-00000.npy"), expected[0].numpy())


@pytest.mark.parametrize("form", ["jit", "export", "onnx"])
def test_trace_and_predict_with_the_file(form, command, run, tmp_path):
    folder = run("Digits")
    status, said, errors = command("trace", folder, "--format", form)
    suffix = {"jit": ".pth", "export": ".pt2", "onnx": ".onnx"}[form]
    file = folder / "trace" / f"traced-best-forward{suffix}"
    assert status == 0 and file.is_file(), errors
    assert "batch of 1: " in said and "batch of 7: " in said and "within the tolerance" in said
    trainer = launch.rebuild(folder)
    trainer.load_model(folder / "checkpoints" / "best.ckpt")
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(load(file)[0](x), next(trainer.predict(x)))
    for source, out in ((folder, "a.csv"), (file, "b.csv")):
        assert command("predict", source, pictures(tmp_path / "in"), "-o", tmp_path / out)[0] == 0
    one, other = (list(csv.DictReader((tmp_path / name).open())) for name in ("a.csv", "b.csv"))
    for row, again in zip(one, other, strict=True):
        assert float(row["a"]) == pytest.approx(float(again["a"]), abs=1e-5)


def test_names_of_files_and_checkpoints(command, run, tmp_path):
    folder = run("Digits")
    names = {
        ("-c", "stage1.1"): "traced-stage1.1-forward.pth",
        ("-c", "second.2", "--mode", "train", "--with-grad"): "traced-second.2-forward-in_train-with_grad.pth",
        ("-c", "epoch-0002"): "traced-epoch-0002-forward.pth",
        ("-c", "last.ckpt"): "traced-last-forward.pth",
    }
    for options, name in names.items():
        status, said, errors = command("trace", folder, *options)
        assert status == 0 and (folder / "trace" / name).is_file(), said + errors
    first = load(folder / "trace" / "traced-stage1.1-forward.pth")[0].state_dict()
    other = load(folder / "trace" / "traced-epoch-0002-forward.pth")[0].state_dict()
    assert not torch.equal(first["4.bias"], other["4.bias"])
    status, _, _ = command("trace", folder, "--out-dir", tmp_path / "a", "--out-model", tmp_path / "b" / "c.pth")
    assert status == 0 and (tmp_path / "b" / "c.pth").is_file() and not (tmp_path / "a").exists()
    status, _, _ = command("trace", folder, "--out-dir", tmp_path / "a")
    assert status == 0 and (tmp_path / "a" / "traced-best-forward.pth").is_file()


def test_past_the_tolerance(command, run):
    folder = run("Digits")
    status, said, _ = command("quantize", folder, "--tolerance", "1e-9")
    assert status == 1 and "past the tolerance" in said
    assert [path.name for path in (folder / "trace").iterdir()] == ["quantized-best-forward.differs.pth"]


@pytest.mark.parametrize("form", ["jit", "onnx"])
def test_quantize(form, command, run):
    folder = run("Digits")
    status, said, errors = command("quantize", folder, "--format", form)
    assert status == 0, said + errors
    assert "bytes became" in said and "largest relative difference" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trace", "nowhere"), "nowhere is no folder of a run"),
        (("trace", "RUN", "-c", "beste"), "There are: "),
        (("trace", "RUN", "-c", "stage3.1"), "There are: "),
        (("trace", "RUN", "-c", "stage1.2"), "There are: "),
        (("trace", "RUN", "-c", "../../last"), "There are: "),
        (("trace", "RUN", "-m", "forwrd"), "Did you mean 'forward'"),
        (("trace", "RUN", "--mode", "test"), "expected one of eval, train"),
        (("trace", "RUN", "--format", "tflite"), "expected one of jit, export, onnx"),
        (("quantize", "RUN", "--format", "export"), "quantized are: jit, onnx"),
        (("predict", "RUN", "nothing.png"), "there is no file nothing.png"),
        (("predict", "RUN", "."), "no file to predict for"),
        (("predict", "RUN"), "inputs"),
        (("predict", "RUN/config.yaml", "RUN/input.json"), "ends with .yaml"),
        (("predict", "RUN", "RUN/input.json", "--batch-size", "0"), "batch-size"),
    ],
)
def test_mistakes_end_with_a_line(arguments, said, command, run):
    folder = run("Digits")
    Path("empty").mkdir()
    given = [text.replace("RUN", str(folder)) if text != "." else "empty" for text in arguments]
    status, _, errors = command(*given)
    assert status == 2 and said.lower() in errors.lower() and "Traceback" not in errors
