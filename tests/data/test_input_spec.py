"""`InputSpec` and `OutputSpec`: pictures of every kind as inputs, outputs as answers, and what is refused."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from farabio_like import ConfigError, DataError
from farabio_like.data import read_image
from farabio_like.data.input_spec import InputSpec
from farabio_like.data.output_spec import Description, OutputSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def saved(folder, image, name="a.png", **options):
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_of_a_picture_becomes_every_mode_of_an_input(mode, tmp_path):
    if mode in ("I;16", "F"):
        picture = Image.fromarray(PIXELS[..., 0].astype(np.uint16 if mode == "I;16" else np.float32) * 200)
    else:
        picture = Image.fromarray(PIXELS).convert(mode)
    path = saved(tmp_path, picture, "a.tif")
    for asked, channels in (("L", 1), ("F", 1), ("RGB", 3)):
        found = InputSpec(mode=asked).prepare(path)
        assert found.shape == (channels, 9, 13) and found.dtype == torch.float32
        as_read = read_image(path)
        if len(as_read) == channels:
            assert torch.equal(found, as_read)
        elif len(as_read) == 1:
            assert torch.equal(found, as_read.expand(3, -1, -1))
    if mode == "RGB":
        grey = np.asarray(picture.convert("L"))
        assert torch.equal(InputSpec(mode="L").prepare(path)[0], torch.from_numpy(grey) / 255)


def test_path_bytes_file_picture_and_array_give_the_same(tmp_path):
    path, spec = saved(tmp_path, Image.fromarray(PIXELS)), InputSpec(mode="RGB", size=6, mean=0.5, std=[1, 2, 3])
    expected = spec.prepare(path)
    for given in (str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path), PIXELS):
        assert torch.equal(spec.prepare(given), expected)
    np.save(tmp_path / "a.npy", PIXELS)
    assert torch.equal(spec.prepare(tmp_path / "a.npy"), expected)


def test_a_photograph_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(PIXELS), exif=exif)
    assert InputSpec(mode="RGB").prepare(path).shape == (3, 13, 9)


def test_numbers_of_scale_mean_and_std():
    pixels = np.array([[0, 8], [16, 4]], np.uint8)
    spec = InputSpec(mode="L", scale=16, mean=0.5, std=0.25)
    assert spec.prepare(pixels).tolist() == [[[-2, 0], [2, -1]]]
    assert InputSpec(mode="L", scale=1).prepare(pixels).tolist() == [pixels.tolist()]


def test_pad_keeps_proportions_and_restore_undoes_it():
    spec = InputSpec(mode="L", size=(8, 8), fit="pad", interpolation="nearest")
    picture = np.full((4, 16), 255, np.uint8)
    found = spec.prepare(picture)[0]
    assert found[:2].eq(1).all() and found[2:].eq(0).all()
    assert (spec.restore(found.byte().numpy(), (4, 16)) == 1).all()
    assert spec.restore(found.byte().numpy(), (4, 16)).shape == (4, 16)
    stretched = InputSpec(mode="L", size=(8, 8))
    assert stretched.restore(np.eye(8, dtype=np.int32) * 300, (16, 16)).max() == 300


def test_crop_covers_and_takes_the_middle():
    picture = np.zeros((4, 8), np.uint8)
    picture[:, 2:6] = 255
    assert InputSpec(mode="L", size=4, fit="crop").prepare(picture).eq(1).all()
    assert InputSpec(mode="L", size=4, fit="crop", shorter=6).prepare(np.zeros((40, 9), np.uint8)).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"size": 8}, 'no mode.*Write self.input_spec = {"size"'),
        ({"mode": "l"}, "expected one of L, F, RGB"),
        ({"mode": ["L"]}, "expected one of"),
        ({"mode": "L", "siez": 8}, "Did you mean 'size'"),
        ({"mode": "L", "size": [8]}, "expected height and width"),
        ({"mode": "L", "size": 0}, "expected height and width"),
        ({"mode": "L", "size": "88"}, "expected height and width"),
        ({"mode": "L", "size": True}, "expected height and width"),
        ({"mode": "L", "scale": 1 / 255}, '"scale": 255'),
        ({"mode": "L", "scale": float("nan")}, "above 0"),
        ({"mode": "RGB", "mean": [0.1, 0.2]}, "expected 3"),
        ({"mode": "L", "std": 0}, "other than 0"),
        ({"mode": "L", "fit": "pad"}, "needs a size"),
        ({"mode": "L", "size": 8, "fit": "crop", "shorter": 7}, "no fewer than size"),
        ({"mode": "L", "fit": "stretch"}, "expected one of resize, pad, crop"),
        ("L", "expected a dict"),
        ({"mode": "L", "classes": "ab"}, "expected their names"),
        ({"mode": "L", "classes": ["a", "a"]}, "each name once"),
        ({"mode": "L", "classes": ["a", "b"], "thresholds": 0.5}, "takes the most probable"),
        ({"mode": "L", "classes": ["a", "b"], "task": "multilabel", "thresholds": [0.5] * 3}, "3 thresholds for 2"),
        ({"mode": "L", "classes": ["a"], "thresholds": 2}, "above 0 and below 1"),
        ({"output": "class"}, "Did you mean 'classes'"),
    ],
)
def test_what_is_not_allowed(spec, said):
    with pytest.raises(ConfigError, match=said):
        Description.of(spec)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "list", "channels", "nan"])
def test_what_is_no_picture(damage, tmp_path):
    whole = saved(tmp_path, Image.fromarray(PIXELS)).read_bytes()
    given = {
        "cut": whole[:100],
        "text": b"hello",
        "empty": b"",
        "list": [[1, 2]],
        "channels": np.zeros((4, 4, 7), np.uint8),
        "nan": np.full((4, 4), np.nan),
    }[damage]
    with pytest.raises(DataError) as error:
        InputSpec(mode="L").prepare(given)
    assert "0x" not in str(error.value)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("L", (3000, 3000)))
    for given in (path, path.read_bytes(), Image.open(path), np.zeros((3000, 3000), np.uint8)):
        with pytest.raises(DataError, match="9,000,000 pixels; expected 1,000,000 at most"):
            InputSpec(mode="L").prepare(given, most_pixels=1_000_000)


def test_plain_data_and_back():
    spec = {"size": [8, 8], "mode": "RGB", "mean": 0.5, "classes": ["a", "b"], "task": "multilabel", "thresholds": 0.25}
    described = Description.of(spec)
    assert Description.from_dict(json.loads(json.dumps(described.to_dict()))) == described
    assert Description.from_dict({"output": "arrays"}).input is None
    for damaged in ([], {"output": 3}, {"input": 5}, {"classes": [1]}, {"classes": {"nams": []}}, {"output": ["a"]}):
        with pytest.raises(ConfigError):
            Description.from_dict(damaged)


def test_answers_of_classes():
    spec = OutputSpec(classes=["a", "b"])
    probabilities = spec.activated(torch.tensor([[1.0, 3.0]]))
    found = spec.answer(probabilities[0])
    assert found["class"] == "b" and found["probability"] == found["probabilities"]["b"]
    assert np.float32(found["probability"]) == probabilities[0, 1].numpy()
    both = OutputSpec(classes=["a", "b"], task="multilabel", thresholds=[0.9, 0.1])
    assert both.answer(both.activated(torch.tensor([[1.0, -1.0]]))[0])["classes"] == ["b"]
    one = OutputSpec(classes=["no", "yes"], task="binary", thresholds=0.7)
    assert [one.answer(torch.tensor([p]))["class"] for p in (0.6, 0.8)] == ["no", "yes"]
    assert one.answer(torch.tensor([0.25]))["probability"] == 0.75
    with pytest.raises(DataError, match="3 numbers for 2 classes"):
        spec.answer(torch.ones(3))
    with pytest.raises(DataError, match="expected a probability"):
        spec.answer(torch.ones(2, 2))


def test_answers_of_pixels():
    logits = torch.tensor([[[2.0, -1.0]], [[1.0, 1.0]]])
    assert OutputSpec(output="masks", classes=["a", "b"]).answer(logits).tolist() == [[0, 1]]
    assert OutputSpec(output="masks", task="binary").answer(logits[:1]).tolist() == [[1, 0]]
    strict = OutputSpec(output="masks", task="multilabel", classes=["a", "b"], thresholds=[0.95, 0.6])
    assert strict.answer(logits).tolist() == [[[0, 0]], [[1, 1]]]
    assert OutputSpec(output="images").answer(logits).tolist() == [[[1, 0]], [[1, 1]]]
    found = OutputSpec().answer({"a": logits, "b": (logits, 3)})
    assert found["a"].dtype == np.float32 and found["b"][1] == 3


def test_multiplied_as_torchvision_does_it():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    chain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)])
    spec = InputSpec(mode="RGB", scaling="multiply", mean=0.5, std=0.2)
    assert torch.equal(spec.prepare(PIXELS), chain(Image.fromarray(PIXELS)).as_subclass(torch.Tensor))
