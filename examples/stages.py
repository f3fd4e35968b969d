"""Two stages in one run: pretrain an encoder without labels, freeze it, train a classifier on top of it.

    python examples/stages.py
    python examples/stages.py --resume    goes on with a run that was ended, in its stage

The first stage learns to restore digits from noisy ones; the second freezes what it learned and trains the
head alone, with another loss, optimizer and metric. Epochs count on from stage to stage.
"""

import sys

import torch
from digits import Digits
from torch import nn

from farabio_like import Stage


class PretrainedDigits(Digits):
    def define_train_attr(self):
        self._save_epoch = 1  # each epoch, however short: a kill costs none of those that are done
        self._stages = [Stage("pretrain", num_epochs=4), Stage("classify", num_epochs=6, monitor="accuracy")]

    def build_model(self):
        self.model = {
            "encoder": nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
            ),
            "decoder": nn.Sequential(nn.Conv2d(64, 4, 3, padding=1), nn.PixelShuffle(2)),
            "head": nn.Sequential(nn.Flatten(), nn.Linear(64 * 4 * 4, 10)),
        }  # fmt: skip

    def on_stage_start(self):
        if self.stage.name == "pretrain":
            trained, lr, self.criterion = ("encoder", "decoder"), 2e-3, nn.MSELoss()
        else:
            trained, lr, self.criterion = ("head",), 1e-2, nn.CrossEntropyLoss()
        for name, module in self.model.items():
            module.requires_grad_(name in trained)
        self.optimizer = torch.optim.Adam([p for name in trained for p in self.model[name].parameters()], lr=lr)

    def compute_loss(self):
        if self.stage is not None and self.stage.name == "pretrain":
            noisy = self.inputs + 0.3 * torch.randn_like(self.inputs)
            self.outputs = self.model["decoder"](self.model["encoder"](noisy))
            return self.criterion(self.outputs, self.inputs)
        self.outputs = self.forward()
        self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
        return self.criterion(self.outputs, self.targets)

    def forward(self):
        return self.model["head"](self.model["encoder"](self.inputs))


if __name__ == "__main__":
    torch.manual_seed(0)
    trainer = PretrainedDigits()
    trainer.train(resume="--resume" in sys.argv)
    print(f"test accuracy {trainer.test()['accuracy']:.4f}")
