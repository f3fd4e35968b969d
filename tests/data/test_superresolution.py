"""Images in two resolutions: MATLAB's filter, alignment to the pixel, layouts, patches that go on."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from farabio_like import ConfigError, DataError
from farabio_like.data import Items, PairedImages, downscale

SCALES = pytest.mark.parametrize("scale", [2, 3, 4, 8])


def by_hand(values, scale):
    """Return a row made smaller as MATLAB's imresize describes it: its own loop over pixels and weights."""

    def cubic(x):
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    length = len(values)
    mirror = [*range(length), *reversed(range(length))]
    found = []
    for number in range(1, -(-length // scale) + 1):
        centre = number * scale + 0.5 * (1 - scale)  # MATLAB counts from 1
        left = int(np.floor(centre - 2 * scale))
        places = range(left, left + 4 * scale + 2)
        weights = np.array([cubic((centre - place) / scale) for place in places])
        taken = np.array([values[mirror[(place - 1) % (2 * length)]] for place in places])
        found.append((weights * taken).sum() / weights.sum())
    return found


@SCALES
@pytest.mark.parametrize("length", [1, 5, 24, 37])
def test_downscale_is_imresize_of_matlab(scale, length):
    row = torch.rand(length, dtype=torch.float64)
    expected = torch.tensor(by_hand(row.tolist(), scale), dtype=torch.float64)
    assert torch.allclose(downscale(row.reshape(1, 1, -1), scale).flatten(), expected, atol=1e-12)
    assert torch.allclose(downscale(row.reshape(1, -1, 1), scale).flatten(), expected, atol=1e-12)


@SCALES
def test_downscale_is_that_of_torch_and_pillow_inside(scale):
    image = torch.rand(2, 3, 16 * scale, 12 * scale)
    found = downscale(image, scale)
    expected = nn.functional.interpolate(image, size=(16, 12), mode="bicubic", antialias=True, align_corners=False)
    assert found.shape == (2, 3, 16, 12)
    assert torch.allclose(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-5)
    assert torch.equal(downscale(image[0], scale), found[0])
    bytes_ = (image[0, 0] * 255).byte()
    pillow = np.asarray(Image.fromarray(bytes_.numpy()).resize((12, 16), Image.Resampling.BICUBIC)).astype(int)
    difference = downscale(bytes_[None], scale)[0].int().numpy() - pillow
    assert abs(difference[2:-2, 2:-2]).max() <= 1


@SCALES
def test_downscale_keeps_a_constant_and_rounds_bytes(scale):
    assert torch.allclose(downscale(torch.full((1, 7, 13), 0.3), scale), torch.tensor(0.3))
    edge = torch.zeros(1, 8 * scale, 8 * scale, dtype=torch.uint8)
    edge[..., : 4 * scale] = 255
    found = downscale(edge, scale)
    assert found.dtype == torch.uint8 and set(found[0, 0, [0, -1]].tolist()) == {0, 255}
    assert downscale(edge.half(), scale).dtype == torch.float16


@pytest.mark.parametrize(
    ("image", "scale", "error", "said"),
    [
        (torch.rand(3, 8, 8), 2.0, ConfigError, "scale=2.0"),
        (torch.rand(3, 8, 8), 0, ConfigError, "scale=0"),
        (torch.rand(8, 8), 2, DataError, r"shape \(8, 8\)"),
        (np.zeros((8, 8, 3)), 2, DataError, "permute"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), 2, DataError, "torch.int64"),
    ],
)
def test_downscale_names_what_is_wrong(image, scale, error, said):
    with pytest.raises(error, match=said):
        downscale(image, scale)


# ---------------------------------------------------------------- pairs


def ramp(height, width, channels=1):
    """Return an image whose pixels say where they are."""
    rows, columns = np.mgrid[:height, :width]
    return np.repeat((rows * 1000 + columns)[..., None].astype(np.float32), channels, 2)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def colours(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def low_of(array, scale):
    """Return the low resolution of a whole image, cut to a multiple of the scale."""
    height, width = (side // scale * scale for side in array.shape[:2])
    return downscale(torch.from_numpy(array[:height, :width]).permute(2, 0, 1), scale)


@SCALES
@pytest.mark.parametrize("with_files", [False, True])
def test_crops_are_aligned_to_the_pixel(scale, with_files, tmp_path):
    array = ramp(12 * scale + 1, 9 * scale + scale - 1)  # odd sizes: the scale does not divide them
    save(tmp_path / "high" / "a.npy", array)
    if with_files:
        save(tmp_path / "low" / "a.npy", low_of(array, scale).permute(1, 2, 0).numpy())
    low_folder = tmp_path / "low" if with_files else None
    data = PairedImages(tmp_path / "high", low_folder, scale, patch=4 * scale, flips=False, channels=1)
    whole, places = low_of(array, scale)[0], set()
    for _ in range(40):
        low, high = data[0]
        assert low.shape == (1, 4, 4) and high.shape == (1, 4 * scale, 4 * scale)
        row, column = divmod(int(high[0, 0, 0]), 1000)
        assert row % scale == column % scale == 0  # the offset is a whole one in the low resolution
        assert torch.equal(high[0, 0] - high[0, 0, 0], torch.arange(4.0 * scale))  # a ramp stays a ramp
        assert torch.equal(high[0, :, 0] - high[0, 0, 0], 1000 * torch.arange(4.0 * scale))
        expected = whole[row // scale :, column // scale :][:4, :4]
        assert torch.allclose(low[0], expected, rtol=1e-5, atol=0.02)
        places.add((row // scale, column // scale))
    assert {row for row, _ in places} == set(range(9)) and max(column for _, column in places) == 5


@SCALES
def test_a_low_pixel_lies_in_the_middle_of_its_high_ones(scale, tmp_path):
    save(tmp_path / "a.npy", ramp(20 * scale, 20 * scale) / 20_000)
    data = PairedImages(tmp_path, scale=scale, patch=12 * scale, channels=1)
    for _ in range(10):
        low, high = data[0]
        means = nn.functional.avg_pool2d(high[None], scale)[0]
        inner = slice(3, -3)  # the mirrored border bends a ramp
        assert torch.allclose(low[:, inner, inner], means[:, inner, inner], atol=1e-5)


def test_whole_images_are_cut_to_a_multiple_of_the_scale(tmp_path):
    array = colours(31, 22)
    save(tmp_path / "a.png", array)
    low, high = PairedImages(tmp_path, scale=3, patch=None)[0]
    assert low.shape == (3, 10, 7) and high.shape == (3, 30, 21)
    assert torch.equal(high, torch.from_numpy(array[:30, :21]).permute(2, 0, 1) / 255)
    assert torch.allclose(low, downscale(high, 3).clamp(0, 1), atol=1e-6)
    assert low.dtype == high.dtype == torch.float32


def test_both_are_flipped_and_turned_alike(tmp_path):
    save(tmp_path / "a.png", colours(24, 24))
    data = PairedImages(tmp_path, scale=2, patch=24)
    seen = set()
    for _ in range(80):
        low, high = data[0]
        assert torch.allclose(low, downscale(high, 2).clamp(0, 1), atol=1e-6)
        assert low.is_contiguous() and high.is_contiguous()
        seen.add(high.numpy().tobytes())
    assert len(seen) == 8
    plain = data.changed(flips=False)
    assert torch.equal(plain[0][1], torch.from_numpy(colours(24, 24)).permute(2, 0, 1) / 255)


def test_files_of_any_name_and_kind(tmp_path):
    save(tmp_path / "b c.jpg", colours(24, 32))
    save(tmp_path / "deep" / "x.png", colours(24, 32)[..., 0])
    Image.fromarray(np.dstack([colours(24, 32), colours(24, 32)[..., :1]])).save(tmp_path / "alpha.png")
    save(tmp_path / "sixteen.tif", (colours(24, 32)[..., 0].astype(np.uint16) * 257))
    data = PairedImages(tmp_path, scale=4, patch=16)
    assert data.ids == ["alpha", "b c", "deep/x", "sixteen"]
    assert repr(data) == "PairedImages of 4 images, 1 patches of 16 x 16 each"
    for low, high in (data[k] for k in range(4)):
        assert low.shape == (3, 4, 4) and high.shape == (3, 16, 16) and 0 <= high.min() <= high.max() <= 1
    assert PairedImages(tmp_path, scale=4, patch=16, channels=1)[1][0].shape == (1, 4, 4)


@pytest.mark.parametrize("name", ["DIV2K_train", "Flickr2K"])
def test_layouts_of_div2k_and_flickr2k(name, tmp_path):
    array = colours(24, 24)
    save(tmp_path / f"{name}_HR" / "0001.png", array)
    made = downscale(torch.from_numpy(array).permute(2, 0, 1), 4)
    low = (255 - made).permute(1, 2, 0).numpy()  # so that it can be told from one that is made
    save(tmp_path / f"{name}_LR_bicubic" / "X4" / "0001x4.png", low)
    high = tmp_path / f"{name}_HR"
    below = tmp_path / f"{name}_LR_bicubic"
    for folders in ((tmp_path,), (high, below), (high, below / "X4")):
        found, _ = PairedImages(*folders, scale=4, patch=None)[0]
        assert torch.equal(found, torch.from_numpy(low).permute(2, 0, 1) / 255)
    for folders in ((high,),):
        assert torch.allclose(PairedImages(*folders, scale=4, patch=None)[0][0], made / 255, atol=0.003)
    assert PairedImages(tmp_path, scale=2, patch=None)[0][0].shape == (3, 12, 12)  # no X2: they are made
    with pytest.raises(DataError, match="no folder X2; there are X4"):
        PairedImages(high, below, scale=2)
    (tmp_path / "DIV2K_valid_HR").mkdir()
    with pytest.raises(DataError, match="2 folders of images"):
        PairedImages(tmp_path, scale=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_patches_depend_on_seed_and_position(workers, tmp_path):
    for number in range(3):
        save(tmp_path / f"{number}.png", colours(40, 50, number))
    data = PairedImages(tmp_path, scale=2, patch=16, patches=2)

    def epoch(seed, batch=2, workers=workers):
        loader = DataLoader(data, batch_size=batch, num_workers=workers)
        return torch.cat([high for _, (_, high) in Items(loader, "train", seed)])

    first = epoch((0, "train", 1))
    assert first.shape[0] == 6
    assert torch.equal(first, epoch((0, "train", 1), batch=1, workers=0))
    assert not torch.equal(first, epoch((0, "train", 2)))
    assert not torch.equal(first, epoch((1, "train", 1)))


def test_files_that_do_not_fit_are_named(tmp_path):
    save(tmp_path / "high" / "a.png", colours(24, 31))
    with pytest.raises(DataError, match=r"a\.png has 24 x 31 pixels .*a patch has 32 x 32"):
        PairedImages(tmp_path / "high", patch=32)
    data = PairedImages(tmp_path / "high", patch=24)
    with pytest.raises(DataError, match=r"a\.png has 24 x 31"):
        data.changed(patch=32)
    save(tmp_path / "low" / "a.png", colours(7, 7))
    with pytest.raises(DataError, match=r"high/a\.png has 24 x 31 .*low/a\.png has 7 x 7; expected 6 x 7 for scale=4"):
        PairedImages(tmp_path / "high", tmp_path / "low", patch=24)[0]
    save(tmp_path / "low" / "a.png", colours(6, 8))  # rounded up, as MATLAB does
    low, high = PairedImages(tmp_path / "high", tmp_path / "low", patch=None)[0]
    assert low.shape[1:] == (6, 7) and high.shape[1:] == (24, 28)
    (tmp_path / "low" / "a.png").rename(tmp_path / "low" / "b.png")
    with pytest.raises(DataError, match="has the name of one in"):
        PairedImages(tmp_path / "high", tmp_path / "low")
    (tmp_path / "high" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png \(8 bytes\) cannot be read"):
        PairedImages(tmp_path / "high")
    with pytest.raises(DataError, match="there is no folder"):
        PairedImages(tmp_path / "absent")


def test_files_without_a_partner_are_named(tmp_path):
    for folder, side in (("high", 24), ("low", 6)):
        for name in ("a", folder):
            save(tmp_path / folder / f"{name}.png", colours(side, side))
    with pytest.warns(UserWarning, match=r"2 files have no partner and are left out: high\.png, low\.png"):
        data = PairedImages(tmp_path / "high", tmp_path / "low", patch=24)
    assert data.ids == ["a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 2.5}, r"scale=2\.5"),
        ({"scale": 3, "patch": 128}, r"patch=128: expected a multiple of scale=3\. Write patch=129"),
        ({"patch": 0}, "patch=0"),
        ({"patch": (16, 16)}, "patch="),
        ({"patches": 0}, "patches=0"),
        ({"patch": None, "patches": 2}, "has no patch"),
        ({"channels": 0}, "channels=0"),
    ],
)
def test_arguments_that_are_not_allowed(options, message, tmp_path):
    save(tmp_path / "a.png", colours(24, 24))
    with pytest.raises(ConfigError, match=message):
        PairedImages(tmp_path, **options)
    with pytest.raises(ConfigError, match="changed"):
        PairedImages(tmp_path, patch=None).changed(scale=2)
