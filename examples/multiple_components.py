"""One or several models, optimizers and criteria: each may be one object or a dict of them.

    python examples/multiple_components.py

The same classifier of handwritten digits four times: with one of each, with two models under one optimizer,
with an optimizer for each model, and with two criteria. No step is written by hand: the trainer clears, steps,
moves and saves whatever it finds under a name.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from farabio_like import ConvnetTrainer


class OneOfEach(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = 10

    def define_log_attr(self):
        self._logdir = None  # nothing to keep: tests the weights in memory

    def get_trainloader(self):
        digits = load_digits()
        pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
        everything = TensorDataset(pixels, torch.tensor(digits.target))
        train, valid, self.test_set = random_split(everything, [1197, 200, 400], torch.Generator().manual_seed(0))
        self.train_loader = DataLoader(train, batch_size=32, shuffle=True)
        self.valid_loader = DataLoader(valid, batch_size=200)

    def get_testloader(self):
        self.test_loader = DataLoader(self.test_set, batch_size=200)

    def build_model(self):
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)

    def compute_loss(self):
        loss = super().compute_loss()
        self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
        return loss


class TwoModels(OneOfEach):
    def build_model(self):
        self.model = {"encoder": nn.Sequential(nn.Linear(64, 128), nn.ReLU()), "head": nn.Linear(128, 10)}
        self.criterion = nn.CrossEntropyLoss()
        parameters = [{"params": module.parameters()} for module in self.model.values()]
        self.optimizer = torch.optim.Adam(parameters, lr=2e-3)

    def forward(self):
        return self.model["head"](self.model["encoder"](self.inputs))


class TwoOptimizers(TwoModels):
    def build_model(self):
        super().build_model()
        self.optimizer = {
            "encoder": torch.optim.Adam(self.model["encoder"].parameters(), lr=2e-3),
            "head": torch.optim.Adam(self.model["head"].parameters(), lr=1e-3),
        }


class OneHotLoss(nn.BCEWithLogitsLoss):
    def forward(self, logits, targets):
        return super().forward(logits, nn.functional.one_hot(targets, 10).float())


class TwoCriteria(OneOfEach):
    def build_model(self):
        super().build_model()
        self.criterion = {"multi-class": nn.CrossEntropyLoss(), "multi-label": OneHotLoss()}


if __name__ == "__main__":
    results = {}
    for kind in (OneOfEach, TwoModels, TwoOptimizers, TwoCriteria):
        torch.manual_seed(0)
        trainer = kind()
        trainer.train()
        results[kind.__name__] = trainer.test()["accuracy"]
        print()
    for name, accuracy in results.items():
        print(f"{name:<14} test accuracy {accuracy:.4f}")
