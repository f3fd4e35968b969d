"""`TrainedModel`: the same inputs and answers from a trainer, a run's folder and exported files."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from farabio_like import ConfigError, DataError
from farabio_like.data import ImageMaskFolder
from farabio_like.export import Sample, TrainedModel, export
from farabio_like.trainers import ClassificationTrainer, SegmentationTrainer
from tests.trainers import Tiny

QUIET = {"device": "cpu", "logdir": None, "verbose": False, "num_epochs": 1}
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
SPEC = {"mode": "L", "size": 8, "mean": 0.5, "std": 0.25}


def classifier(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


def trainer_of_classes(config=None, **options):
    data = TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6) % 3)
    given = {**QUIET, "classes": ["a", "b", "c"], "train": data, "valid": data, "input_spec": SPEC, **options}
    return ClassificationTrainer(config, model=classifier, **given)


@pytest.mark.parametrize("form", [None, "jit", "export", "onnx"])
def test_a_png_is_what_the_trainer_predicts_for_its_tensor(form, tmp_path):
    trainer = trainer_of_classes()
    if form is None:
        model = TrainedModel.of(trainer)
    else:
        model = TrainedModel.load(export(trainer, tmp_path / f"a{SUFFIXES[form]}", format=form).path)
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    tensor = (torch.from_numpy(PIXELS[0]).float()[None] / 255 - 0.5) / 0.25
    assert torch.equal(model.prepare(tmp_path / "a.png").value, tensor)
    expected = next(trainer.predict(tensor[None]))[0]
    (found,) = model.predictions([model.prepare(tmp_path / "a.png")])
    assert torch.equal(found, expected) if form is None else torch.allclose(found, expected, atol=1e-6)
    (answer,) = model.predict([model.prepare((tmp_path / "a.png").read_bytes())])
    assert answer["class"] == "abc"[int(expected.argmax())] and model.kind == "classes"
    if form is None:
        assert [np.float32(p) for p in answer["probabilities"].values()] == expected.tolist()


SUFFIXES = {"jit": ".pth", "export": ".pt2", "onnx": ".onnx"}


def test_arrays_are_pixels_or_inputs():
    model = TrainedModel.of(trainer_of_classes())
    one = model.prepare(PIXELS[0]).value
    for pixels in (PIXELS, np.repeat(PIXELS[..., None], 3, -1)):
        found = model.samples(pixels)
        assert len(found) == 5 and torch.equal(found[0].value, one) and found[0].size == (8, 8)
    assert torch.equal(model.samples(PIXELS[0])[0].value, one)
    assert torch.equal(model.samples(torch.from_numpy(PIXELS[:1]))[0].value, one)
    assert torch.equal(model.samples(torch.from_numpy(PIXELS[:, None]))[0].value, one)
    colours = TrainedModel.of(trainer_of_classes(input_spec={"mode": "RGB", "size": 8}))
    with pytest.raises(DataError, match="like channels x height"):
        colours.samples(np.zeros((3, 8, 8), np.uint8))
    assert colours.samples(torch.zeros(3, 8, 8, dtype=torch.uint8))[0].value.shape == (3, 8, 8)
    batch = np.random.default_rng(0).random((4, 1, 8, 8))
    found = model.samples(batch)
    assert len(found) == 4 and found[0].value.dtype == torch.float32
    assert len(model.samples(batch[0].tolist())) == 1
    assert len(model.predict(found)) == 4
    with pytest.raises(DataError, match="expected that of an input"):
        model.samples(batch[0, 0])
    with pytest.raises(DataError, match="does not take inputs of the shape"):
        model.predict([torch.rand(1, 9, 9)])
    with pytest.raises(DataError, match="no numbers"):
        model.samples(np.array(["a"]))


def test_inputs_of_several_shapes_come_back_in_order():
    data = TensorDataset(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    trainer = SegmentationTrainer(model=nn.Conv2d(1, 1, 1), train=data, valid=data, **QUIET)
    model = TrainedModel.of(trainer)
    given = [torch.rand(1, size, size + 1) for size in (4, 4, 6, 4)]
    for found, one in zip(model.predictions(given), given, strict=True):
        assert torch.equal(found, next(trainer.predict(one[None]))[0])


def test_nothing_recorded_is_refused_with_the_line_to_write(tmp_path):
    model = TrainedModel.of(Tiny())
    with pytest.raises(ConfigError, match=r'Tiny does not say.*self\.input_spec = \{"size".*def prepare_input'):
        model.prepare(PIXELS[0])
    assert [answer.shape for answer in model.predict(model.samples(np.ones((2, 3))))] == [(1,), (1,)]
    assert len(model.samples([1, 2, 3])) == 1
    path = export(Tiny(), tmp_path / "a.pth").path
    of_file = TrainedModel.load(path)
    with pytest.raises(ConfigError, match="Tiny does not say"):
        of_file.prepare(PIXELS[0])
    assert len(of_file.predict(of_file.samples(np.ones((2, 3))))) == 2


def test_a_method_of_ones_own():
    class Own(Tiny):
        def prepare_input(self, image):
            return torch.tensor([float(image.size[0]), float(image.size[1]), 1.0])

    model = TrainedModel.of(Own())
    found = model.prepare(np.zeros((4, 7), np.uint8))
    assert found.value.tolist() == [7, 4, 1] and found.size == (4, 7)
    assert len(model.samples(np.zeros((2, 4, 7), np.uint8))) == 2


def test_masks_have_the_size_of_their_picture(tmp_path):
    data = TensorDataset(torch.rand(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.long))
    spec = {"mode": "RGB", "size": [8, 8]}
    parts = {"model": nn.Conv2d(3, 2, 1), "classes": 2, "train": data, "valid": data, "input_spec": spec}
    trainer = SegmentationTrainer(**parts, **QUIET)
    for model in (TrainedModel.of(trainer), TrainedModel.load(export(trainer, tmp_path / "a.pth").path)):
        (mask,) = model.predict([model.prepare(np.zeros((20, 30, 3), np.uint8))])
        assert mask.shape == (20, 30) and mask.dtype == np.uint8 and model.kind == "masks"
        (mask,) = model.predict([Sample(torch.rand(3, 8, 8))])
        assert mask.shape == (8, 8)


def test_a_segmentation_records_how_its_folder_reads(tmp_path):
    for folder, shape in (("images", (8, 8, 3)), ("masks", (8, 8))):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.fromarray(np.full(shape, number % 2 * 255, np.uint8)).save(tmp_path / folder / f"{number}.png")
    data = ImageMaskFolder(tmp_path / "images", tmp_path / "masks")
    options = {**QUIET, "logdir": str(tmp_path / "runs")}
    trainer = SegmentationTrainer(model=nn.Conv2d(3, 1, 1), train=data, valid=data, **options)
    trainer.train()
    assert trainer.input_spec == {"mode": "RGB", "output": "masks", "classes": ["0"], "task": "binary"}
    assert '"mode": "RGB"' in (trainer.run_dir / "input.json").read_text()
    model = TrainedModel.of(trainer)
    found = model.predictions([model.prepare(tmp_path / "images" / "1.png")])[0]
    assert torch.equal(found, next(trainer.predict(data[1][0][None]))[0])


def test_the_configuration_may_say_it(tmp_path):
    assert trainer_of_classes(config={"input_spec": SPEC}, input_spec=None).input_spec["mode"] == "L"

    class Configured(Tiny):
        def define_data_attr(self):
            self.input_spec = self.config.spec

    trainer = Configured({"spec": {"mode": "L", "size": [1, 3]}, "_logdir": str(tmp_path)})
    trainer.train()
    assert TrainedModel.of(trainer).prepare(PIXELS[0]).value.shape == (1, 1, 3)


def test_a_mistake_in_the_description_ends_the_run_before_it_begins(tmp_path):
    trainer = trainer_of_classes(input_spec={"mode": "grey"}, logdir=str(tmp_path))
    with pytest.raises(ConfigError, match="mode='grey'"):
        trainer.train()


def test_what_torchvision_does_is_known_where_it_is_the_same_to_the_last_bit(tmp_path):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    from torchvision import datasets, transforms

    from farabio_like.data.input_spec import InputSpec
    from farabio_like.trainers.preparation import known_input

    for name in "ab":
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (40, 53, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    numbers = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    whole = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    known = [
        [transforms.Resize(32), transforms.CenterCrop(24), transforms.ToTensor(), transforms.Normalize(*numbers)],
        [transforms.Resize((20, 30), transforms.InterpolationMode.BICUBIC), transforms.ToTensor()],
        [v2.RandomHorizontalFlip(0), v2.Resize((20, 30)), *whole, v2.Normalize(*numbers)],
        [v2.Grayscale(), v2.Resize((20, 30)), *whole],
    ]
    for steps in known:
        data = datasets.ImageFolder(tmp_path, transform=transforms.Compose(steps))
        spec = InputSpec.from_dict(known_input([data]))
        assert torch.equal(spec.prepare(data.samples[0][0]), data[0][0].as_subclass(torch.Tensor)), spec
    unknown = [[v2.ToImage(), v2.Resize(9)], [*whole, v2.Resize(9)], [transforms.Resize(9)], [lambda x: x], whole[:1]]
    for steps in unknown:
        assert known_input([datasets.ImageFolder(tmp_path, transform=transforms.Compose(steps))]) == {}
