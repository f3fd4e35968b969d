"""A GAN that learns to write digits.

    python examples/gan_digits.py

Generator and discriminator are convolutions, as in DCGAN (Radford et al., ICLR 2016), the data the 1797 handwritten
digits of scikit-learn. Leaves a grid of samples of every epoch in the run folder, and digits.png: real ones above, and
below what the generator makes. What it makes is judged by a classifier of real digits: how many of the ten digits it
names, with a confidence above 0.9, among 500 samples. About a minute on two CPU cores.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from farabio_like import plots
from farabio_like.trainers import ClassificationTrainer, GanTrainer

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1  # from -1 to 1, as tanh gives them
labels = torch.tensor(digits.target)


def generator():
    return nn.Sequential(
        nn.Linear(32, 64 * 2 * 2), nn.Unflatten(1, (64, 2, 2)), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


def discriminator():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(256, 1),
    )  # fmt: skip


def classifier():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10),
    )  # fmt: skip


if __name__ == "__main__":
    gan = GanTrainer(
        {
            "num_epochs": 50,
            "latent_size": 32,
            "lr": 1e-3,
            "gradient_penalty": "r1",
            "penalty_weight": 1.0,
            "ema_decay": 0.99,
            "samples": 32,
        },
        model={"generator": generator, "discriminator": discriminator},
        train=TensorDataset(images),
    )
    gan.train()
    samples = next(gan.predict(torch.randn(500, 32)))

    judge = ClassificationTrainer(
        model=classifier, train=TensorDataset(images, labels), classes=10, num_epochs=8, lr=2e-3, logdir=None
    )
    judge.train()
    confidences, named = next(judge.predict(samples)).max(1)
    counts = named[confidences > 0.9].bincount(minlength=10)

    picture = gan.run_dir / "digits.png"
    plots.save(plots.image_grid(torch.cat([images[:16], samples[:32]])), picture)
    print(f"\nof 500 samples, a classifier is sure of {counts.sum()}: {(counts > 0).sum()} of the 10 digits")
    print("  ".join(f"{digit}: {count}" for digit, count in enumerate(counts.tolist())))
    print(f"picture in {picture}")
