"""What comes in and goes out, as bytes; no server."""

import base64
import io
import json
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from farabio_like.errors import ConfigError
from farabio_like.serving import Answer, Predictor, RequestError, payloads, register_codec


def npy(array, **keywords):
    stream = io.BytesIO()
    np.save(stream, array, **keywords)
    return stream.getvalue()


def refused(function, *arguments):
    with pytest.raises(RequestError) as error:
        function(*arguments)
    return error.value.status, error.value.text


@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i4", "f2", "f4", ">f8", "?", "c8"])
def test_arrays_come_back_whatever_their_order(dtype):
    for array in (
        np.arange(24).reshape(2, 3, 4).astype(dtype),
        np.asfortranarray(np.ones((3, 2), dtype)),
        np.ones((), dtype),
    ):
        found = payloads.from_npy(npy(array))
        assert np.array_equal(found, array) and found.dtype == array.dtype.newbyteorder("=") and found.flags.writeable


def test_damaged_and_hostile_arrays_are_refused():
    good = npy(np.ones((2, 3), np.float32))
    huge = good.replace(b"(2, 3), }  ", b"(2000000000000, 3), }"[:11])
    for body in (b"", b"\x93NUMPY", good[:-1], good + b"\0", huge, b"GIF89a", good[:20]):
        assert refused(payloads.from_npy, body)[0] == 422
    assert refused(payloads.from_npy, npy(np.array([{}], object), allow_pickle=True))[1].startswith(
        "the array holds object"
    )
    assert refused(payloads.from_npy, npy(np.array(["a"])))[0] == 422
    assert refused(payloads.from_npy, npy(np.ones((10**9, 0))))[0] == 422
    claims = good.replace(b"(2, 3)", b"(9, 9)")
    assert refused(payloads.from_npy, claims) == (422, "the .npy says (9, 9) of float32, and 24 bytes follow")


def test_a_leading_axis_is_that_of_a_batch():
    one, batch = np.zeros((3, 4)), np.arange(24.0).reshape(2, 3, 4)
    samples, several = payloads.samples_of(batch, 2)
    assert several and len(samples) == 2 and np.array_equal(samples[1], batch[1])
    assert payloads.samples_of(one, 2)[1] is False
    assert len(payloads.samples_of(one, None)[0]) == 3
    assert refused(payloads.samples_of, np.zeros(3), 3) == (
        422,
        "the array has the shape (3,); expected 3 axes, or one more for a batch",
    )
    assert refused(payloads.samples_of, np.zeros(()), None)[0] == 422


def test_json_requests():
    assert payloads.from_json(b'{"inputs": [1, {"a": [2]}, null]}') == ([1, {"a": [2]}, None], True)
    assert payloads.from_json(json.dumps({"image": base64.b64encode(b"\x00\xff").decode()}).encode()) == (
        [b"\x00\xff"],
        False,
    )
    assert payloads.from_json(b'{"image": "data:image/png;base64,AAA="}') == ([b"\x00\x00"], False)
    for body in (
        b"",
        b"{",
        b"[]",
        b"1",
        b'{"inputs": []}',
        b'{"inputs": 1}',
        b'{"image": 1}',
        b'{"image": "*"}',
        b'{"inputs": [NaN]}',
        b'{"other": 1}',
        b'{"inputs": [1], "image": ""}',
        b"\xff\xfe",
        b"[" * 200_000,
    ):
        status, text = refused(payloads.from_json, body)
        assert status == 422 and "\n" not in text


def form(*files, boundary="xYz"):
    head = '--{}\r\nContent-Disposition: form-data; name="{}"; filename="a b.png"\r\nContent-Type: image/png\r\n\r\n'
    parts = [head.format(boundary, name).encode() + data + b"\r\n" for name, data in files]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f'multipart/form-data; boundary="{boundary}"'


def test_forms_give_the_bytes_of_their_files():
    numbers = random.Random(0)
    files = [numbers.randbytes(size) for size in (0, 1, 1000)] + [b"\r\n", b"--xY\r\n\r\n--", b"\r\n--xY"]
    assert payloads.from_multipart(*form(*(("file", data) for data in files))) == files
    array = np.arange(3.0)
    assert np.array_equal(payloads.from_multipart(*form(("file", npy(array))))[0], array)


def test_damaged_forms_are_refused():
    body, kind = form(("file", b"data"))
    assert refused(payloads.from_multipart, body[:-6], kind) == (422, "the form is cut short")
    assert refused(payloads.from_multipart, body, "multipart/form-data")[1].endswith("no boundary")
    assert refused(payloads.from_multipart, b"", kind)[0] == 422
    assert refused(payloads.from_multipart, b"--xYz--\r\n", kind) == (422, 'the form has no field "file"')
    assert "'image'" in refused(payloads.from_multipart, *form(("image", b"")))[1]


def test_answers_as_bytes():
    assert payloads.render({"a": np.float32(0.5), "b": torch.ones(2), "ü": None}) == (
        payloads.JSON,
        '{"a": 0.5, "b": [1.0, 1.0], "ü": null}'.encode(),
    )
    assert payloads.render(torch.eye(2)) == (payloads.JSON, b"[[1.0, 0.0], [0.0, 1.0]]")
    media_type, body = payloads.render(torch.eye(2, dtype=torch.bfloat16), as_npy=True)
    assert media_type == payloads.NPY and np.array_equal(np.load(io.BytesIO(body)), np.eye(2, dtype=np.float32))
    media_type, body = payloads.render(Image.new("L", (3, 2), 7))
    assert media_type == "image/png" and Image.open(io.BytesIO(body)).size == (3, 2)
    assert payloads.render(Answer(b"x", "text/x")) == ("text/x", b"x")
    assert payloads.render(b"x") == ("application/octet-stream", b"x")
    assert refused(payloads.render, np.array([np.nan]))[0] == 500
    with pytest.raises(TypeError, match="encode returned object"):
        payloads.render(object())


def test_answers_of_several_items_are_joined():
    rows = [payloads.render(np.full(2, n), as_npy=True) for n in range(3)]
    assert np.array_equal(np.load(io.BytesIO(payloads.joined(rows)[1])), [[0, 0], [1, 1], [2, 2]])
    ragged = [payloads.render(np.zeros(n), as_npy=True) for n in (1, 2)]
    assert payloads.joined(ragged) == (payloads.JSON, b'{"outputs": [[0.0], [0.0, 0.0]]}')
    picture = ("image/png", b"\x01")
    assert json.loads(payloads.joined([picture])[1]) == {"outputs": [{"media_type": "image/png", "base64": "AQ=="}]}


def test_a_codec_is_known_by_name():
    codec = register_codec("pairs", lambda pair: b"%d,%d" % pair, lambda data: tuple(map(int, data.split(b","))))
    try:
        assert payloads.codec_named("pairs").decode(codec.encode((1, 2))) == (1, 2)
        with pytest.raises(ConfigError, match="another codec has this name"):
            register_codec("pairs", bytes, bytes)
        assert refused(payloads.codec_named, "other") == (422, "there is no codec 'other' here")
    finally:
        payloads.forget_codec("pairs")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_every_mode_are_read(mode):
    stream = io.BytesIO()
    Image.new(mode, (5, 3)).save(stream, "TIFF" if mode in ("CMYK", "F") else "PNG")
    image = Predictor().read_image(stream.getvalue())
    assert image.size == (5, 3) and image.mode == mode


def test_what_is_no_picture_is_refused():
    predictor = Predictor()
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "PNG")
    good = stream.getvalue()
    assert refused(predictor.read_image, b"")[0] == 422
    assert refused(predictor.read_image, pickle.dumps([1]))[1].endswith("are no picture of a known format")
    assert refused(predictor.read_image, good[: len(good) // 2])[0] == 422
    assert refused(predictor.read_image, good[:200] + b"\xff" * 50 + good[250:])[0] == 422
    predictor.max_pixels = 4095
    assert refused(predictor.read_image, good) == (413, "the picture has 4096 pixels; 4095 are allowed")
    bomb = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(bomb, "PNG")
    assert refused(Predictor().read_image, bomb.getvalue())[0] == 413


def test_a_predictor_is_called_without_a_server():
    class Doubles(Predictor):
        def setup(self):
            self.factor = 2

        def decode(self, item):
            return int(item)

        def predict(self, inputs):
            return [self.factor * value for value in inputs][: self.most]

        most = None

    doubles = Doubles()
    assert doubles(["1", "2"]) == [2, 4]
    doubles.most = 1
    with pytest.raises(ConfigError, match="returned 1 outputs for 2 inputs"):
        doubles(["1", "2"])
    with pytest.raises(NotImplementedError, match="Predictor has no predict"):
        Predictor()([1])


@pytest.mark.parametrize("status", [200, 399, 600, "422", None])
def test_a_refusal_has_a_status_of_an_error(status):
    with pytest.raises(ConfigError, match="400 to 599"):
        RequestError(status, "no")
