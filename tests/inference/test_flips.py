"""`flips`: the mean over flips and quarter turns, each undone."""

import pytest
import torch
from torch import nn

from farabio_like.errors import ConfigError, DataError, HookError
from farabio_like.inference import flips, sliding_window


def test_mean_of_one_flip_by_hand():
    image = torch.tensor([[[[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]]])

    def model(windows):  # the sum of what lies to the left
        return windows.cumsum(3)

    # From the left 1 3 7, 8 24 56; from the right 7 6 4, 56 48 32.
    result = flips(model, image, axes=-1)
    assert result.tolist() == [[[[4, 4.5, 5.5], [32, 36, 44]]]]


def test_every_combination_of_axes_by_hand():
    model, image = nn.Conv3d(1, 2, 3, padding=1), torch.randn(2, 1, 5, 6, 7)
    with torch.no_grad():
        parts = [model(image.flip(axes)).flip(axes) for axes in [(), (2,), (4,), (2, 4)]]
    expected = sum(parts) / 4
    torch.testing.assert_close(flips(model, image, axes=(2, -1)), expected)
    torch.testing.assert_close(flips(model, image, axes=(-3, 4)), expected)


@pytest.mark.parametrize(
    ("axes", "calls"), [((), 4), ((-1,), 8), ((-2,), 8), ((-2, -1), 8), ((-1, -2), 8), ((2,), 8), ((2, 3, 4), 16)]
)
def test_quarter_turns_give_every_symmetry_once(axes, calls):
    image = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    if axes and max(axes) < 0:
        image = image[:, :, 0]
    seen = []

    def model(windows):
        seen.append(tuple(windows.flatten().tolist()))
        return windows

    result = flips(model, image, axes, quarter_turns=True)
    assert len(seen) == len(set(seen)) == calls
    torch.testing.assert_close(result, image)


def test_the_mean_of_all_symmetries_turns_with_the_image():
    model, image = nn.Conv2d(1, 2, 3, padding=1), torch.randn(1, 1, 8, 11)
    mean = flips(model, image, (-2, -1), quarter_turns=True)
    assert not torch.allclose(mean, model(image))
    for turned in (lambda x: x.rot90(1, (-2, -1)), lambda x: x.flip(-1), lambda x: x.transpose(-2, -1)):
        torch.testing.assert_close(flips(model, turned(image), (-2, -1), quarter_turns=True), turned(mean))
    # Without a network's context there is nothing to average.
    pointwise = nn.Conv2d(1, 2, 1)
    torch.testing.assert_close(flips(pointwise, image, (-2, -1), quarter_turns=True), pointwise(image).detach())


def test_several_outputs_and_classes_of_whole_images():
    def model(images):
        left = images[..., : images.shape[-1] // 2]
        return {"maps": (images, images[..., ::2, ::2]), "classes": left.mean((2, 3))}

    image = torch.arange(32.0).reshape(2, 1, 4, 4)
    result = flips(model, image, -1)
    torch.testing.assert_close(result["maps"][0], image)
    # Columns 0 and 2, and of the flipped image 3 and 1, flipped back.
    torch.testing.assert_close(result["maps"][1], (image[..., ::2, ::2] + image[..., ::2, 1::2]) / 2)
    torch.testing.assert_close(result["classes"], image.mean((2, 3)))


def test_half_precision_is_averaged_in_single_and_outputs_are_left_alone():
    given = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    result = flips(lambda images: given, torch.rand(1, 1, 2, 2), (-2, -1))
    assert result.dtype == torch.float32 and result.tolist() == [[1, 2]] == given.tolist()
    kept = torch.tensor([[1.0, 2.0]])
    assert flips(lambda images: kept, torch.rand(1, 1, 2, 2), (-2, -1)).tolist() == [[1, 2]] == kept.tolist()


def test_a_module_runs_in_eval_mode_and_gets_its_flags_back():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    model[1].eval()
    seen = []
    model[2].register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    flips(model, torch.rand(1, 1, 8, 8), -1)
    assert seen == [(False, False)] * 2
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_flips_of_windows():
    model, image = nn.Conv2d(1, 2, 3, padding=1), torch.randn(1, 1, 40, 50)
    both = sliding_window(lambda windows: flips(model, windows, (-2, -1)), image, 16)
    parts = [
        sliding_window(lambda windows, axes=axes: model(windows.flip(axes)).flip(axes), image, 16)
        for axes in [(), (2,), (3,), (2, 3)]
    ]
    torch.testing.assert_close(both, sum(parts) / 4)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (
            DataError,
            r"the image is of the shape \(3, 8, 8\); expected a tensor of N x C",
            {"image": torch.rand(3, 8, 8)},
        ),
        (DataError, r"the image is a list; ", {"image": []}),
        (
            ConfigError,
            r"axes=\(1,\); expected different axes .*of \(2, 3\) or \(-2, -1\): axes=\(-2, -1\)",
            {"axes": (1,)},
        ),
        (ConfigError, r"axes=\(-1, 3\); expected different", {"axes": (-1, 3)}),
        (ConfigError, r"axes=4; ", {"axes": 4}),
        (ConfigError, r"axes='hw'; ", {"axes": "hw"}),
        (ConfigError, r"axes=-1\.0; ", {"axes": -1.0}),
        (
            HookError,
            r"the model gave an output of the shape \(2, 8, 8\); expected 4 axes",
            {"function": lambda x: x[:, 0]},
        ),
        (HookError, r"the model gave an output of torch\.int64; ", {"function": lambda x: x.long()}),
        (HookError, r"the model gave a str; expected a tensor", {"function": lambda x: "x"}),
    ],
)
def test_mistakes_are_named(error, message, arguments):
    given = {"function": nn.Identity(), "image": torch.rand(2, 1, 8, 8), "axes": -1, **arguments}
    with pytest.raises(error, match=message):
        flips(given["function"], given["image"], given["axes"])


def test_outputs_whose_shapes_differ_are_named():
    with pytest.raises(
        HookError, match=r"gave \{'': \(1, 1, 4, 8\)\} for a flipped or turned image, and .*\(1, 1, 8, 4\)"
    ):
        flips(lambda images: images[..., ::2], torch.rand(1, 1, 8, 8), (), quarter_turns=True)
