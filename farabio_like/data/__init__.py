"""Batches and loaders: reading, moving, counting, going on in the middle. Nothing here knows a trainer.

Loaders that several ranks share are in `distributed.loaders`.
"""

from .batches import batch_of, describe_batch, inputs_and_targets, is_batch, move, shapes_of
from .counting import Counted, SampleCounter, batch_size
from .image_files import read_image
from .image_masks import ImageMaskFolder
from .loaders import Items, describe_loader, fetcher, length_of, read, read_batches
from .paired_images import PairedImages
from .resizing import downscale

__all__ = [
    "Counted",
    "ImageMaskFolder",
    "Items",
    "PairedImages",
    "SampleCounter",
    "batch_of",
    "batch_size",
    "describe_batch",
    "describe_loader",
    "downscale",
    "fetcher",
    "inputs_and_targets",
    "is_batch",
    "length_of",
    "move",
    "read",
    "read_batches",
    "read_image",
    "shapes_of",
]
