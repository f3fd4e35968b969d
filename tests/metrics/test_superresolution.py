"""PSNR and SSIM: reference values, scikit-image, torchmetrics, both protocols."""

import math
import warnings

import numpy as np
import pytest
import torch

from farabio_like import ConfigError, DataError
from farabio_like.metrics import psnr, ssim


def pair():
    t = torch.arange(3072, dtype=torch.float64).reshape(1, 3, 32, 32)
    x = 0.5 + 0.5 * torch.sin(0.37 * t)
    return x, (x + 0.1 * torch.cos(1.7 * t)).clamp(0, 1)


def noisy(size=(40, 33), images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(images, 3, *size, generator=generator)
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def test_reference_values():
    x, y = pair()
    for kind in (torch.float64, torch.float32):
        assert psnr(y.to(kind), x.to(kind)).item() == pytest.approx(23.7105, abs=1e-4)
        assert ssim(y.to(kind), x.to(kind)).item() == pytest.approx(0.97753, abs=1e-5)
        assert psnr(255 * y, 255 * x, data_range=255).item() == pytest.approx(23.7105, abs=1e-4)
        assert ssim(255 * y, 255 * x, data_range=255).item() == pytest.approx(0.97753, abs=1e-5)


def test_they_are_those_of_scikit_image():
    measures = pytest.importorskip("skimage.metrics")
    image, target = noisy(images=1)
    a, b = (value[0].permute(1, 2, 0).double().numpy() for value in (image, target))
    assert psnr(image, target).item() == pytest.approx(measures.peak_signal_noise_ratio(b, a, data_range=1), abs=1e-6)
    expected = measures.structural_similarity(
        b, a, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, target).item() == pytest.approx(expected, abs=1e-6)


def test_they_are_those_of_torchmetrics():
    measures = pytest.importorskip("torchmetrics.functional.image")
    image, target = noisy(images=1)
    expected = measures.peak_signal_noise_ratio(image, target, data_range=1.0)
    assert psnr(image, target).item() == pytest.approx(expected.item(), abs=1e-4)


def test_luma_is_that_of_bt601_in_studio_range():
    color = pytest.importorskip("skimage.color")
    image, target = noisy(images=1)
    a, b = (color.rgb2ycbcr(value[0].permute(1, 2, 0).double().numpy())[..., 0] for value in (image, target))
    assert 16 <= a.min() and a.max() <= 235
    expected = 10 * math.log10(255**2 / np.mean((a - b)[4:-4, 4:-4] ** 2))
    assert psnr(image, target, protocol="y", crop=4).item() == pytest.approx(expected, abs=1e-6)
    assert psnr(255 * image, 255 * target, 255, "y", 4).item() == pytest.approx(expected, abs=1e-4)
    measures = pytest.importorskip("skimage.metrics")
    expected = measures.structural_similarity(
        b[4:-4, 4:-4], a[4:-4, 4:-4], data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, target, protocol="y", crop=4).item() == pytest.approx(expected, abs=1e-5)


def test_grey_images_are_three_equal_channels():
    image, target = (value[:, :1] for value in noisy())
    colours = image.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1)
    for measure in (psnr, ssim):
        for protocol in ("rgb", "y"):
            assert torch.allclose(measure(image, target, 1, protocol), measure(*colours, 1, protocol))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_the_mean_is_over_images(measure):
    image, target = noisy(images=3)
    image[0] = 0.3  # one is much worse
    each = [measure(image[k], target[k]) for k in range(3)]
    assert measure(image, target).item() == pytest.approx(torch.stack(each).mean().item())


def test_identical_images_are_infinitely_near_and_no_nan():
    image, target = noisy()
    image[0] = target[0]
    with pytest.warns(UserWarning, match="1 of 2 images equal their targets"):
        assert psnr(image, target).item() == math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ssim(target, target).item() == pytest.approx(1)
        assert ssim(0 * target, 0 * target).item() == pytest.approx(1)
        assert ssim(0 * target + 1, 0 * target + 1).item() == pytest.approx(1)


def test_half_precision_is_not_lost():
    image, target = noisy()
    expected = psnr(image.half().double(), target.half().double())
    assert psnr(image.half(), target.half()).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("measure", [psnr, ssim])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"protocol": "ycbcr"}, "protocol='ycbcr'"),
        ({"data_range": 0}, "data_range=0"),
        ({"crop": -1}, "crop=-1"),
        ({"crop": 1.5}, "crop=1.5"),
    ],
)
def test_arguments_that_are_not_allowed(measure, arguments, said):
    with pytest.raises(ConfigError, match=rf"{measure.__name__}\({said}"):
        measure(*noisy(), **arguments)


@pytest.mark.parametrize(
    ("image", "target", "arguments", "said"),
    [
        (torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 15), {}, r"\(1, 3, 16, 16\) and a target of \(1, 3, 16, 15\)"),
        (torch.rand(1, 3, 16, 16), torch.rand(3, 16, 16), {}, "expected twice"),
        (torch.rand(16, 16), torch.rand(16, 16), {}, "expected twice"),
        (torch.rand(3, 16, 16), torch.rand(3, 16, 16), {"crop": 8}, "leaves 0 x 0"),
        (torch.rand(2, 16, 16), torch.rand(2, 16, 16), {"protocol": "y"}, "2 channels"),
        (torch.ones(3, 16, 16, dtype=torch.uint8), torch.rand(3, 16, 16), {}, "torch.uint8"),
    ],
)
def test_images_that_do_not_fit(image, target, arguments, said):
    for measure in (psnr, ssim):
        with pytest.raises(DataError, match=said):
            measure(image, target, **arguments)


def test_ssim_needs_its_window():
    with pytest.raises(DataError, match="16 x 10 pixels, of which crop=0 leaves 16 x 10; expected 11 x 11"):
        ssim(torch.rand(1, 3, 16, 10), torch.rand(1, 3, 16, 10))
