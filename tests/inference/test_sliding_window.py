"""`sliding_window`: means computed by hand, any size, any output, slab by slab, files in and out."""

import collections
import io
import itertools
import re
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import farabio_like.inference.windows
from farabio_like.errors import ConfigError, DataError, HookError
from farabio_like.inference import sliding_window

Pair = collections.namedtuple("Pair", ["mask", "edge"])


def first_pixel(windows):
    """Give every pixel of a window its first pixel: every window is known by its value."""
    first = windows.flatten(2)[:, :, 0]
    return first.reshape(*first.shape, *[1] * (windows.ndim - 2)).expand(windows.shape)


def sums_and_largest(windows):
    """Give two channels that depend on all of a window."""
    largest = windows.amax(dim=tuple(range(1, windows.ndim)), keepdim=True)
    return torch.cat([windows.flatten(2).cumsum(2).reshape(windows.shape), largest.expand(windows.shape)], 1)


def mean_of_windows(function, image, starts, window, weight):
    """Return the weighted mean, window by window and in float64, for windows inside of the image."""
    total, weights = 0, torch.zeros(image.shape[2:], dtype=torch.float64)
    for place in itertools.product(*starts):
        region = tuple(slice(start, start + extent) for start, extent in zip(place, window, strict=True))
        output = function(image[(slice(None), slice(None), *region)]).double()
        part = torch.zeros(*output.shape[:2], *image.shape[2:], dtype=torch.float64)
        part[(slice(None), slice(None), *region)] = output * weight
        total = total + part
        weights[region] += weight
    return total / weights


# ---------------------------------------------------------------------------- values


def test_constant_mean_of_windows_that_do_not_fit_by_hand():
    image = torch.arange(9.0).reshape(1, 1, 1, 9)
    result = sliding_window(first_pixel, image, (1, 4), overlap=0.5, blend="constant")
    # Windows start at 0, 2, 4 and 5, and each has its start as value.
    expected = [0, 0, (0 + 2) / 2, (0 + 2) / 2, (2 + 4) / 2, (2 + 4 + 5) / 3, (4 + 5) / 2, (4 + 5) / 2, 5]
    assert result.shape == image.shape
    assert result.flatten().tolist() == pytest.approx(expected)


def test_gaussian_mean_by_hand():
    image = torch.arange(6.0).reshape(1, 1, 6, 1)
    result = sliding_window(first_pixel, image, (4, 1), overlap=0.5)
    near, far = np.exp(-((0.5 / 0.5) ** 2) / 2), np.exp(-((1.5 / 0.5) ** 2) / 2)  # of 4 pixels; the deviation is 0.5
    assert result.flatten().tolist() == pytest.approx(
        [0, 0, 2 * far / (near + far), 2 * near / (near + far), 2, 2], rel=1e-6
    )


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_a_network_with_context_equals_the_mean_of_its_windows(blend):
    model = nn.Conv2d(2, 3, 5, padding=2)
    image = torch.randn(2, 2, 33, 47)
    weight = farabio_like.inference.windows.importance_map((16, 20), blend)
    starts = [0, 12, 17], [0, 15, 27]
    with torch.no_grad():
        expected = mean_of_windows(model, image, starts, (16, 20), weight)
    result = sliding_window(model, image, (16, 20), blend=blend)
    torch.testing.assert_close(result, expected.float(), rtol=1e-5, atol=1e-6)


# By MONAI 1.6.1, sliding_window_inference of `sums_and_largest` over sin(arange) in float64: every so-manieth value,
# the sum, the sum of squares.
MONAI = {
    ((11, 13), (5, 6), 0.4, "gaussian"): (
        [0.0, 2.006985, -2.132028, 0.190752, 0.999743, 0.9985, 0.994827],
        [116.52659, 434.48719],
    ),
    ((11, 13), (5, 6), 0.4, "constant"): (
        [0.0, 0.966325, -1.064895, 0.190752, 0.996881, 0.992721, 0.994827],
        [116.79783, 315.9376],
    ),
    ((3, 20), (8, 8), 0.25, "gaussian"): (
        [0.0, 1.466678, 2.874379, 0.956376, 0.956376, 0.956376],
        [127.27628, 181.66695],
    ),
    ((3, 20), (8, 8), 0.25, "constant"): (
        [0.0, 1.466678, 2.874379, 0.956376, 0.956376, 0.956376],
        [127.27628, 182.40023],
    ),
    ((7, 9, 10), (4, 5, 12), 0.5, "gaussian"): (
        [0.0, 0.443291, -1.997634, 0.999912, 0.999926, 0.999912],
        [651.0753, 1322.71012],
    ),
    ((7, 9, 10), (4, 5, 12), 0.5, "constant"): (
        [0.0, 0.473594, -1.881347, 0.999912, 0.999932, 0.999912],
        [653.91981, 1267.85257],
    ),
}


@pytest.mark.parametrize(("case", "expected"), list(MONAI.items()))
def test_values_are_those_of_an_independent_library(case, expected):
    size, window, overlap, blend = case
    image = torch.sin(torch.arange(np.prod(size), dtype=torch.float64)).reshape(1, 1, *size)
    result = sliding_window(sums_and_largest, image, window, overlap, blend)
    values = result.flatten()
    assert result.dtype == torch.float64
    assert values[:: len(values) // 6].tolist() == pytest.approx(expected[0], abs=2e-6)
    assert [values.sum().item(), (values**2).sum().item()] == pytest.approx(expected[1], rel=1e-6)


@pytest.mark.parametrize("size", [(250, 250), (33, 47), (10, 100), (9, 9), (1, 1), (20, 33, 18), (5, 40, 3), (1, 1, 1)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.6])
def test_exact_for_a_network_without_context(size, overlap):
    model = (nn.Conv2d if len(size) == 2 else nn.Conv3d)(3, 2, kernel_size=1)
    image = torch.randn(2, 3, *size)
    result = sliding_window(model, image, window=16, overlap=overlap)
    torch.testing.assert_close(result, model(image).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0, 0.1, 0.5, 0.75])
def test_weights_sum_to_one(blend, overlap):
    for size in [(61, 40), (20, 31, 23)]:
        result = sliding_window(torch.ones_like, torch.zeros(1, 1, *size), 16, overlap, blend)
        torch.testing.assert_close(result, torch.ones(1, 1, *size), rtol=2e-6, atol=0)


def test_no_seams():
    image = torch.zeros(1, 1, 32, 128)
    image[..., 24::48] = 1  # windows begin at every 24th pixel: one gives 0, the next one 1
    rows = {blend: sliding_window(first_pixel, image, 32, 0.25, blend)[0, 0, 16] for blend in ("constant", "gaussian")}
    steps = {blend: row.diff().abs() for blend, row in rows.items()}
    assert steps["constant"][23].item() == pytest.approx(0.5)
    # The second window begins with hardly any weight, and takes over in the middle between the two.
    assert steps["gaussian"][23].item() < 0.01
    assert steps["gaussian"].argmax().item() == 27 and rows["gaussian"][24:32].diff().min() > 0


@pytest.mark.parametrize("size", [(50, 61), (20, 31, 17)])
def test_no_window_is_skipped_and_only_the_last_batch_is_smaller(size):
    numbers = torch.arange(2.0 * np.prod(size)).reshape(2, 1, *size)
    batches = []

    def model(windows):
        batches.append(windows)
        return windows

    sliding_window(model, numbers, 16, batch_size=5)
    assert {len(batch) for batch in batches[:-1]} == {5} and 1 <= len(batches[-1]) <= 5
    windows = torch.cat(batches)
    steps = [len(range(0, extent - 16, 12)) + 1 for extent in size]
    assert len(windows) == 2 * np.prod(steps)
    assert torch.equal(windows.unique(), numbers.flatten())


def test_batches_of_any_size_give_the_same():
    model, image = nn.Conv2d(1, 2, 3, padding=1), torch.randn(3, 1, 50, 61)
    first, *others = (sliding_window(model, image, 16, batch_size=size) for size in (1, 3, 100))
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------- outputs


def test_several_outputs_keep_their_structure():
    def model(windows):
        return {"mask": Pair(windows * 2, [windows[:, :1], windows - 1]), 7: (windows + 1,)}

    image = torch.randn(1, 2, 30, 21)
    result = sliding_window(model, image, 16)
    assert list(result) == ["mask", 7] and type(result["mask"]) is Pair and type(result[7]) is tuple
    for got, expected in [
        (result["mask"].mask, image * 2),
        (result["mask"].edge[0], image[:, :1]),
        (result["mask"].edge[1], image - 1),
        (result[7][0], image + 1),
    ]:
        torch.testing.assert_close(got, expected)


def test_half_precision_is_averaged_in_single():
    image = torch.rand(1, 1, 40, 40)
    result = sliding_window(lambda windows: windows.to(torch.bfloat16), image, 16, overlap=0.5)
    assert result.dtype == torch.float32
    # Each window has the same rounded values, so their mean is that value, not one rounded again and again.
    torch.testing.assert_close(result, image.to(torch.bfloat16).float(), rtol=1e-6, atol=0)


def test_double_precision_stays():
    image = torch.rand(1, 1, 40, 40, dtype=torch.float64)
    result = sliding_window(lambda windows: (windows, windows.float()), image, 16)
    assert result[0].dtype == torch.float64
    torch.testing.assert_close(result[0], image, rtol=1e-14, atol=0)


def test_the_result_has_no_graph_and_can_be_used_in_one():
    model, image = nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 20, 20)
    result = sliding_window(model, image, 16)
    assert not result.requires_grad and not result.is_inference()
    weight = torch.ones(1, requires_grad=True)
    (result * weight).sum().backward()
    assert weight.grad.item() == pytest.approx(result.sum().item(), rel=1e-4)


# ---------------------------------------------------------------------------- reduce, slab by slab


@pytest.mark.parametrize("size", [(50, 61), (20, 31, 17), (9, 100)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.8])
def test_reduced_slab_by_slab_is_the_whole_reduced(size, overlap):
    model = (nn.Conv2d if len(size) == 2 else nn.Conv3d)(1, 4, 3, padding=1)
    image = torch.randn(3, 1, *size)
    whole = sliding_window(model, image, 16, overlap)
    assert torch.equal(sliding_window(model, image, 16, overlap, reduce="argmax"), whole.argmax(1))
    assert torch.equal(sliding_window(model, image, 16, overlap, reduce="threshold"), whole > 0)
    assert torch.equal(sliding_window(model, image, 16, overlap, reduce=lambda logits: logits), whole)


def test_argmax_is_of_class_numbers_and_threshold_of_bools():
    model, image = nn.Conv2d(1, 4, 1), torch.randn(2, 1, 20, 30)
    classes = sliding_window(model, image, 16, reduce="argmax")
    positive = sliding_window(model, image, 16, reduce="threshold")
    assert classes.dtype == torch.int64 and classes.shape == (2, 20, 30)
    assert positive.dtype == torch.bool and positive.shape == (2, 4, 20, 30)


def test_reduce_of_several_outputs():
    def model(windows):
        return {"classes": torch.cat([windows, -windows], 1), "edge": (windows - 0.1)}

    image = torch.randn(2, 1, 40, 21)
    result = sliding_window(model, image, 16, reduce=combine)
    torch.testing.assert_close(result["mask"], (image[:, 0] < 0).to(torch.uint8))
    assert torch.equal(result["both"][0], torch.cat([image < 0, image > 0.1], 1))
    named = sliding_window(model, image, 16, reduce="threshold")
    assert torch.equal(named["edge"], image > 0.1) and torch.equal(named["classes"], torch.cat([image, -image], 1) > 0)


def combine(outputs):
    mask = outputs["classes"].argmax(1)
    edge = outputs["edge"] > 0
    return {"mask": mask.to(torch.uint8), "both": (torch.cat([mask[:, None] > 0, edge], 1),)}


def test_a_function_sees_one_slab_at_a_time():
    shapes = []

    def reduce(slab):
        shapes.append(tuple(slab.shape))
        return slab.amax(1)

    sliding_window(nn.Conv2d(1, 5, 1), torch.randn(2, 1, 40, 23), 16, overlap=0.25, reduce=reduce)
    assert shapes == 2 * [(1, 5, 12, 23), (1, 5, 12, 23), (1, 5, 16, 23)]


def test_a_threshold_of_probabilities_is_said_where_it_was_written():
    image = torch.rand(1, 1, 40, 40)
    with pytest.warns(UserWarning, match=r"write reduce=lambda p: p > 0\.5") as said:
        sliding_window(torch.sigmoid, image, 16, reduce="threshold")
    assert [warning.filename for warning in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sliding_window(lambda windows: windows - 0.01, image, 16, reduce="threshold")


# ---------------------------------------------------------------------------- files


def test_a_memory_map_is_read_and_another_one_written(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 60000, (30, 41, 22))
    volume = np.memmap(tmp_path / "volume.raw", dtype=">u2", mode="w+", shape=numbers.shape)
    volume[:] = numbers
    out = np.memmap(tmp_path / "mean.raw", dtype="<f4", mode="w+", shape=(1, 2, *numbers.shape))

    def model(windows):
        windows = windows.float() / 1000
        return torch.cat([windows, 30 - windows], 1)

    volume = np.memmap(tmp_path / "volume.raw", dtype=">u2", mode="r", shape=numbers.shape)
    assert sliding_window(model, volume[None, None], (16, 16, 16), out=out) is out
    out.flush()
    written = np.fromfile(tmp_path / "mean.raw", "<f4").reshape(out.shape)
    np.testing.assert_allclose(written[0, 0], numbers / 1000, rtol=1e-5)
    np.testing.assert_allclose(written[0, 1], 30 - numbers / 1000, rtol=1e-4, atol=1e-5)

    mask = np.memmap(tmp_path / "mask.raw", dtype=np.uint8, mode="w+", shape=(1, *numbers.shape))
    sliding_window(model, volume[None, None], 16, reduce="argmax", out=mask)
    written = np.fromfile(tmp_path / "mask.raw", np.uint8).reshape(numbers.shape)
    differs = written != (numbers < 15000)
    assert not differs[numbers != 15000].any()


def test_an_array_gives_a_tensor():
    image = np.random.default_rng(0).random((1, 1, 20, 30), dtype=np.float32)
    result = sliding_window(nn.Identity(), image, 16)
    torch.testing.assert_close(result, torch.from_numpy(image))


def test_out_has_the_structure_of_the_results():
    image = torch.randn(2, 1, 20, 30)
    out = {"mask": np.zeros((2, 20, 30), np.int16), "scores": [np.zeros((2, 1, 20, 30), np.float16)]}

    def reduce(outputs):
        return {"mask": outputs[0].argmax(1).to(torch.int16), "scores": (outputs[1],)}

    result = sliding_window(lambda w: (torch.cat([w, -w], 1), w), image, 16, reduce=reduce, out=out)
    assert result is out
    assert np.array_equal(out["mask"], (image[:, 0] < 0).numpy())
    np.testing.assert_allclose(out["scores"][0], image.numpy(), rtol=2e-3, atol=1e-3)


# ---------------------------------------------------------------------------- the model


class Net(nn.Module):
    """Batch norm and dropout, which eval mode changes; a frozen part; counts the calls of `train`."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm2d(2)
        self.calls = []
        self.frozen.eval()

    def train(self, mode=True):
        self.calls.append(mode)
        super().train(mode)
        return self

    def forward(self, windows):
        return self.frozen(self.body(windows))


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_runs_in_eval_mode_and_gets_its_flags_back(fails):
    model, image = Net(), torch.randn(1, 1, 30, 30)
    seen = []
    model.register_forward_hook(lambda *_: seen.append((model.body.training, torch.is_grad_enabled())))
    if fails:
        model.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sliding_window(model, image, 16)
    else:
        result = sliding_window(model, image, 16)
        assert torch.equal(result, sliding_window(model, image, 16))
    assert set(seen) == {(False, False)}
    assert model.training and model.body[1].training and not model.frozen.training
    assert model.calls[:2] == [False, True]
    assert model.body[1].num_batches_tracked == 0 and torch.is_grad_enabled()


def test_a_module_in_eval_mode_is_left_in_it():
    model = Net().eval()
    model.calls.clear()
    sliding_window(model, torch.randn(1, 1, 30, 30), 16)
    assert not model.training and model.calls == []


def test_scripted_and_exported_modules():
    model, image = Net().eval(), torch.randn(1, 1, 40, 30)
    expected = sliding_window(model, image, 16)
    example = (torch.randn(4, 1, 16, 16),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of newer versions of torch
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.trace(model, example)
    exported = torch.export.export(model, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    for other in (scripted, exported):
        torch.testing.assert_close(sliding_window(other, image, 16), expected)


def test_device_of_the_model_is_where_it_computes():
    model, image = nn.Conv2d(1, 1, 1), torch.randn(1, 1, 20, 20)
    assert torch.equal(sliding_window(model, image, 16, device="cpu"), sliding_window(model, image, 16))
    with pytest.raises(ConfigError, match=r"the model is on cpu, and device is meta\. .* model\.to\('meta'\)"):
        sliding_window(model, image, 16, device="meta")
    with pytest.raises(ConfigError, match=r"device='tpu' is no device of this machine \(.*\); write device='cpu'"):
        sliding_window(model, image, 16, device="tpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("reduce", [None, "argmax"])
def test_same_values_on_a_gpu(reduce):
    model, image = nn.Conv3d(1, 3, 3, padding=1), torch.randn(2, 1, 30, 41, 22)
    expected = sliding_window(model, image, 16, reduce=reduce)
    model.cuda()
    for given in (image, image.cuda(), image.numpy()):
        result = sliding_window(model, given, 16, reduce=reduce)
        assert result.device == getattr(given, "device", torch.device("cpu")) or isinstance(given, np.ndarray)
        torch.testing.assert_close(result.cpu().double(), expected.double(), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------- the bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_long_work_where_stderr_is_a_terminal(terminal, monkeypatch):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    image = torch.randn(1, 1, 48, 48)
    sliding_window(nn.Identity(), image, 16)
    assert stream.getvalue() == ""  # it was over at once

    def slow(windows):
        time.sleep(0.05)
        return windows

    monkeypatch.setattr(sys.modules["farabio_like.inference.progress"], "BAR_SECONDS", 0.1)
    threads = threading.active_count()
    sliding_window(slow, image, 16, overlap=0, batch_size=1)
    assert threading.active_count() == threads
    shown = stream.getvalue().split("\r")
    if terminal:
        assert any(re.match(r"sliding_window: +\d+%.* [1-9]/9 \[.*window/s\]", line) for line in shown)
        assert shown[-1].strip() == ""  # it is gone
    else:
        assert shown == [""]


# ---------------------------------------------------------------------------- mistakes


IMAGE = torch.zeros(2, 3, 20, 30)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (DataError, r"the image is a list; expected a tensor or a NumPy array", {"image": [1]}),
        (DataError, r"has the shape \(3, 20, 30\); .*image\[None\]", {"image": IMAGE[0]}),
        (DataError, r"has the shape \(20, 30\).*volume\[None, None\]", {"image": np.zeros((20, 30))}),
        (DataError, r"has the shape \(0, 3, 20, 30\), and so no pixel", {"image": IMAGE[:0]}),
        (DataError, r"an array of object; expected numbers", {"image": np.zeros((1, 1, 2, 2), object)}),
        (ConfigError, r"window=0; expected a positive int, or one for each of the 2 axes", {"window": 0}),
        (ConfigError, r"window=True; ", {"window": True}),
        (ConfigError, r"window=\(8, 8, 8\); .* window=\(128, 128\)", {"window": (8, 8, 8)}),
        (ConfigError, r"window='88'; ", {"window": "88"}),
        (ConfigError, r"overlap=1; expected a part of the window, 0 to below 1", {"overlap": 1}),
        (ConfigError, r"overlap=-0\.1; ", {"overlap": -0.1}),
        (ConfigError, r"overlap=nan; ", {"overlap": float("nan")}),
        (ConfigError, r"blend='gauss'; expected 'gaussian' or 'constant'", {"blend": "gauss"}),
        (ConfigError, r"batch_size=2\.0; expected a positive int", {"batch_size": 2.0}),
        (ConfigError, r"reduce='max'; expected 'argmax', 'threshold', a function or None", {"reduce": "max"}),
        (DataError, r"out is a Tensor; expected a NumPy array .* tensor\.numpy\(\)", {"out": IMAGE}),
        (
            DataError,
            r"out has the shape \(2, 3, 20, 31\); expected \(2, channels, 20, 30\)",
            {"out": np.zeros((2, 3, 20, 31))},
        ),
        (
            DataError,
            r"out has the shape \(2, 1, 20, 30\); the result has \(2, 3, 20, 30\)",
            {"out": np.zeros((2, 1, 20, 30))},
        ),
        (
            DataError,
            r"got arrays at out\['a'\]; expected one for each result: out$",
            {"out": {"a": np.zeros(IMAGE.shape)}},
        ),
        (
            DataError,
            r"out is an array of int32, which has no room for results of torch\.float32",
            {"out": np.zeros(IMAGE.shape, np.int32)},
        ),
        (
            DataError,
            r"out is an array of int32, .* results of torch\.bfloat16",
            {"reduce": lambda slab: slab.bfloat16(), "out": np.zeros(IMAGE.shape, np.int32)},
        ),
        (
            HookError,
            r"argmax' needs two channels or more, .*reduce='threshold'",
            {"reduce": "argmax", "image": IMAGE[:, :1]},
        ),
        (
            HookError,
            r"reduce gave a result of the shape \(1, 3\) for a slab of the size \(4, 30\); expected \(1, 4, 30\)",
            {"reduce": lambda slab: slab.amax((2, 3))},
        ),
        (HookError, r"reduce gave a ndarray; expected a tensor", {"reduce": lambda slab: slab.numpy()}),
        (
            HookError,
            r"reduce gave types and channels .* after .* for the first",
            {"reduce": lambda s: s[:, : 15 - s.shape[2]]},
        ),
    ],
)
def test_mistakes_are_named(error, message, arguments):
    given = {"image": IMAGE, "window": 16, **arguments}
    with pytest.raises(error, match=message):
        sliding_window(nn.Identity(), **given)


def test_classes_that_out_has_no_room_for():
    image, out = torch.zeros(1, 1, 20, 20), np.zeros((1, 20, 20), np.uint8)
    sliding_window(nn.Conv2d(1, 256, 1), image, 16, reduce="argmax", out=out)
    with pytest.raises(DataError, match=r"out is an array of uint8, which has no room for 257 classes"):
        sliding_window(nn.Conv2d(1, 257, 1), image, 16, reduce="argmax", out=out)


def test_an_out_that_cannot_be_written_is_found_before_the_first_window(tmp_path):
    (tmp_path / "out.raw").write_bytes(bytes(1200))
    out = np.memmap(tmp_path / "out.raw", dtype=np.uint8, mode="r", shape=(2, 20, 30))
    with pytest.raises(DataError, match=r"out cannot be written\. Open the memory map with mode='r\+'"):
        sliding_window(lambda windows: 1 / 0, IMAGE, 16, reduce="argmax", out=out)


@pytest.mark.parametrize(
    ("message", "function"),
    [
        (r"an output of the shape \(4, 3, 8, 8\); expected \(4, channels, 16, 16\)", lambda w: w[..., ::2, ::2]),
        (r"an output of the shape \(4, 16, 16\); ", lambda w: w[:, 0]),
        (r"an output\['a'\]\[1\] of the shape \(1, 3, 16, 16\); ", lambda w: {"a": (w, w[:1])}),
        (r"the model gave a NoneType at \['aux'\]; expected a tensor, or a tuple", lambda w: {"out": w, "aux": None}),
        (r"the model gave an empty list; expected at least one", lambda w: []),
        (r"an output of torch\.int64; expected floating-point .* logits", lambda w: w.long()),
        (r"channels \{'': 1\} after others with \{'': 3\}", lambda w: w if len(w) == 4 else w[:, :1]),
    ],
)
def test_outputs_that_cannot_be_blended_are_named(message, function):
    image = torch.zeros(1, 3, 28, 40)  # six windows
    with pytest.raises(HookError, match=message):
        sliding_window(function, image, 16)
