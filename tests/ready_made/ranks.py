"""What a rank does in `test_ranks.py`: trains and tests, and prints the numbers."""

import json
import sys
from pathlib import Path

import torch

from farabio_like import distributed
from farabio_like.data import ImageMaskFolder
from farabio_like.trainers import ClassificationTrainer, SegmentationTrainer
from tests.ready_made.discs import QUIET, small_unet
from tests.ready_made.test_classification import images, network


def segmentation(where):
    data = ImageMaskFolder(where / "images", where / "masks")
    options = {"window": 16, "flips": True, "hausdorff": True, "logdir": str(where / "runs")}
    trainer = SegmentationTrainer(model=small_unet, train=data, valid=data, test=data, **QUIET, **options)
    trainer.train()
    return trainer.history[-1]["valid"], trainer.test(), str(trainer.run_dir)


def classification(where):
    data = torch.utils.data.TensorDataset(*images(22))
    options = {"classes": 3, "logdir": str(where / "runs")}
    trainer = ClassificationTrainer(model=linear, train=data, valid=data, test=data, **QUIET, **options)
    trainer.train()
    return trainer.history[-1]["valid"], trainer.test(), str(trainer.run_dir)


def linear():
    """Return a network without batch norm, whose statistics are those of a rank's part of a batch."""
    return torch.nn.Sequential(*[part for part in network() if not isinstance(part, torch.nn.BatchNorm1d)])


if __name__ == "__main__":
    found = [segmentation(Path(sys.argv[1])), classification(Path(sys.argv[1]))]
    if distributed.is_main():
        print("RESULT", json.dumps(found))
