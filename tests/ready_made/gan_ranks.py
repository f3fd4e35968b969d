"""What a rank does in `test_gan_ranks.py`: trains GANs whose losses are means over samples, and saves their weights."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like.models import spectral_norm
from farabio_like.trainers import GanTrainer
from tests.ready_made.gans import images

SETTINGS = {
    "plain": {},
    "steps": {"_d_steps": 2, "_accumulation_steps": 3},
    "penalty": {"_gradient_penalty": "r1", "_accumulation_steps": 2, "_loss": "hinge"},
    "clipped": {"_clip_norm": 0.05, "_g_steps": 2, "_loss": "wasserstein", "_ema_decay": 0.5},
}


class Pix(GanTrainer):
    """Makes images of images, so that no noise differs between the ranks."""

    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs, self._seed = "cpu", None, False, 2, 0
        for name, value in self.config.items():
            setattr(self, name, value)

    def get_trainloader(self):
        data = TensorDataset(images(26), images(26, seed=1))
        self.train_loader = DataLoader(data, batch_size=6)
        self.valid_loader = DataLoader(data, batch_size=6)

    def build_model(self):
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)]
        judge = spectral_norm(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)))
        self.model = {"generator": nn.Sequential(*layers), "discriminator": judge}
        self.optimizer = {name: torch.optim.SGD(net.parameters(), lr=0.1) for name, net in self.model.items()}

    def real_images(self):
        return self.targets

    def generate(self):
        return self.forward()


if __name__ == "__main__":
    for name, settings in SETTINGS.items():
        trainer = Pix(settings)
        trainer.train()
        trainer.save_model(Path(sys.argv[1]) / f"{name}.pth")
        state = trainer.history[-1]
        if torch.distributed.get_rank() == 0:
            torch.save({part: state[part] for part in ("train", "valid")}, Path(sys.argv[1]) / f"{name}.numbers")
