"""Tiles leave no seam; channels, types and sizes stay what they are."""

import numpy as np
import pytest
import torch
from torch import nn

from farabio_like import ConfigError, DataError, HookError, NonFiniteError
from farabio_like.inference import upscale
from farabio_like.models.superresolution import RRDBNet, SRResNet


def small(scale=2, **options):
    torch.manual_seed(0)
    return SRResNet(scale, blocks=1, features=8, init_scale=1.0, **options)


REACH = 7  # pixels that the small network looks to every side


def nearest(images):
    return nn.functional.interpolate(images, scale_factor=3)


def noise(*shape, kind=np.uint8, seed=0):
    top = {np.uint8: 256, np.uint16: 65536}[kind]
    return np.random.default_rng(seed).integers(0, top, shape).astype(kind)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(40, 33), (7, 50), (1, 1)])
def test_tiled_equals_untiled(scale, height, width):
    model, image = small(scale), torch.rand(2, 3, height, width)
    with torch.no_grad():
        whole = model(image)
    for tile in (8, 13, 64, None):
        found = upscale(model, image, tile=tile, overlap=REACH)
        assert found.shape == whole.shape and (found - whole).abs().max() < 1e-5
    assert torch.equal(upscale(model, image[0], tile=8, overlap=REACH), upscale(model, image[:1], 8, REACH)[0])


def test_a_deep_network_has_no_seams():
    torch.manual_seed(0)
    model = RRDBNet(2, blocks=2, features=16, growth=8)
    image = torch.rand(1, 3, 60, 45)
    with torch.no_grad():
        whole = model(image)
    assert (upscale(model, image, tile=16) - whole).abs().max() < 1e-4


def test_a_tile_is_not_larger_than_asked_for():
    seen = []

    def model(images):
        seen.append(tuple(images.shape))
        return nearest(images)

    image = noise(50, 70, 3)
    assert np.array_equal(upscale(model, image, tile=16, overlap=4), image.repeat(3, 0).repeat(3, 1))
    assert len(seen) == 4 * 5 and max(max(shape[2:]) for shape in seen) == 24


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)])
def test_integers_and_channels_are_kept(kind, channels):
    image = noise(9, 14, *channels, kind=kind)
    for model in (nearest, nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Upsample(scale_factor=3))):
        if isinstance(model, nn.Module):
            nn.init.ones_(model[0].weight)
        found = upscale(model, image, tile=5, overlap=2)
        assert found.dtype == kind and found.shape == (27, 42, *channels)
        colours = slice(0, -1) if channels in ((2,), (4,)) else slice(None)
        expected = image.repeat(3, 0).repeat(3, 1)
        difference = abs(found.astype(int) - expected.astype(int))
        assert difference[..., colours].max() <= (1 if channels in ((), (1,), (2,)) else 0)
        tensor = torch.from_numpy(image.reshape(9, 14, -1)).permute(2, 0, 1)
        same = upscale(model, tensor, tile=5, overlap=2)
        assert same.dtype == tensor.dtype and np.array_equal(same.permute(1, 2, 0).numpy().reshape(found.shape), found)


def test_what_is_opaque_stays_opaque_and_transparency_has_no_seam():
    image = noise(20, 20, 4)
    image[..., 3] = 255
    assert (upscale(small(), image, tile=6)[..., 3] == 255).all()
    image = noise(20, 20, 4)
    assert np.array_equal(upscale(small(), image, 6, 0)[..., 3], upscale(small(), image, None)[..., 3])


def test_floating_point_numbers_are_as_the_network_gives_them():
    model, image = small(), 5 * torch.randn(3, 12, 10)
    with torch.no_grad():
        expected = model(image[None])[0]
    assert torch.allclose(upscale(model, image, tile=None), expected)
    array = image.permute(1, 2, 0).numpy()
    assert np.allclose(upscale(model, array, tile=None), expected.permute(1, 2, 0), atol=1e-6)
    assert upscale(model, array.astype(">f8"), tile=None).dtype == np.float64
    assert upscale(model.half(), image.half(), tile=None).dtype == torch.float16


def test_integers_are_rounded_and_kept_in_their_range():
    image = np.full((4, 4, 3), 100, np.uint8)
    assert (upscale(lambda images: nearest(images) * 1.006, image) == 101).all()
    assert (upscale(lambda images: nearest(images) + 9, image) == 255).all()
    assert (upscale(lambda images: nearest(images) - 9, image) == 0).all()
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        upscale(lambda images: nearest(images) / 0, image)


def test_a_memory_map_is_read(tmp_path):
    np.save(tmp_path / "a.npy", noise(30, 20, 3))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert np.array_equal(upscale(small(), mapped, 8), upscale(small(), np.array(mapped), 8))


def test_the_modes_of_a_module_come_back():
    model = nn.Sequential(nn.Dropout(0.5), small())
    model[1].eval()
    image = noise(8, 8, 3)
    assert np.array_equal(upscale(model, image), upscale(model, image))
    assert model[0].training and not model[1].training
    assert np.array_equal(upscale(nn.DataParallel(small()), image), upscale(small(), image))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile": 0}, "tile=0"),
        ({"tile": 2.5}, "tile=2.5"),
        ({"overlap": -1}, "overlap=-1"),
        ({"overlap": None}, "overlap=None"),
        ({"channels": 0}, "channels=0"),
        ({"device": "gpu"}, "device='gpu'"),
    ],
)
def test_arguments_that_are_not_allowed(options, said):
    with pytest.raises(ConfigError, match=said):
        upscale(small(), noise(8, 8, 3), **options)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ([[1, 2]], "a list"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((0, 4, 3)), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "of int64"),
        (torch.zeros(4, 4, 3, dtype=torch.bool), "of torch.bool"),
        (torch.rand(4, 4), r"shape \(4, 4\)"),
        (torch.rand(9, 4, 3), "9 channels, and the network takes 3"),
    ],
)
def test_images_of_another_kind(image, said):
    with pytest.raises(DataError, match=said):
        upscale(small(), image)


@pytest.mark.parametrize(
    "model", [lambda images: images[:, :1], lambda images: [images], lambda images: images[..., :-1]]
)
def test_a_network_that_gives_something_else(model):
    with pytest.raises(HookError, match="expected the same number of images and channels"):
        upscale(model, noise(8, 8, 3))
