"""Stained cells in real tissue, from weak labels.

    python examples/segment_tissue.py

The image is one of immunohistochemistry that comes with scikit-image: 512 x 512 pixels of tissue in which an antibody
has stained some cells brown, and the others are blue. Nobody has drawn masks for it. Colour deconvolution (Ruifrok and
Johnston, 2001) gives rough ones: where the brown stain is strong, over some pixels. Patches of the left half train a
U-Net, which sees colours alone; the right half tests it. Prints the IoU there, and leaves masks and overlays in the run
folder. Under a minute on two CPU cores.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data, filters, morphology
from skimage.color import rgb2hed
from torchvision.transforms import v2

from farabio_like.data import ImageMaskFolder
from farabio_like.models.segmentation import Unet
from farabio_like.trainers import SegmentationTrainer

PARTS = {"train": np.s_[:384, :256], "valid": np.s_[384:, :256], "test": np.s_[:, 256:]}


def write_parts(folder):
    """Write the parts of the image, and masks of where the brown stain is strong."""
    image = data.immunohistochemistry()
    stain = filters.gaussian(rgb2hed(image)[..., 2], sigma=2)
    mask = morphology.remove_small_objects(stain > filters.threshold_otsu(stain), max_size=60)
    for name, part in PARTS.items():
        for kind, array in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(array[part])).save(folder / kind / f"{name}.png")


def main():
    folder = Path("runs") / "tissue"
    write_parts(folder)
    parts = {name: ImageMaskFolder(folder / "images", folder / "masks", ids=[name]) for name in PARTS}
    augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.ColorJitter(0.1, 0.1, 0.05)])
    trainer = SegmentationTrainer(
        model=lambda: Unet(num_channels=8, num_blocks=4),
        train=parts["train"].changed(patch=128, patches=32, transform=augment),
        valid=parts["valid"],
        test=parts["test"],
        num_epochs=12,
        lr=3e-3,
        window=128,
        flips=True,
    )
    trainer.train()
    result = trainer.test()
    print(f"IoU on the held-out half {result['iou']:.3f}, overlays in {trainer.run_dir / 'test' / 'overlays'}")


if __name__ == "__main__":
    main()
