"""The area under the ROC curve equals scikit-learn's, ties included."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from farabio_like import DataError
from farabio_like.callbacks.auc import AUC, binary_auc

from .replay import batches, measure, replay, scores

HALVES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("form", [torch.Tensor.double, torch.sigmoid, torch.round], ids=["logits", "chances", "ties"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_binary(dtype, form, shape):
    logits, target = scores(101, 2, dtype=dtype)
    given = form(logits[:, 1])
    found = measure(AUC(), given.reshape(shape), target.float())
    assert list(found) == ["auc"] and 0.5 < found["auc"] < 1
    assert found["auc"] == pytest.approx(roc_auc_score(target, given.double()), abs=1e-9)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("form", ["logits", "probabilities", "log probabilities"])
def test_classes_one_against_the_rest(dtype, classes, form):
    logits, target = scores(203, classes, dtype=dtype)
    given = {"logits": logits, "probabilities": logits.softmax(1), "log probabilities": logits.log_softmax(1)}[form]
    found = measure(AUC(), given, target)
    chances = given.double() if form == "probabilities" else given.double().softmax(1)
    chances = chances / chances.sum(1, keepdim=True)  # scikit-learn insists
    expected = roc_auc_score(target, chances, multi_class="ovr", average="macro")
    each = [roc_auc_score(target == c, chances[:, c]) for c in range(classes)]
    exact = 1e-3 if form == "probabilities" and dtype != torch.float32 else 1e-9  # the division breaks ties of halves
    assert found["auc"] == pytest.approx(expected, abs=exact)
    assert found["auc_per_class"] == pytest.approx(each, abs=5 * exact)


def test_of_two_classes_the_second_by_its_probability():
    logits, target = scores(90, 2)
    found = measure(AUC(), logits, target)
    assert list(found) == ["auc"]
    assert found["auc"] == pytest.approx(roc_auc_score(target, logits[:, 1] - logits[:, 0]), abs=1e-9)
    assert found["auc"] != pytest.approx(roc_auc_score(target, logits[:, 1]), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float16])
def test_targets_of_any_type(dtype):
    logits, target = scores(80, 2)
    several = torch.stack([target, 1 - target], 1)
    assert measure(AUC(), logits[:, 1], target.to(dtype)) == measure(AUC(), logits[:, 1], target)
    assert measure(AUC(), logits, several.to(dtype)) == measure(AUC(), logits, several)


def test_several_labels():
    several = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    labels = (several + torch.randn(60, 4, generator=torch.Generator().manual_seed(2)) > 0).float()
    found = measure(AUC(), several, labels)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, several), abs=1e-9)
    assert found["auc_per_class"] == pytest.approx(roc_auc_score(labels, several, average=None).tolist(), abs=1e-9)


def test_it_is_no_mean_over_batches():
    logits, target = scores(64, 2)
    found = {size: measure(AUC(), logits[:, 1], target, size)["auc"] for size in (3, 10, 64)}
    assert len(set(found.values())) == 1


def test_many_ties_by_definition():
    generator = np.random.default_rng(0)
    score, positive = generator.integers(0, 4, 50), generator.integers(0, 2, 50).astype(bool)
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert binary_auc(torch.tensor(score), torch.tensor(positive)) == pytest.approx(np.mean(pairs), abs=1e-12)


def said(trainer, epochs=1):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(epochs):
            trainer.train()
    return [str(warning.message) for warning in found]


def test_one_class_only_is_nan_and_said_once():
    trainer = replay(AUC(), batches(torch.rand(9), torch.ones(9)))
    (message,) = said(trainer, 3)
    assert "one class only" in message
    assert all(math.isnan(entry[part]["auc"]) for entry in trainer.history for part in ("train", "valid"))


def test_a_class_that_is_not_there_is_left_out_and_said():
    logits, target = scores(60, 4)
    target[target == 2] = 0
    trainer = replay(AUC(), batches(logits, target))
    (message,) = said(trainer)
    assert "[2]" in message
    chances = logits.double().softmax(1)
    each = [roc_auc_score(target == c, chances[:, c]) for c in (0, 1, 3)]
    found = trainer.history[0]["valid"]
    assert found["auc"] == pytest.approx(np.mean(each), abs=1e-9) and math.isnan(found["auc_per_class"][2])


def test_scores_that_are_nan_give_nan_and_are_said():
    score = torch.rand(9)
    score[3] = math.nan
    trainer = replay(AUC(), batches(score, torch.arange(9) % 2))
    assert said(trainer) == ["AUC: there are NaN among the scores."]
    assert math.isnan(trainer.history[0]["train"]["auc"])


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(4), torch.tensor([0, 1, 2, 1]), "targets from 0 to 2; expected whole numbers from 0 to 1"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -1, 1]), "targets from -1 to 1; expected whole numbers from 0 to 2"),
        (torch.zeros(4), torch.tensor([0.0, 0.5, 1.0, 1.0]), "whole numbers from 0 to 1"),
        (torch.zeros(4, 3, 2, 2), torch.zeros(4, 2, 2), r"shape \(4, 3, 2, 2\) and a target of shape \(4, 2, 2\)"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "twice .N, C."),
        ([1, 2], torch.zeros(2), "got a list as prediction"),
    ],
)
def test_what_does_not_fit(prediction, target, message):
    with pytest.raises(DataError, match=message):
        replay(AUC(), [(prediction, target)]).train()
