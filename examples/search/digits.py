"""The trainer of digits.yml: a small network for scikit-learn's 1,797 images of digits, 8x8 pixels each."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from farabio_like import ConvnetTrainer


class Digits(ConvnetTrainer):
    def get_trainloader(self):
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        everything = TensorDataset(images, torch.tensor(digits.target))
        train, valid = random_split(everything, [1397, 400], torch.Generator().manual_seed(0))
        self.train_loader = DataLoader(train, batch_size=self.config.batch_size, shuffle=True)
        self.valid_loader = DataLoader(valid, batch_size=400)

    def build_model(self):
        width = self.config.width
        self.model = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * width, 10),
        )  # fmt: skip
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config.lr)

    def compute_loss(self):
        self.outputs = self.model(self.inputs)
        self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
        return self.criterion(self.outputs, self.targets)
