"""Photographs, twice as large.

    python examples/super_resolution.py

The photographs come with scikit-image. A small network learns from three of them, patch by patch, another one says
which epoch is best, and a portrait of a cat, which the network has never seen, is made larger from its half size.
Prints PSNR and SSIM beside those of a bicubic filter, by both protocols, and leaves the picture. Under two minutes on
two cores.

A second stage against a discriminator makes images sharper, and is a matter of hours on a GPU: gan_epochs=100.
"""

from pathlib import Path

import numpy as np
import torch
from skimage import data

from farabio_like.data import PairedImages
from farabio_like.inference import upscale
from farabio_like.loggers.images import png
from farabio_like.metrics import psnr, ssim
from farabio_like.models.superresolution import SRResNet
from farabio_like.trainers import SuperResolutionTrainer
from farabio_like.trainers.comparison import bicubic, panels, sheet

SCALE = 2
PHOTOS = {"train": ["astronaut", "coffee", "motorcycle"], "valid": ["rocket"], "test": ["cat"]}


def write_photos(folder):
    """Write the photographs, as NPY files: a patch is read without the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = {"motorcycle": data.stereo_motorcycle()[0]}
    photos.update({name: getattr(data, name)() for name in ("astronaut", "coffee", "rocket", "cat")})
    for name, photo in photos.items():
        np.save(folder / f"{name}.npy", photo)


def main():
    folder = Path("runs") / "photos"
    write_photos(folder)
    parts = {name: PairedImages(folder, scale=SCALE, patch=None, ids=ids) for name, ids in PHOTOS.items()}
    epochs = 10
    trainer = SuperResolutionTrainer(
        model=lambda: SRResNet(SCALE, blocks=3, features=16),
        train=parts["train"].changed(patch=96, patches=128),
        valid=parts["valid"],
        test=parts["test"],
        pretrain_epochs=epochs,
        gan_epochs=0,
        batch_size=8,
        lr=4e-3,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    )
    trainer.train()
    trainer.test()  # loads the weights of the best epoch

    low, high = parts["test"][0]
    ours = upscale(trainer.model["generator"], low).clamp(0, 1)
    found = {"bicubic": bicubic(low[None], SCALE)[0], "ours": ours}
    print(f"\n{'':8}{'PSNR (Y)':>10}{'SSIM (Y)':>10}{'PSNR':>10}{'SSIM':>10}")
    for name, image in found.items():
        luma = [measure(image, high, protocol="y", crop=SCALE).item() for measure in (psnr, ssim)]
        colours = [measure(image, high).item() for measure in (psnr, ssim)]
        print(f"{name:8}" + "".join(f"{value:10.4f}" for value in (*luma, *colours)))
    gain = psnr(ours, high, 1, "y", SCALE) - psnr(found["bicubic"], high, 1, "y", SCALE)
    path = trainer.run_dir / "cat.png"
    path.write_bytes(png(sheet([panels(low, ours, high)])))
    print(f"{gain:+.2f} dB over the bicubic filter; the picture is {path}")


if __name__ == "__main__":
    main()
