"""Images of bright discs on a dark ground, and their masks, as files and as tensors."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from farabio_like.data import ImageMaskFolder
from farabio_like.models.segmentation import Unet


def discs(number, size=32, classes=2):
    """Return uint8 images, number x size x size, and masks of the numbers of the classes."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:size, :size]
    images, masks = [], []
    for _ in range(number):
        mask = np.zeros((size, size), np.uint8)
        for label in range(1, classes):
            y, x = random.uniform(6, size - 6, 2)
            mask[(rows - y) ** 2 + (columns - x) ** 2 < random.uniform(3, 6) ** 2] = label
        images.append((40 + 70 * mask + random.normal(0, 12, mask.shape)).clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def tensors(number, size=32, classes=2):
    images, masks = discs(number, size, classes)
    return TensorDataset(torch.from_numpy(images).unsqueeze(1) / 255, torch.from_numpy(masks).long())


def folders(where, number=6, size=32, classes=2, **options):
    for index, (image, mask) in enumerate(zip(*discs(number, size, classes), strict=True)):
        for kind, array in (("images", image), ("masks", mask * 255 if classes == 2 else mask)):
            (where / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(where / kind / f"disc{index}.png")
    options.setdefault("classes", 1 if classes == 2 else classes)
    return ImageMaskFolder(where / "images", where / "masks", **options)


def small_unet(num_classes=1, **options):
    torch.manual_seed(0)
    return Unet(num_classes=num_classes, in_channels=1, num_channels=4, num_blocks=2, **options)


QUIET = {"device": "cpu", "verbose": False, "num_epochs": 2, "batch_size": 4}
