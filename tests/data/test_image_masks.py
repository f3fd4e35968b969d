"""Folders of images and masks: what every kind of file becomes, how they are paired, patches, transforms."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from farabio_like import ConfigError, DataError
from farabio_like.data import ImageMaskFolder, Items, read_image

v2 = pytest.importorskip("torchvision.transforms.v2")

HEIGHT, WIDTH = 6, 9


def grey(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


def colours(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


MASK = (grey(5) > 100).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def folder(tmp_path, image=None, mask=None, image_name="a.png", mask_name="a.png", **options):
    save(tmp_path / "images" / image_name, grey() if image is None else image)
    save(tmp_path / "masks" / mask_name, MASK if mask is None else mask)
    return ImageMaskFolder(tmp_path / "images", tmp_path / "masks", **options)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.bmp"])
@pytest.mark.parametrize("array", [grey(), colours()], ids=["grey", "colours"])
def test_eight_bits_become_zero_to_one(name, array, tmp_path):
    save(tmp_path / name, array)
    image = read_image(tmp_path / name)
    expected = torch.from_numpy(array).reshape(HEIGHT, WIDTH, -1).permute(2, 0, 1) / 255
    assert image.dtype == torch.float32 and torch.equal(image, expected)


def test_jpeg_is_read(tmp_path):
    array = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    save(tmp_path / "a.jpg", array)
    assert (read_image(tmp_path / "a.jpg") - 200 / 255).abs().max() < 0.02


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_sixteen_bits_are_not_cut(name, tmp_path):
    array = np.arange(54, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 1200
    save(tmp_path / name, array)
    assert torch.allclose(read_image(tmp_path / name)[0], torch.from_numpy(array.astype(np.float32)) / 65535)


def test_floating_point_numbers_stay(tmp_path):
    array = np.linspace(-3, 7, 54, dtype=np.float32).reshape(HEIGHT, WIDTH)
    for name in ("a.tif", "a.npy"):
        save(tmp_path / name, array)
        assert torch.equal(read_image(tmp_path / name)[0], torch.from_numpy(array))
    array[2, 3] = np.nan
    save(tmp_path / "b.npy", array)
    with pytest.raises(DataError, match=r"b\.npy has 1 pixels that are NaN"):
        read_image(tmp_path / "b.npy")


def test_alpha_is_left_out_and_a_palette_looked_up(tmp_path):
    array = colours()
    Image.fromarray(np.dstack([array, grey(1)])).save(tmp_path / "alpha.png")
    assert torch.equal(read_image(tmp_path / "alpha.png"), torch.from_numpy(array).permute(2, 0, 1) / 255)
    Image.fromarray(np.dstack([grey(), grey(1)])).save(tmp_path / "grey_alpha.png")
    assert torch.equal(read_image(tmp_path / "grey_alpha.png")[0], torch.from_numpy(grey()) / 255)
    palette = Image.fromarray(MASK).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    image = read_image(tmp_path / "palette.png")
    assert image.shape == (3, HEIGHT, WIDTH)
    assert torch.equal((image[0] * 255).round(), torch.from_numpy(np.where(MASK == 1, 200, 10)).float())
    Image.fromarray(MASK * 255).convert("1").save(tmp_path / "bits.png")
    assert torch.equal(read_image(tmp_path / "bits.png")[0], torch.from_numpy(MASK).float())


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    image = Image.fromarray(colours())
    exif = image.getexif()
    exif[0x0112] = 6  # on its side
    image.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, WIDTH, HEIGHT)
    save(tmp_path / "masks" / "a.png", np.ascontiguousarray(MASK.T))
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    image, mask = ImageMaskFolder(tmp_path / "images", tmp_path / "masks")[0]
    assert image.shape[1:] == mask.shape == (WIDTH, HEIGHT)


def test_every_image_gets_the_channels_of_the_first(tmp_path):
    save(tmp_path / "images" / "b.png", grey(1))
    save(tmp_path / "masks" / "b.png", MASK)
    data = folder(tmp_path, image=colours())
    assert [data[k][0].shape[0] for k in range(2)] == [3, 3]
    assert torch.equal(data[1][0], (torch.from_numpy(grey(1)) / 255).expand(3, -1, -1))
    grey_ones = ImageMaskFolder(tmp_path / "images", tmp_path / "masks", channels=1)
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    assert torch.allclose(grey_ones[0][0], (data[0][0] * weights).sum(0, keepdim=True))
    save(tmp_path / "images" / "c.npy", np.zeros((HEIGHT, WIDTH, 5), np.uint8))
    save(tmp_path / "masks" / "c.png", MASK)
    with pytest.raises(DataError, match=r"c\.npy has 5 channels; expected 3"):
        ImageMaskFolder(tmp_path / "images", tmp_path / "masks")[2]


def damaged(path, kind):
    save(path, colours())
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no image at all"}[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.npy"])
def test_a_damaged_file_is_named(name, kind, tmp_path):
    damaged(tmp_path / name, kind)
    with pytest.raises(DataError, match=rf"{name} \([\d,]+ bytes\) cannot be read as an image"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("side", ["images", "masks"])
@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".npy"])
def test_a_damaged_file_of_a_folder_is_named(suffix, kind, side, tmp_path):
    for name in "ab":
        save(tmp_path / "images" / f"{name}{suffix}", colours())
        save(tmp_path / "masks" / f"{name}{suffix}", MASK)
    noise = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)  # more than Pillow reads at first
    save(tmp_path / side / f"b{suffix}", noise)
    whole = (tmp_path / side / f"b{suffix}").read_bytes()
    content = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no image at all"}[kind]
    (tmp_path / side / f"b{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=rf"{side}.b\{suffix} .*(cannot be read as an image|has 60 x 50)"):
        ImageMaskFolder(tmp_path / "images", tmp_path / "masks")[1]


def test_a_file_that_would_run_code_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"object": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / "a.npy")


def test_a_stack_of_pages_is_refused(tmp_path):
    pages = [Image.fromarray(grey(k)) for k in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="has 3 pages; expected one"):
        read_image(tmp_path / "a.tif")


def test_channels_first_are_noticed(tmp_path):
    np.save(tmp_path / "a.npy", colours().transpose(2, 0, 1))
    with pytest.raises(DataError, match=r"transpose\(1, 2, 0\)"):
        read_image(tmp_path / "a.npy")


# ---------------------------------------------------------------- masks


def palette_mask(mask):
    picture = Image.fromarray(mask).convert("L")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    return picture


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK * 255,
        np.dstack([MASK * 255] * 3),
        np.dstack([MASK * 255] * 3 + [np.full_like(MASK, 255)]),
        MASK.astype(np.uint16) * 255,
    ],
    ids=["0 and 1", "0 and 255", "three channels", "four channels", "16 bits"],
)
def test_binary_masks(mask, tmp_path):
    found = folder(tmp_path, mask=mask)[0][1]
    assert found.dtype == torch.int64 and torch.equal(found, torch.from_numpy(MASK).long())


def test_binary_masks_of_other_files(tmp_path):
    expected = torch.from_numpy(MASK).long()
    for number, array in enumerate([MASK.astype(bool), MASK.astype(np.float32), MASK.astype(np.int64) * 255]):
        where = tmp_path / str(number)
        assert torch.equal(folder(where, mask=array, mask_name="a.npy")[0][1], expected)
    save(tmp_path / "p" / "images" / "a.png", grey())
    (tmp_path / "p" / "masks").mkdir()
    palette_mask(MASK).save(tmp_path / "p" / "masks" / "a.png")
    assert torch.equal(ImageMaskFolder(tmp_path / "p" / "images", tmp_path / "p" / "masks")[0][1], expected)
    large = np.kron(MASK, np.ones((16, 16), np.uint8))  # JPEG changes 8 x 8 blocks
    found = folder(tmp_path / "jpeg", image=large, mask=large * 255, mask_name="a.jpg")[0][1]
    assert torch.equal(found, torch.from_numpy(large).long())


def test_an_empty_and_a_full_mask(tmp_path):
    for number, (value, expected) in enumerate([(0, 0), (1, 1), (255, 1)]):
        mask = np.full((HEIGHT, WIDTH), value, np.uint8)
        assert folder(tmp_path / str(number), mask=mask)[0][1].unique().tolist() == [expected]


CLASSES = np.random.default_rng(3).integers(0, 4, (HEIGHT, WIDTH), dtype=np.uint8)


def test_masks_of_several_classes(tmp_path):
    expected = torch.from_numpy(CLASSES).long()
    assert torch.equal(folder(tmp_path / "numbers", mask=CLASSES, classes=4)[0][1], expected)
    assert torch.equal(folder(tmp_path / "values", mask=CLASSES * 80, values=[0, 80, 160, 240])[0][1], expected)
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
    found = folder(tmp_path / "colours", mask=table[CLASSES], values=table.tolist())[0][1]
    assert torch.equal(found, expected)
    black = folder(tmp_path / "black", mask=np.zeros((HEIGHT, WIDTH, 3), np.uint8), values=table.tolist())
    assert black[0][1].unique().tolist() == [0]


def test_ignored_pixels_keep_their_number(tmp_path):
    mask = CLASSES.copy()
    mask[0] = 255
    found = folder(tmp_path / "a", mask=mask, classes=4, ignore_index=255)[0][1]
    assert torch.equal(found, torch.from_numpy(mask).long())
    binary = np.where(mask == 255, 255, MASK)
    found = folder(tmp_path / "b", mask=binary, ignore_index=255)[0][1]
    assert torch.equal(found, torch.from_numpy(binary).long())
    found = folder(
        tmp_path / "c", mask=np.where(mask == 255, 7, CLASSES * 80), values=[0, 80, 160, 240], ignore_index=7
    )
    assert (found[0][1][0] == 7).all() and found[0][1][1:].max() < 4


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (CLASSES, {}, r"a\.png has the values 0, 1, 2, 3; expected 0 and 1, or 0 and 255"),
        (CLASSES, {"classes": 3}, r"a\.png has the values 0, 1, 2, 3; expected 0 to 2"),
        (colours(), {}, r"a\.png has colours"),
        (CLASSES, {"values": [0, 1, 2]}, r"a\.png has \[3\], which is not in values"),
        (MASK[:4], {}, r"a\.png has 6 x 9 pixels .* its mask .* has 4 x 9"),
        (np.dstack([colours(), grey()]), {}, "partly transparent"),
    ],
)
def test_a_mask_that_is_none(mask, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        folder(tmp_path, mask=mask, **options)[0]


def test_fractions_are_no_classes(tmp_path):
    with pytest.raises(DataError, match="not whole"):
        folder(tmp_path, mask=MASK / 2, mask_name="a.npy")[0]


# ---------------------------------------------------------------- pairs


def test_pairs_by_name(tmp_path):
    for name in ("b.png", "in/a.tif", "c.jpg"):
        save(tmp_path / "images" / name, grey())
    for name in ("b.npy", "in/a.png", "d.png"):
        save(tmp_path / "masks" / name, MASK)
    (tmp_path / "images" / "notes.txt").write_text("x")
    (tmp_path / "images" / ".b.png").write_text("x")
    with pytest.warns(UserWarning, match=r"2 files have no partner and are left out: c\.jpg, d\.png"):
        data = ImageMaskFolder(tmp_path / "images", tmp_path / "masks")
    assert data.ids == ["b", "in/a"] and len(data) == 2
    assert data.files("in/a") == (tmp_path / "images" / "in" / "a.tif", tmp_path / "masks" / "in" / "a.png")


def test_masks_with_a_suffix(tmp_path):
    data = folder(tmp_path, mask_name="a_mask.png", mask_suffix="_mask")
    assert data.ids == ["a"]
    with pytest.raises(DataError, match="Write mask_suffix='_mask'"):
        ImageMaskFolder(tmp_path / "images", tmp_path / "masks")


@pytest.mark.parametrize("masks", ["data", "data/masks"])
def test_masks_may_lie_among_the_images(masks, tmp_path, recwarn):
    for number in range(3):
        save(tmp_path / "data" / f"{number}.png", grey())
        save(tmp_path / masks / f"{number}_mask.png", MASK)
    data = ImageMaskFolder(tmp_path / "data", tmp_path / masks, mask_suffix="_mask")
    assert data.ids == ["0", "1", "2"] and not list(recwarn)
    save(tmp_path / "data" / "alone.png", grey())
    with pytest.warns(UserWarning, match=r"1 files have no partner and are left out: alone\.png$"):
        ImageMaskFolder(tmp_path / "data", tmp_path / masks, mask_suffix="_mask")
    if masks == "data":
        with pytest.raises(DataError, match="Write mask_suffix='_mask'"):  # no image is its own mask
            ImageMaskFolder(tmp_path / "data", tmp_path / masks)


def test_what_cannot_be_paired(tmp_path):
    folder(tmp_path)
    with pytest.raises(DataError, match="there is no folder .*image;"):
        ImageMaskFolder(tmp_path / "image", tmp_path / "masks")
    save(tmp_path / "images" / "a.tif", grey())
    with pytest.raises(DataError, match="have the same name"):
        ImageMaskFolder(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in .*empty"):
        ImageMaskFolder(tmp_path / "empty", tmp_path / "masks")


def test_parts_have_no_image_in_common(tmp_path):
    for number in range(10):
        save(tmp_path / "images" / f"{number}.png", grey())
        save(tmp_path / "masks" / f"{number}.png", MASK)
    data = ImageMaskFolder(tmp_path / "images", tmp_path / "masks")
    parts = data.split(0.6, 0.2, 0.2, seed=1)
    assert [len(part) for part in parts] == [6, 2, 2]
    assert sorted(id for part in parts for id in part.ids) == data.ids
    assert [part.ids for part in data.split(0.6, 0.2, 0.2, seed=1)] == [part.ids for part in parts]
    assert [part.ids for part in data.split(0.6, 0.2, 0.2, seed=2)] != [part.ids for part in parts]
    assert [len(part) for part in data.split(0.98, 0.01, 0.01)] == [8, 1, 1]
    for wrong in [(), (0.9, 0.3), (0, 1), (1.5,)]:
        with pytest.raises(ConfigError, match="split"):
            data.split(*wrong)
    with pytest.raises(DataError, match=r"no image and mask with the id '11'"):
        data.changed(ids=["11"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes=0"),
        ({"patches": 2}, "has no patch"),
        ({"patch": 0}, "patch=0"),
        ({"patch": (4, 4, 4)}, "patch="),
        ({"values": [0]}, "values="),
        ({"values": [0, (1, 2, 3)]}, "values="),
        ({"patch": 4.5}, "patch=4.5"),
        ({"patch": "44"}, "patch='44'"),
        ({"channels": 0}, "channels=0"),
        ({"channels": "3"}, "channels='3'"),
        ({"ignore_index": "255"}, "ignore_index='255'"),
        ({"ignore_index": 254.5}, "ignore_index=254.5"),
        ({"transform": 3}, "transform"),
    ],
)
def test_arguments_that_are_not_allowed(options, message, tmp_path):
    folder(tmp_path)
    with pytest.raises(ConfigError, match=message):
        ImageMaskFolder(tmp_path / "images", tmp_path / "masks", **options)
    with pytest.raises(ConfigError, match="changed"):
        ImageMaskFolder(tmp_path / "images", tmp_path / "masks").changed(classes=2)
    with pytest.raises(ConfigError, match="transform"):
        ImageMaskFolder(tmp_path / "images", tmp_path / "masks").changed(transform=3)


# ---------------------------------------------------------------- patches and transforms


def large(tmp_path, **options):
    """Return images of which every pixel has another value, and masks of their lowest bit."""
    for number in range(3):
        image = (np.arange(40 * 50, dtype=np.uint16) + 7000 * number).reshape(40, 50)
        save(tmp_path / "images" / f"{number}.npy", image)
        save(tmp_path / "masks" / f"{number}.png", (image % 2).astype(np.uint8))
    return ImageMaskFolder(tmp_path / "images", tmp_path / "masks", **options)


def test_a_patch_is_of_image_and_mask_alike(tmp_path):
    data = large(tmp_path, patch=(8, 16), patches=4)
    assert len(data) == 12
    places = set()
    for index in range(12):
        image, mask = data[index]
        assert image.shape == (1, 8, 16) and mask.shape == (8, 16)
        numbers = (image[0].double() * 65535).round().long()
        assert torch.equal(numbers % 2, mask)
        assert torch.equal(numbers - numbers[0, 0], torch.arange(8)[:, None] * 50 + torch.arange(16))
        assert numbers[0, 0] // 7000 == index // 4  # of the image that its position says
        places.add(int(numbers[0, 0]))
    assert len(places) > 8
    with pytest.raises(IndexError):
        data[12]


def test_patches_reach_every_corner(tmp_path):
    data = large(tmp_path, patch=(39, 49))
    corners = {int((data[0][0][0, 0, 0] * 65535).round()) for _ in range(60)}
    assert corners == {0, 1, 50, 51}


@pytest.mark.parametrize("workers", [0, 2])
def test_patches_depend_on_seed_and_position(workers, tmp_path):
    data = large(tmp_path, patch=8, transform=v2.RandomHorizontalFlip())

    def epoch(seed):
        loader = DataLoader(data, batch_size=2, num_workers=workers)
        return torch.cat([images for _, (images, _) in Items(loader, "train", seed)])

    first = epoch((0, "train", 1))
    assert torch.equal(first, epoch((0, "train", 1)))
    alone = Items(DataLoader(data), "train", (0, "train", 1))
    assert torch.equal(first, torch.cat([images for _, (images, _) in alone]))
    assert not torch.equal(first, epoch((0, "train", 2)))


def test_a_small_image_is_filled_up(tmp_path):
    image, mask = folder(tmp_path, patch=12, ignore_index=9)[0]
    assert image.shape == (1, 12, 12) and mask.shape == (12, 12)
    assert image[:, HEIGHT:].abs().max() == 0 and image[..., WIDTH:].abs().max() == 0
    assert (mask[HEIGHT:] == 9).all() and (mask[:, WIDTH:] == 9).all()
    assert torch.equal(mask[:HEIGHT, :WIDTH], torch.from_numpy(MASK).long())


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomRotation((33, 33), v2.InterpolationMode.BILINEAR),
        v2.ElasticTransform(alpha=20.0),
        v2.RandomAffine(20, scale=(0.5, 1.5), interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomResizedCrop((17, 23)),
        v2.Resize((31, 29)),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_a_mask_is_never_interpolated(transform, tmp_path):
    mask = np.random.default_rng(0).choice([0, 3, 9], (30, 30)).astype(np.uint8)
    data = folder(tmp_path, image=(mask * 20), mask=mask, classes=10, transform=transform)
    image, found = data[0]
    assert type(image) is type(found) is torch.Tensor and found.dtype == torch.int64
    assert image.shape[-2:] == found.shape and set(found.unique().tolist()) <= {0, 3, 9}
    assert len((image * 255).round().unique()) > 3  # the image is


def test_image_and_mask_are_turned_alike(tmp_path):
    mask = (np.random.default_rng(0).random((20, 30)) > 0.5).astype(np.uint8)
    flips = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomCrop((9, 11))])
    data = folder(tmp_path, image=mask * 255, mask=mask, transform=flips)
    for _ in range(8):
        image, found = data[0]
        assert torch.equal(image[0], found.float())


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image, mask: image, "returned a Image|returned a Tensor; expected an image and a mask"),
        (lambda image, mask: (image[:, :4], mask), "expected the same height and width"),
        (lambda image, mask: None, "returned a NoneType"),
    ],
)
def test_a_transform_that_is_none_of_pairs(transform, message, tmp_path):
    with pytest.raises(DataError, match=message):
        folder(tmp_path, transform=transform)[0]


def test_nothing_is_said_where_all_is_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = folder(tmp_path)
        data[0]
    assert repr(data) == "ImageMaskFolder of 1 images"
