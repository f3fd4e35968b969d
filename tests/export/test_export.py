"""`export`: files that run without the code, models of every kind of call, and what is refused."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import CheckpointError, ConfigError, DataError
from farabio_like.callbacks import EMA
from farabio_like.export import TrainedModel, export
from farabio_like.export.compare import difference
from farabio_like.export.formats import SUFFIXES, form_of, load
from farabio_like.models.segmentation import ResnetUnet
from tests.trainers import Tiny

FORMATS = ("jit", "export", "onnx")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 1, 8, 8, generator=GENERATOR)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def inference(self, x):
        return self(x).softmax(1)


class Several(nn.Module):
    """Two inputs, one by its name, and two outputs by theirs."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, parts, scale=None, sign=1):
        x = self.one(parts["x"])
        return {"sum": x + self.other(parts["y"]) * scale * sign, "first": [x]}


class Digits(Tiny):
    """Images, in place of the rows of `Tiny`."""

    def get_trainloader(self):
        data = TensorDataset(IMAGES, torch.tensor([0, 1, 2, 0]))
        self.train_loader = self.valid_loader = DataLoader(data, batch_size=4)

    def get_testloader(self):
        self.test_loader = self.valid_loader

    def build_model(self):
        self.model = Classifier()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", FORMATS)
def test_the_file_gives_what_the_trainer_predicts(form, folder):
    trainer = Digits()
    trainer.train()
    found = export(trainer, folder / "a", format=form)
    assert found.is_same and set(found.differences.by_size) == {1, 2, 4, 7}
    program, about = load(found.path, form)
    assert form == "onnx" or form_of(found.path) == form
    torch.testing.assert_close(program(IMAGES), next(trainer.predict(IMAGES)))
    assert about["class"] == "Digits" and about["shapes"] == [[1, 8, 8]] and about["format"] == form
    assert trainer.model.body[0].weight.requires_grad and trainer.model.training


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_runs_where_neither_library_nor_code_can_be_imported(form, folder):
    model = Classifier().eval()
    path = export(model, folder / "a.file", IMAGES, format=form).path
    torch.save({"images": IMAGES, "outputs": model(IMAGES).detach()}, folder / "expected.pt")
    run = {
        "jit": "module = torch.jit.load(path)",
        "export": "module = torch.export.load(path).module()",
        "onnx": textwrap.dedent(
            """
            import onnxruntime
            session = onnxruntime.InferenceSession(open(path, "rb").read())
            module = lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
            """
        ),
    }[form]
    script = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("farabio_like", "tests"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
import warnings
warnings.simplefilter("ignore")
import torch
path = sys.argv[1]
{run}
expected = torch.load("expected.pt")
assert not any(name.startswith(("farabio_like", "tests")) for name in sys.modules)
torch.testing.assert_close(module(expected["images"]), expected["outputs"])
try:
    import farabio_like
except ImportError:
    print("same")
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, cwd=folder)
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize("form", FORMATS)
def test_a_unet(form, folder):
    torch.manual_seed(0)
    model = ResnetUnet(num_classes=2, arch="resnet18", pretrained=False)
    found = export(model, folder / "a", torch.rand(2, 3, 32, 32), format=form)
    assert found.is_same and set(found.differences.by_size) == {1, 2, 7}


@pytest.mark.parametrize("form", FORMATS)
def test_several_inputs_and_outputs(form, folder):
    class Trainer(Tiny):
        def build_model(self):
            torch.manual_seed(0)
            self.model = Several()

        def forward(self):
            parts = {"x": self.inputs, "y": self.inputs[:, [0, 0, 1, 2]]}
            return self.model(parts, scale=self.inputs[:, :1], sign=-1)["sum"]

    trainer = Trainer()
    found = export(trainer, folder / "a", format=form)
    assert found.is_same and found.differences.by_size.keys() == {1, 2, 4, 7}
    program, about = load(found.path, form)
    assert about["inputs"] == ["0_x", "0_y", "scale"]
    x, y, scale = torch.rand(5, 3), torch.rand(5, 4), torch.rand(5, 1)
    expected = trainer.model({"x": x, "y": y}, scale=scale, sign=-1)
    given = program(x, y, scale)
    given = given["sum"] if isinstance(given, dict) else given[0]
    torch.testing.assert_close(given, expected["sum"].detach())
    (answer,) = TrainedModel.load(found.path.rename(folder / f"a{SUFFIXES[form]}")).predict([(x[0], y[0], scale[0])])
    assert set(answer) == {"sum", "first"} and np.allclose(answer["sum"], expected["sum"][0].detach(), atol=1e-6)


def test_several_models_are_put_together_as_forward_does(folder):
    class Both(Tiny):
        def build_model(self):
            torch.manual_seed(0)
            self.model = {"a": nn.Linear(3, 2), "b": nn.Linear(2, 1)}

        def forward(self):
            return self.model["b"](self.model["a"](self.inputs).relu())

    for form in FORMATS:
        trainer = Both()
        found = export(trainer, folder / "a", format=form)
        assert found.is_same
        x = torch.rand(5, 3)
        torch.testing.assert_close(load(found.path, form)[0](x), next(trainer.predict(x)))
    with pytest.raises(ConfigError, match="has several models"):
        export(trainer, folder / "a", method="inference")


@pytest.mark.parametrize("form", FORMATS)
def test_another_method(form, folder):
    model = Classifier().eval()
    path = export(model, folder / "a", IMAGES, format=form, method="inference").path
    torch.testing.assert_close(load(path, form)[0](IMAGES), model.inference(IMAGES).detach())


@pytest.mark.parametrize("form", ["jit", "export"])
def test_train_mode_draws_and_batch_norm_takes_no_single_sample(form, folder):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    before = model[2].running_mean.clone()
    found = export(model, folder / "a", IMAGES, format=form, mode="train", with_grad=True)
    assert found.is_same and list(found.differences.left_out) == [1]
    assert torch.equal(model[2].running_mean, before)
    program, _ = load(found.path, form)
    assert torch.equal(dict(program.named_buffers())["2.running_mean"], before)
    assert not torch.equal(program(IMAGES), program(IMAGES))
    program(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in program.parameters())


def test_without_grad_nothing_is_trainable(folder):
    program, _ = load(export(Classifier(), folder / "a.pth", IMAGES).path)
    assert not any(parameter.requires_grad for parameter in program.parameters())
    assert list(program.state_dict()) == list(Classifier().state_dict())


def test_averages_are_exported_where_the_trainer_predicts_with_them(folder):
    trainer = Digits()
    trainer.callbacks = [EMA(decay=0.5)]
    trainer.train()
    raw = trainer.model.eval()(IMAGES).detach()
    program, _ = load(export(trainer, folder / "a.pth").path)
    torch.testing.assert_close(program(IMAGES), next(trainer.predict(IMAGES)))
    assert not torch.allclose(program(IMAGES), raw)


@pytest.mark.parametrize("settings", [{"_channels_last": True}, {"_precision": "bf16"}, {"_data_parallel": True}])
def test_wrappers_and_formats_of_training_do_not_matter(settings, folder):
    trainer = Digits(settings)
    trainer.train()
    found = export(trainer, folder / "a.pth")
    program, _ = load(found.path)
    assert found.is_same and "head.weight" in program.state_dict()
    inner = trainer.model.module if isinstance(trainer.model, nn.DataParallel) else trainer.model
    with torch.no_grad():
        torch.testing.assert_close(program(IMAGES), inner.eval()(IMAGES))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapped_module(wrap, folder):
    model = Classifier().eval()
    program, _ = load(export(wrap(model), folder / "a.pth", IMAGES).path)
    torch.testing.assert_close(program(IMAGES), model(IMAGES).detach())


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(4, -1) + torch.arange(len(x)).sum().item()


class FixedSum(nn.Module):
    """Right for the batch that is traced, wrong for others."""

    def forward(self, x):
        return x * float(len(x))


def test_a_file_that_differs_says_so_in_its_name(folder):
    found = export(FixedSum(), folder / "a.pth", IMAGES)
    assert not found.is_same and found.path == folder / "a.differs.pth" and found.path.is_file()
    assert found.differences.by_size[4] == 0 and found.differences.by_size[2] == pytest.approx(1)
    found = export(FixedBatch(), folder / "b.pth", IMAGES)
    assert not found.is_same and set(found.differences.left_out) == {1, 2, 7} - {1, 2, 7} or found.differences.problems
    assert sorted(path.name for path in folder.iterdir()) == ["a.differs.pth", "b.differs.pth"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "tflite"}, "expected one of jit, export, onnx"),
        ({"format": "onxn"}, "Did you mean 'onnx'"),
        ({"mode": "evla"}, "Did you mean 'eval'"),
        ({"method": "inferenc"}, "Did you mean 'inference'"),
        ({"tolerance": -1}, "from 0 on"),
        ({"tolerance": float("nan")}, "from 0 on"),
        ({"format": "onnx", "mode": "train"}, "for inference"),
        ({"format": "onnx", "with_grad": True}, "for inference"),
        ({"batch": None}, "needs a batch"),
    ],
)
def test_what_is_not_allowed(options, said, folder):
    with pytest.raises(ConfigError, match=said):
        export(Classifier(), folder / "a", **{"batch": IMAGES, **options})
    assert not list(folder.iterdir())


def test_batches_that_do_not_do(folder):
    with pytest.raises(DataError, match="1 sample; expected 2 or more"):
        export(Classifier(), folder / "a", IMAGES[:1])
    with pytest.raises(DataError, match="no tensor with a batch axis"):
        export(Classifier(), folder / "a", {"a": 1})
    with pytest.raises(ConfigError, match=r"Classifier\.forward does not take the batch"):
        export(Classifier(), folder / "a", torch.rand(2, 5))
    with pytest.raises(ConfigError, match="expected a trainer or a module"):
        export("model", folder / "a", IMAGES)


def test_a_trainer_whose_loaders_give_one_sample_each(folder):
    class Single(Tiny):
        def get_trainloader(self):
            self.train_loader = self.valid_loader = [(torch.rand(1, 3), torch.rand(1, 1))] * 3

        def get_testloader(self):
            pass

    with pytest.raises(DataError, match="fewer than 2 samples"):
        export(Single(), folder / "a")


def test_damaged_files(folder):
    path = export(Classifier(), folder / "a.pth", IMAGES).path
    (folder / "cut.pth").write_bytes(path.read_bytes()[:500])
    torch.save(Classifier().state_dict(), folder / "weights.pth")
    (folder / "a.txt").write_text("hello")
    (folder / "b.onnx").write_bytes(b"\x08\x08hello")
    for name, said in (("cut.pth", "cannot be read"), ("weights.pth", "weights alone"), ("a.txt", "ends with .txt")):
        with pytest.raises(CheckpointError, match=said):
            load(folder / name)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder / "b.onnx")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(folder / "c.pth")


def test_differences():
    one = torch.tensor([1.0, 2.0, float("nan"), float("inf")])
    other = torch.tensor([1.0, 2.5, float("nan"), float("inf")])
    assert difference([one], [other]) == pytest.approx(0.2)
    assert difference([one], [one.clone()]) == 0
    assert np.isnan(difference([one], [one[:2]])) and np.isnan(difference([one.long()], [one]))
    assert difference([one], [torch.zeros(4)]) == float("inf")
    assert json.dumps(difference([], [])) == "0.0"


def test_a_model_that_is_not_called_is_no_part_of_the_file(folder):
    class Adversarial(Tiny):
        def build_model(self):
            self.model = {"generator": nn.Linear(3, 2), "discriminator": nn.Linear(2, 1)}

        def forward(self):
            return self.model["generator"](self.inputs)

    program, _ = load(export(Adversarial(), folder / "a.pth").path)
    assert [tuple(parameter.shape) for parameter in program.parameters()] == [(2, 3), (2,)]
