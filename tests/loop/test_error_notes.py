"""An exception says in which epoch, batch and hook it was raised."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from farabio_like import DataError

from ..checks.test_checks import Keyed, Steps
from ..trainers import INPUTS, TARGETS


class Classes(Steps):
    def get_trainloader(self):
        self.train_loader = [(INPUTS, torch.zeros(10, dtype=torch.int64)), self.config["batch"]]

    def build_model(self):
        self.model = nn.Linear(3, 3)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


def noted(error, trainer, run="train"):
    """Return the notes on the error that a run ends with."""
    if not hasattr(error, "add_note"):
        pytest.skip("Python 3.10 has no notes")
    with pytest.raises(error) as caught:
        getattr(trainer, run)()
    return caught.value.__notes__


LABELS = torch.zeros(10, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batch", "error", "where"),
    [
        ((INPUTS, LABELS + 7), IndexError, "in compute_loss, with the batch (float32 (10, 3), int64 (10,))"),
        ((INPUTS, TARGETS[:, 0]), RuntimeError, "in compute_loss, with the batch (float32 (10, 3), float32 (10,))"),
        ((INPUTS[:, :2], LABELS), RuntimeError, "in forward, with the batch (float32 (10, 2), int64 (10,))"),
        ((INPUTS.double(), LABELS), RuntimeError, "in forward, with the batch (float64 (10, 3), int64 (10,))"),
        ((INPUTS.numpy(), LABELS), TypeError, "in forward, with the batch (ndarray, int64 (10,))"),
        (
            (INPUTS, torch.zeros(10, dtype=torch.int64, device="meta")),
            NotImplementedError,
            "in to_device, with the batch (float32 (10, 3), int64 (10,) on meta)",
        ),
    ],
    ids=["label out of range", "float labels", "other width", "other dtype", "numpy", "other device"],
)
def test_an_error_says_where_it_was_raised(batch, error, where):
    assert noted(error, Classes({"batch": batch})) == [f"Classes: epoch 1, step 2, {where}"]


class Ragged(Dataset):
    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.sample(index) if index == 5 else (INPUTS[index], TARGETS[index])


@pytest.mark.parametrize(
    ("sample", "error"),
    [(lambda _: None, TypeError), (lambda _: (INPUTS[:2], TARGETS[0]), RuntimeError)],
    ids=["None", "ragged"],
)
def test_an_error_of_a_loader_says_which_batch(sample, error):
    trainer = Steps()
    trainer.train_loader = DataLoader(Ragged(sample), batch_size=4)
    assert noted(error, trainer) == ["Steps: epoch 1, at batch 1 of the train loader"]
    trainer = Steps()
    trainer.valid_loader = DataLoader(Ragged(sample), batch_size=4)
    assert noted(error, trainer) == ["Steps: epoch 1, at batch 1 of the valid loader"]
    trainer.test_loader = DataLoader(Ragged(sample), batch_size=4)
    assert noted(error, trainer, "test") == ["Steps: at batch 1 of the test loader"]


def test_an_error_outside_of_the_batches_says_its_epoch():
    class Fails(Steps):
        def on_epoch_end(self):
            raise OSError("mine")

    assert noted(OSError, Fails()) == ["Fails: epoch 1, in on_epoch_end"]
    assert noted(DataError, Keyed())[0].endswith("with the batch {'image': float32 (10, 3), 'label': float32 (10, 1)}")
