"""The trainer of the pipeline: a small network that tells digits apart."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConvnetTrainer


class Recognizer(ConvnetTrainer):
    def define_data_attr(self):
        self.input_spec = {"mode": "L", "size": [8, 8], "classes": [str(digit) for digit in range(10)]}

    def get_trainloader(self):
        data = np.load(self.config.data)
        images, targets = torch.from_numpy(data["images"]), torch.from_numpy(data["targets"])
        held_out = TensorDataset(images[1200:], targets[1200:])
        self.train_loader = DataLoader(TensorDataset(images[:1200], targets[:1200]), batch_size=64, shuffle=True)
        self.valid_loader = self.test_loader = DataLoader(held_out, batch_size=256)

    def build_model(self):
        hidden = self.config.hidden
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.config.lr, momentum=0.9)
        self.criterion = nn.CrossEntropyLoss()
