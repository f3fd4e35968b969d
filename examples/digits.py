"""Handwritten digits: the smallest useful trainer.

    python examples/digits.py

Trains a small convolutional network on scikit-learn's 1,797 real 8x8 images for 8 epochs (some seconds on
two CPU cores), tests the best epoch, and leaves pictures and a report in the run folder: curves, the confusion
matrix, bars per class, and a grid of predictions.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from farabio_like import ConvnetTrainer, plots
from farabio_like.callbacks import ConfusionMatrix, PrecisionRecallF1


class Digits(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = 8
        self._monitor = "accuracy"
        self.callbacks = [ConfusionMatrix(), PrecisionRecallF1(loaders=("valid",))]

    def get_trainloader(self):
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        everything = TensorDataset(images, torch.tensor(digits.target))
        train, valid, self.test_set = random_split(everything, [1197, 200, 400], torch.Generator().manual_seed(0))
        self.train_loader = DataLoader(train, batch_size=32, shuffle=True)
        self.valid_loader = DataLoader(valid, batch_size=200)

    def get_testloader(self):
        self.test_loader = DataLoader(self.test_set, batch_size=200)

    def build_model(self):
        self.model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10),
        )  # fmt: skip
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)

    def compute_loss(self):
        self.outputs = self.model(self.inputs)
        self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
        return self.criterion(self.outputs, self.targets)

    def on_test_end(self):
        images, targets = next(iter(self.test_loader))
        predicted = next(self.predict(images)).argmax(1).cpu()
        grid = plots.prediction_grid(images[:48], predicted[:48], targets[:48])
        if self.run_dir is not None:  # there is none where only weights were loaded
            plots.save(grid, self.run_dir / "plots" / "predictions.png")


if __name__ == "__main__":
    torch.manual_seed(0)
    trainer = Digits()
    trainer.train()
    result = trainer.test()
    print(f"test accuracy {result['accuracy']:.4f}, report in {trainer.run_dir / 'report.html'}")
