import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like.callbacks.base import Callback
from farabio_like.callbacks.mixing import CutMix, Mixup
from farabio_like.errors import ConfigError, DataError
from tests.trainers import INPUTS, Tiny

IMAGES = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 2, 8, 10).contiguous()
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


class Classes(Tiny):
    def get_trainloader(self):
        data = TensorDataset(self.config.get("_images", IMAGES), LABELS)
        self.train_loader = self.valid_loader = DataLoader(data, batch_size=self.config.get("_batch", 6))

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(160, 3))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001)

    def on_end_training_batch(self):
        self.seen = getattr(self, "seen", []) + [(self.inputs, self.targets)]


class After(Callback):
    """What callbacks see at the end of a batch."""

    def on_end_training_batch(self, trainer):
        assert trainer.targets.dtype == LABELS.dtype
        trainer.batch_metrics["own"] = (trainer.targets == trainer.batch[1]).float().mean()


def run(kind, *callbacks, **settings):
    trainer = kind(settings)
    trainer.callbacks = list(callbacks)
    torch.manual_seed(3)
    trainer.train()
    return trainer


def test_mixup_is_the_formula():
    class Noted(Classes):
        def on_start_training_batch(self, item):
            self.take_batch(item)
            self.random = torch.get_rng_state()

    trainer = run(Noted, Mixup(2.0, num_classes=3), _num_epochs=1, _has_eval=False)
    inputs, targets = trainer.seen[0]
    torch.set_rng_state(trainer.random)
    share = torch.distributions.Beta(torch.tensor(2.0), torch.tensor(2.0)).sample()
    order = torch.randperm(6)
    one_hot = torch.eye(3)[LABELS]
    assert 0.05 < share < 0.95 and not torch.equal(order, torch.arange(6))
    assert torch.allclose(inputs, share * IMAGES + (1 - share) * IMAGES[order], atol=1e-6)
    assert torch.allclose(targets, share * one_hot + (1 - share) * one_hot[order], atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(6))


def test_cutmix_mixes_the_targets_by_the_area_that_is_left():
    trainer = run(Classes, CutMix(num_classes=3), _num_epochs=30, _has_eval=False)
    areas = set()
    for inputs, targets in trainer.seen:
        # Every image is one colour: what is left of it can be counted.
        shares = (inputs == torch.arange(6.0).reshape(6, 1, 1, 1)).float().mean((1, 2, 3))
        moved = shares < 1
        left = shares[moved][0] if moved.any() else torch.tensor(1.0)
        assert torch.all(shares[moved] == left)
        for i in range(6):
            foreign = inputs[i][inputs[i] != i]
            expected = torch.zeros(3)
            expected[LABELS[i]] += left if len(foreign) else 1.0
            if len(foreign):
                assert len(foreign.unique()) == 1
                expected[LABELS[int(foreign[0])]] += 1 - left
                rows, columns = (inputs[i, 0] != i).nonzero().T
                box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
                assert box == len(rows)  # a full rectangle
            assert torch.allclose(targets[i], expected, atol=1e-6)
        areas.add(round(float(left), 3))
    assert len(areas) > 10
    assert torch.equal(IMAGES[:, 0, 0, 0], torch.arange(6.0))  # the data set is untouched


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_runs_are_reproducible_and_metrics_see_the_own_targets(kind):
    first = run(Classes, kind(1.0, num_classes=3), After(), _batch=4)
    second = run(Classes, kind(1.0, num_classes=3), After(), _batch=4)
    plain = run(Classes, _batch=4)
    assert torch.equal(first.model[1].weight, second.model[1].weight)
    assert not torch.equal(first.model[1].weight, plain.model[1].weight)
    assert first.history[-1]["train"]["own"] == 1.0
    assert "own" not in first.history[-1]["valid"]


def test_both_together_still_give_the_own_targets_back():
    trainer = run(Classes, Mixup(1.0, 3), CutMix(1.0, 3), After())
    assert trainer.history[-1]["train"]["own"] == 1.0


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_a_batch_of_one_sample_stays_itself(kind):
    trainer = run(Classes, kind(num_classes=3), _batch=1, _num_epochs=1)
    for (inputs, targets), image, label in zip(trainer.seen, IMAGES, LABELS, strict=True):
        assert torch.allclose(inputs[0], image) and torch.allclose(targets[0], torch.eye(3)[label])


def test_regression_targets_are_mixed():
    class Line(Tiny):
        def on_start_training_batch(self, item):
            self.take_batch(item)
            self.targets = self.inputs[:, :1] * 2 + 1  # what is true of the samples stays true of every mean of them

        def on_end_training_batch(self):
            assert torch.allclose(self.targets, self.inputs[:, :1] * 2 + 1, atol=1e-6)
            self.moved = getattr(self, "moved", 0) + int((self.inputs != self.batch[0]).any())

    assert run(Line, Mixup(5.0)).moved > 0


def test_masks_become_probabilities_with_the_classes_in_the_second_dimension():
    soft = Mixup(num_classes=4)._soft(torch.randint(4, (2, 5, 6)), torch.float16)
    assert soft.shape == (2, 4, 5, 6) and soft.dtype == torch.float32
    assert Mixup()._soft(torch.tensor([[True, False]]), torch.uint8).dtype == torch.float32


@pytest.mark.parametrize(
    ("callback", "settings", "error", "message"),
    [
        (Mixup(), {}, ConfigError, r"write Mixup\(alpha=0.2, num_classes=10\)"),
        (Mixup(num_classes=2), {}, DataError, "got targets from 0 to 2; expected class indices from 0 to 1"),
        (Mixup(num_classes=3), {"_images": IMAGES.to(torch.uint8)}, DataError, "torch.uint8; expected floating"),
        (CutMix(num_classes=3), {"_images": INPUTS[:6]}, DataError, "expected images"),
    ],
)
def test_batches_that_cannot_be_mixed(callback, settings, error, message):
    with pytest.raises(error, match=message):
        run(Classes, callback, **settings)


def test_a_batch_that_is_no_pair_of_tensors():
    class Alone(Tiny):
        def on_start_training_batch(self, item):
            self.inputs, self.targets = item[1][0], None

    with pytest.raises(DataError, match=r"inputs \(4, 3\) and targets NoneType; expected two tensors"):
        run(Alone, Mixup())
    with pytest.raises(DataError, match="For masks write Mixup"):
        CutMix(num_classes=3)._soft(torch.zeros(2, 5, 5), torch.float32)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_arguments(kind):
    with pytest.raises(ConfigError, match="above 0"):
        kind(alpha=0)
    with pytest.raises(ConfigError, match="number of classes"):
        kind(num_classes=0)
