"""PSNR and SSIM over a loader are the means over its images, whatever its batches."""

import math

import pytest
import torch

from farabio_like import ConfigError, DataError
from farabio_like.callbacks import PSNR, SSIM
from farabio_like.metrics import psnr, ssim

from .replay import measure

BOTH = pytest.mark.parametrize(("kind", "name", "function"), [(PSNR, "psnr", psnr), (SSIM, "ssim", ssim)])


def images(number=5):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(number, 3, 20, 17, generator=generator)
    return target + 0.1 * torch.rand(number, 1, 1, 1, generator=generator), target


@BOTH
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_mean_is_over_images(kind, name, function, size):
    outputs, target = images()
    assert measure(kind(), outputs, target, size) == {name: pytest.approx(function(outputs, target).item())}
    expected = function(outputs, target, protocol="y", crop=2).item()
    assert measure(kind("y", crop=2), outputs, target, size) == {f"{name}_y": pytest.approx(expected)}
    assert kind("y", prefix="my_").announces() == {f"my_{name}_y": True}


@BOTH
def test_states_of_several_ranks_are_one(kind, name, function):
    outputs, target = images()
    callback, states = kind(), []
    for part in (slice(0, 1), slice(1, 5)):
        state = callback.start()
        callback.update(state, outputs[part], target[part])
        states.append(state)
    merged = callback.compute(callback.merge(states))
    assert merged[name].item() == pytest.approx(function(outputs, target).item())


def test_an_identical_image_is_said_and_is_no_nan():
    outputs, target = images()
    outputs[2] = target[2]
    with pytest.warns(UserWarning, match="1 of 5 images equal their targets"):
        assert measure(PSNR(), outputs, target, 2) == {"psnr": math.inf}


@BOTH
def test_what_is_not_allowed(kind, name, function):
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\(protocol='z'\)"):
        kind("z")
    with pytest.raises(DataError, match="a list as prediction"):
        kind().update({}, [1], torch.rand(1, 3, 16, 16))
