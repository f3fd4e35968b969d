"""The model of a trainer as a predictor: what each kind of request becomes, and what is answered."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from farabio_like.export import TrainedModel
from farabio_like.serving import RequestError
from farabio_like.serving.model import ModelPredictor
from farabio_like.trainers import ClassificationTrainer, SegmentationTrainer

QUIET = {"device": "cpu", "logdir": None, "verbose": False, "num_epochs": 1}


def predictor_of(trainer, monkeypatch, tmp_path):
    model = TrainedModel.of(trainer)
    monkeypatch.setattr(TrainedModel, "load", lambda *_: model)  # so that no run has to be made for it
    found = ModelPredictor(tmp_path)
    found.setup()
    found._is_set_up = True
    return found, model


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def classes(monkeypatch, tmp_path):
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6) % 3)
    parts = {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "train": data, "valid": data}
    trainer = ClassificationTrainer(**parts, classes=["a", "b", "c"], input_spec={"mode": "L", "size": 8}, **QUIET)
    return predictor_of(trainer, monkeypatch, tmp_path)


def test_a_picture_an_array_and_numbers_are_one_input(classes):
    predictor, model = classes
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    expected = model.predict([model.prepare(png(pixels))])
    assert (predictor.array_axes, predictor.takes_pixels) == (3, True)
    assert predictor([png(pixels)]) == predictor([pixels]) == expected
    tensor = model.prepare(png(pixels)).value
    assert predictor([tensor.numpy()]) == predictor([tensor.tolist()]) == expected


@pytest.mark.parametrize(
    "item", [b"junk", "word", [[1, 2], [3]], [1.0, 2.0], None, {"a": [1.0]}, np.zeros((3, 3, 3, 3)), [], [["a"]]]
)
def test_what_is_no_input_is_refused(classes, item):
    predictor, _ = classes
    with pytest.raises(RequestError) as error:
        predictor([item])
    assert error.value.status == 422 and "\n" not in error.value.text


def test_pictures_beyond_the_limit_are_refused_before_they_are_decoded(classes):
    predictor, _ = classes
    predictor.max_pixels = 63
    with pytest.raises(RequestError, match="the picture has 64 pixels; 63 are allowed"):
        predictor([png(np.zeros((8, 8), np.uint8))])


def test_masks_are_pictures_of_the_size_that_came(monkeypatch, tmp_path):
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(4, 3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.long))
    parts = {"model": nn.Conv2d(3, 2, 1), "classes": 2, "train": data, "valid": data}
    trainer = SegmentationTrainer(**parts, input_spec={"mode": "RGB", "size": [8, 8]}, **QUIET)
    predictor, model = predictor_of(trainer, monkeypatch, tmp_path)
    picture = png(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    (mask,) = predictor([picture])
    (expected,) = model.predict([model.prepare(picture)])
    assert mask.mode == "L" and mask.size == (30, 20) and np.array_equal(np.asarray(mask), expected)
