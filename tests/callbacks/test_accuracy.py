"""Accuracy equals scikit-learn's, for every kind of target."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from torch import nn

from farabio_like import ConfigError, ConvnetTrainer, DataError
from farabio_like.callbacks.accuracy import Accuracy
from farabio_like.callbacks.overlap import Dice
from farabio_like.callbacks.precision_recall import PrecisionRecallF1

from .replay import batches, measure, replay, scores

HALVES = [torch.float32, torch.float16, torch.bfloat16]


class Digits(ConvnetTrainer):
    def define_train_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs, self._load_best = "cpu", None, False, 2, False

    def get_trainloader(self):
        images, digits = load_digits(return_X_y=True)
        pairs = torch.utils.data.TensorDataset(torch.tensor(images).float() / 16, torch.tensor(digits))
        self.valid_loader = torch.utils.data.DataLoader(pairs, batch_size=100)
        self.train_loader = torch.utils.data.DataLoader(pairs, batch_size=100, shuffle=True)

    def build_model(self):
        self.model = nn.Linear(64, 10)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)


def test_digits():
    trainer = Digits()
    trainer.callbacks = [Accuracy(top_k=(1, 3))]
    (*_, entry) = trainer.train()
    images, digits = load_digits(return_X_y=True)
    with torch.no_grad():
        logits = trainer.model(torch.tensor(images).float() / 16).numpy()
    assert 0.5 < entry["valid"]["accuracy"] < 1
    assert entry["valid"]["accuracy"] == pytest.approx(accuracy_score(digits, logits.argmax(1)), abs=1e-6)
    assert entry["valid"]["accuracy_top3"] == pytest.approx(top_k_accuracy_score(digits, logits, k=3), abs=1e-6)
    assert list(entry["train"]) == ["loss", "accuracy", "accuracy_top3"]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [7, 8, 40, 100])
def test_classes(dtype, size):
    logits, target = scores(40, 5, dtype=dtype)
    found = measure(Accuracy(top_k=(1, 2, 5)), logits, target, size)
    given = logits.double().numpy()
    assert list(found) == ["accuracy", "accuracy_top2", "accuracy_top5"]
    assert found["accuracy"] == pytest.approx(accuracy_score(target, given.argmax(1)), abs=1e-9)
    # scikit-learn takes the last of equal scores, this the first, like argmax.
    order = np.argsort(-given, axis=1, kind="stable")
    assert found["accuracy_top2"] == np.mean([t in row[:2] for t, row in zip(target, order, strict=True)])
    assert found["accuracy_top5"] == 1


def test_equal_scores_count_for_the_first_class_as_argmax_does():
    logits, target = torch.zeros(4, 4), torch.arange(4)
    assert measure(Accuracy((1, 2, 3)), logits, target) == {
        "accuracy": 0.25,
        "accuracy_top2": 0.5,
        "accuracy_top3": 0.75,
    }


def test_nan_is_never_among_the_best():
    logits, target = torch.tensor([[1.0, math.nan, 0.0], [math.nan] * 3]), torch.tensor([2, 2])
    assert measure(Accuracy((2,)), logits, target) == {"accuracy_top2": 0.0}


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("wanted", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", HALVES)
def test_binary(shape, wanted, dtype):
    logits, target = scores(40, 2, dtype=dtype)
    score = logits[:, 1] - logits[:, 0]
    expected = accuracy_score(target, score > 0)
    assert measure(Accuracy(), score.reshape(shape), target.float().reshape(wanted))["accuracy"] == expected
    chance = score.sigmoid().reshape(shape)
    assert measure(Accuracy(threshold=0.5), chance, target.reshape(wanted))["accuracy"] == expected


def test_several_labels_and_pixels():
    logits, target = scores(20, 3, 4, 5)
    expected = accuracy_score(target.flatten(), logits.argmax(1).flatten())
    assert measure(Accuracy(), logits, target)["accuracy"] == pytest.approx(expected, abs=1e-9)
    assert measure(Accuracy(), logits, target.unsqueeze(1))["accuracy"] == pytest.approx(expected, abs=1e-9)
    several = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    labels = (several + torch.randn(20, 6, generator=torch.Generator().manual_seed(2)) > 0).float()
    expected = accuracy_score(labels.flatten(), several.flatten() > 0)
    assert measure(Accuracy(), several, labels)["accuracy"] == pytest.approx(expected, abs=1e-9)


def test_a_score_on_the_threshold_is_class_0():
    assert measure(Accuracy(), torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0, 0, 1])) == {"accuracy": 1.0}


def test_an_empty_batch_changes_nothing():
    for prediction, target in (scores(6, 3), (torch.randn(6), torch.ones(6)), (torch.randn(6, 3), torch.ones(6, 3))):
        data = [(prediction, target), (prediction[:0], target[:0])]
        for metric in (Accuracy(), PrecisionRecallF1(), Dice(per_image=True)):
            found = replay(metric, data, data[:1]).train()[0]
            assert found["train"] == found["valid"] and len(found["train"]) > 1


def test_labels_as_predictions():
    predicted, target = torch.tensor([0, 2, 1, 1]), torch.tensor([0, 2, 2, 1])
    assert measure(Accuracy(num_classes=3), predicted, target) == {"accuracy": 0.75}
    assert measure(Accuracy(), predicted > 0, target > 0) == {"accuracy": 1.0}
    with pytest.raises(DataError, match=r"Write Accuracy\(num_classes=3\)"):
        measure(Accuracy(), predicted, target)


def test_what_is_ignored_does_not_count():
    logits, target = scores(30, 4)
    target[::3] = -100
    kept = target != -100
    found = measure(Accuracy((1, 2), ignore_index=-100), logits, target)
    assert found == pytest.approx(measure(Accuracy((1, 2)), logits[kept], target[kept]), abs=1e-9)
    nothing = measure(Accuracy(ignore_index=-100), logits, torch.full_like(target, -100))
    assert math.isnan(nothing["accuracy"])


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), r"1 targets or predictions are outside.*ignore_index=255"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -1, -100]), "2 targets or predictions are outside"),
        (torch.zeros(4), torch.tensor([0.0, 0.25, 1.0, 0.5]), "2 targets are no whole numbers"),
        (torch.zeros(4, 3), torch.zeros(4, 2), r"shape \(4, 3\), float32 and a target of shape \(4, 2\), float32"),
        (torch.zeros(4, 3), torch.zeros(4, 3, 3).long(), "expected .N, C, .... and"),
        ({"out": torch.zeros(4)}, torch.zeros(4), "got a dict as prediction.*prediction=lambda trainer"),
    ],
)
def test_targets_that_do_not_fit(prediction, target, message):
    with pytest.raises(DataError, match=message):
        replay(Accuracy(), [(prediction, target)]).train()


def test_nothing_is_indexed_by_a_wrong_target_and_top_k_needs_scores():
    with pytest.raises(DataError, match="outside"):
        measure(Accuracy((1, 2)), torch.zeros(4, 3), torch.tensor([0, 1, 2, 99]))
    with pytest.raises(DataError, match=r"expected at least 5 scores per sample"):
        measure(Accuracy((1, 5)), torch.zeros(4, 3), torch.tensor([0, 1, 2, 2]))
    with pytest.raises(DataError, match=r"Write Accuracy\(top_k=\(1,\)\)"):
        measure(Accuracy((2,)), torch.zeros(4), torch.tensor([0, 1, 1, 1]))
    with pytest.raises(DataError, match=r"Accuracy\(num_classes=4\) got predictions of 3 classes"):
        measure(Accuracy(num_classes=4), torch.zeros(4, 3), torch.tensor([0, 1, 2, 2]))


@pytest.mark.parametrize(
    ("threshold", "score", "message"),
    [
        (0.0, [0.1, 0.9, 0.4], r"between 0.1 and 0.9, which looks like probabilities.*threshold=0.5"),
        (0.5, [-3.0, 0.9, 0.4], r"between -3 and 0.9, which looks like logits.*threshold=0.0"),
        (0.0, [-0.1, 0.9, 0.4], None),
        (0.5, [0.0, 1.0, 0.4], None),
        (0.3, [0.0, 5.0, 0.4], None),
    ],
)
def test_a_threshold_that_does_not_fit_the_scores_is_said_once(threshold, score, message):
    trainer = replay(Accuracy(threshold=threshold), batches(torch.tensor(score), torch.tensor([0, 1, 1]), 2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.train()
    assert len(said) == (message is not None)
    if message:
        with pytest.warns(UserWarning, match=message):
            warnings.warn(said[0].message, stacklevel=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 3}, r"Write Accuracy\(top_k=\(1, 5\)\)"),
        ({"top_k": ()}, "numbers from 1 on"),
        ({"top_k": (0, 1)}, "numbers from 1 on"),
        ({"threshold": "half"}, "0.0 for logits, 0.5 for probabilities"),
        ({"num_classes": 1}, "an integer, 2 or more"),
        ({"ignore_index": 2.5}, "expected an integer, or None"),
    ],
)
def test_arguments_that_are_not_allowed(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Accuracy(**arguments)
