"""What a rank does in `test_super_resolution_ranks.py`: trains in both stages, and prints the numbers."""

import json
import sys
from pathlib import Path

import torch

from farabio_like import distributed
from farabio_like.data import PairedImages
from farabio_like.models.superresolution import SRResNet, VGGDiscriminator
from farabio_like.trainers import SuperResolutionTrainer


def main(where):
    data = PairedImages(where / "photos", scale=2, patch=16, patches=2)
    torch.manual_seed(0)
    networks = {
        "generator": SRResNet(2, blocks=1, features=8),
        "discriminator": VGGDiscriminator(features=4, hidden=8, norm=None),
    }
    trainer = SuperResolutionTrainer(
        model=networks,
        train=data,
        valid=data.changed(patch=None),
        loss="standard",
        perceptual_weight=0,
        content_weight=1,
        pretrain_epochs=1,
        gan_epochs=1,
        batch_size=4,
        tile=16,
        device="cpu",
        verbose=False,
        logdir=str(where / "runs"),
    )
    history = trainer.train()
    weights = [value.double().abs().sum().item() for model in trainer.model.values() for value in model.parameters()]
    return weights, [entry["valid"] for entry in history], str(trainer.run_dir)


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    every = distributed.gather_objects(found[0])
    if distributed.is_main():
        assert all(weights == every[0] for weights in every), "the ranks have different weights"
        print("RESULT", json.dumps(found))
