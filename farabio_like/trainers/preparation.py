"""How the data sets of a ready-made trainer make inputs of pictures, where that can be known: as an ``input_spec``.

Known are `ImageMaskFolder`, `PairedImages` and those of torchvision, with the transforms of torchvision whose numbers
`InputSpec` gives to the last bit. A transform of one's own, and one that resizes tensors, tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from ..data.paired_folders import PairedFolders
from .masks import Named

# Changes of the training data that leave what an input is.
_AUGMENTATIONS = {
    *("RandomHorizontalFlip", "RandomVerticalFlip", "RandomRotation", "RandomAffine", "RandomPerspective"),
    *("ColorJitter", "RandomErasing", "RandomInvert", "RandomPosterize", "RandomSolarize", "RandomAutocontrast"),
    *("RandomAdjustSharpness", "RandomEqualize", "RandomGrayscale", "AutoAugment", "RandAugment"),
    *("TrivialAugmentWide", "AugMix", "GaussianBlur", "GaussianNoise", "Identity", "ElasticTransform"),
}
_ALREADY = {"ToPureTensor", "SanitizeBoundingBoxes"}
_GREY = {"MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "USPS"}
_COLOURS = {"ImageFolder", "CIFAR10", "CIFAR100", "SVHN", "STL10"}


def known_input(sources: Iterable[Any]) -> dict[str, Any]:
    """Return how pictures become inputs, by the first of some data sets and loaders of which it is known, else nothing.

    Parameters
    ----------
    sources : iterable
        What is tested or evaluated on comes first: in training, pictures are changed at random.
    """
    for source in sources:
        data = source
        while isinstance(data, (DataLoader, Subset, Named)):
            data = data.dataset
        found = _of_folder(data) if isinstance(data, PairedFolders) else _of_torchvision(data)
        if found is not None:
            return found
    return {}


def _of_folder(data: PairedFolders) -> dict[str, Any] | None:
    # Grey without rounding, as these folders make it of colours.
    mode = {1: "F", 3: "RGB"}.get(data.channels)
    return None if mode is None else _followed(getattr(data, "transform", None), {"mode": mode}, scaled=True)


def _of_torchvision(data: Any) -> dict[str, Any] | None:
    kind = type(data)
    if not kind.__module__.startswith("torchvision.datasets"):
        return None
    mode = "L" if kind.__name__ in _GREY else "RGB" if kind.__name__ in _COLOURS else None
    if mode is None or getattr(data, "target_transform", None) is not None:
        return None
    loader = getattr(data, "loader", None)
    if loader is not None and getattr(loader, "__name__", "") != "default_loader":
        return None
    return _followed(getattr(data, "transform", None), {"mode": mode}, scaled=False)


def _followed(transform: Any, found: dict[str, Any], scaled: bool) -> dict[str, Any] | None:
    """Return what a chain of transforms makes of a picture, None where that is not known.

    Parameters
    ----------
    transform : callable or None
    found : dict
        What is known of the picture before.
    scaled : bool
        Whether the chain begins with a tensor from 0 to 1, not with a picture of Pillow's.
    """
    is_tensor = scaled
    for step in _steps(transform):
        name = type(step).__name__
        if not type(step).__module__.startswith("torchvision.transforms"):
            return None
        if name in _AUGMENTATIONS or name in _ALREADY:
            continue
        if name == "ImageClassification" and not is_tensor:
            crop, shorter = step.crop_size[0], step.resize_size[0]
            found |= {"size": [crop, crop], "fit": "crop", "shorter": shorter} | _filter(step)
            found |= _statistics(step)
            is_tensor = scaled = True
        elif name == "Normalize" and scaled and "mean" not in found:
            found |= _statistics(step)
        elif name in ("Resize", "CenterCrop", "Grayscale", "RGB") and not is_tensor:
            if not _of_picture(name, step, found):
                return None
        elif name == "ToTensor" and not is_tensor:
            is_tensor = scaled = True
        elif name in ("PILToTensor", "ToImage"):
            is_tensor = True
        elif name in ("ToDtype", "ConvertImageDtype") and is_tensor:
            if step.dtype is not torch.float32 or not (getattr(step, "scale", True) or scaled):
                return None
            if not scaled and ".v2" in type(step).__module__:
                found["scaling"] = "multiply"
            scaled = True
        else:
            return None
    return found if scaled and ("shorter" not in found or "size" in found) else None


def _steps(transform: Any) -> list[Any]:
    if transform is None:
        return []
    if type(transform).__name__ == "Compose":
        return [part for each in transform.transforms for part in _steps(each)]
    return [transform]


def _of_picture(name: str, step: Any, found: dict[str, Any]) -> bool:
    """Add what a step does with a picture of Pillow's; return whether that is known."""
    if name in ("Grayscale", "RGB"):
        if "size" in found or "shorter" in found:
            return False  # the mode comes first
        if name == "Grayscale" and step.num_output_channels != 1:
            return False
        found["mode"] = "L" if name == "Grayscale" else "RGB"
        return True
    size = step.size if isinstance(step.size, (list, tuple)) else [step.size]
    if name == "CenterCrop":
        if "size" in found or "shorter" not in found:
            return False
        found.update(size=list(size) * (2 if len(size) == 1 else 1), fit="crop")
        return found["shorter"] >= max(found["size"])
    if "size" in found or "shorter" in found or step.max_size is not None:
        return False
    found.update({"shorter": size[0]} if len(size) == 1 else {"size": list(size), "fit": "resize"}, **_filter(step))
    return True


def _filter(step: Any) -> dict[str, Any]:
    return {"interpolation": getattr(step.interpolation, "value", step.interpolation)}


def _statistics(step: Any) -> dict[str, Any]:
    return {name: [float(number) for number in getattr(step, name)] for name in ("mean", "std")}
