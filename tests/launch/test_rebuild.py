"""A trainer from a run's folder: with the code that is kept there, not with that of today."""

import textwrap
from pathlib import Path

import pytest

from farabio_like.errors import ConfigError
from farabio_like.launch import rebuild

TRAINER = """
import torch
from farabio_like import ConvnetTrainer
from width import WIDTH

class Sized(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = 1
        self._verbose = False

    def get_trainloader(self):
        self.train_loader = self.valid_loader = self.test_loader = [(torch.ones(4, 3), torch.ones(4, WIDTH))]

    def build_model(self):
        self.model = torch.nn.Linear(3, WIDTH)
        self.criterion = torch.nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.config.lr)

if __name__ == "__main__":
    Sized({"lr": 0.1}).train()
"""


@pytest.fixture
def run_folder(python):
    """Return the folder of a run that a script has trained, and change the script's module afterwards."""
    Path("width.py").write_text("WIDTH = 2\n")
    python(textwrap.dedent(TRAINER))
    Path("width.py").write_text("WIDTH = 5\n")
    return Path("runs/Sized/1")


def test_the_code_is_that_of_the_run(run_folder):
    trainer = rebuild(run_folder)
    assert trainer.model.out_features == 2 and trainer.config.lr == 0.1
    trainer.load_model(run_folder / "checkpoints" / "best.ckpt")
    assert "loss" in trainer.test()


def test_a_folder_that_is_no_run():
    with pytest.raises(ConfigError, match=r"is no run folder: it has no config\.yaml"):
        rebuild(".")
