"""Scores of regions that can be counted by hand."""

import math

import pytest
import torch
from sklearn.metrics import matthews_corrcoef

from farabio_like import losses
from farabio_like.losses import (
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    jaccard_loss,
    lovasz_loss,
    mcc_loss,
    tversky_loss,
)

from .catalogue import batch

SURE = 60.0  # the sigmoid of it is 1 in float64 but for 1e-26


def masks(*rows):
    """Return (1, 1, rows, columns) of strings of dots and hashes."""
    return torch.tensor([[[[mark == "#" for mark in row] for row in rows]]], dtype=torch.float64)


def sure(region):
    return (region * 2 - 1) * SURE


TRUE = masks("##..", "##..", "....", "....")
HALF = masks("##..", "....", "....", "....")
APART = masks("....", "....", "..##", "..##")


@pytest.mark.parametrize("function", [dice_loss, jaccard_loss, tversky_loss, focal_tversky_loss])
def test_disjoint_regions(function):
    assert function(sure(APART), TRUE, "binary").item() == pytest.approx(1)


def test_half_of_a_region():
    assert dice_loss(sure(HALF), TRUE, "binary").item() == pytest.approx(1 / 3)
    assert jaccard_loss(sure(HALF), TRUE, "binary").item() == pytest.approx(1 / 2)
    assert tversky_loss(sure(HALF), TRUE, "binary", alpha=0.9, beta=0.7).item() == pytest.approx(1.4 / 3.4)
    loss = focal_tversky_loss(sure(HALF), TRUE, "binary", beta=0.7, gamma=0.75)
    assert loss.item() == pytest.approx((1.4 / 3.4) ** 0.75)


def test_twice_a_region():
    double = masks("####", "####", "....", "....")
    assert dice_loss(sure(double), TRUE, "binary").item() == pytest.approx(1 / 3)
    assert tversky_loss(sure(double), TRUE, "binary", alpha=0.9, beta=0.7).item() == pytest.approx(3.6 / 7.6)


def test_sums_are_over_the_batch():
    # Two images, of which one has no object.
    both, predicted = torch.cat([TRUE, 0 * TRUE]), torch.cat([TRUE, HALF])
    assert dice_loss(sure(predicted), both, "binary").item() == pytest.approx(1 - 8 / 10)


def test_tversky_has_dice_and_jaccard_in_it():
    logits, target = batch("multiclass")
    dice, jaccard = dice_loss(logits, target, "multiclass"), jaccard_loss(logits, target, "multiclass")
    torch.testing.assert_close(tversky_loss(logits, target, "multiclass", alpha=0.5, beta=0.5), dice)
    torch.testing.assert_close(tversky_loss(logits, target, "multiclass", alpha=1, beta=1), jaccard)


def test_generalized_dice_of_three_classes():
    target = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]]])
    predicted = torch.tensor([[[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]]])
    logits = sure(torch.nn.functional.one_hot(predicted).movedim(-1, 1).double())
    weights = [1 / 36, 1 / 9, 1]
    common, size = [5, 2, 1], [11, 6, 3]
    expected = 1 - 2 * sum(map(math.prod, zip(weights, common, strict=True))) / sum(
        map(math.prod, zip(weights, size, strict=True))
    )
    assert generalized_dice_loss(logits, target, "multiclass").item() == pytest.approx(expected)


def test_generalized_dice_of_a_mask_has_the_background_as_a_class():
    # 4 and 12 true pixels, half of the former found.
    expected = 1 - 2 * (2 / 16 + 12 / 144) / (6 / 16 + 26 / 144)
    assert generalized_dice_loss(sure(HALF), TRUE, "binary").item() == pytest.approx(expected)


def test_generalized_dice_weighs_an_absent_class_as_the_smallest():
    target = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 0, 0, 0, 2, 2, 1, 1, 1]]])
    logits = sure(torch.nn.functional.one_hot(predicted).movedim(-1, 1).double())
    counted = 1 - 2 * (5 / 36 + 3 / 16) / (11 / 36 + 7 / 16 + 2 / 16)
    skipped = 1 - 2 * (5 / 36 + 3 / 16) / (11 / 36 + 7 / 16)
    assert generalized_dice_loss(logits, target, "multiclass").item() == pytest.approx(counted)
    assert generalized_dice_loss(logits, target, "multiclass", absent="skip").item() == pytest.approx(skipped)


@pytest.mark.parametrize("function", [dice_loss, jaccard_loss, tversky_loss, generalized_dice_loss, mcc_loss])
def test_an_empty_mask_has_the_mean_probability(function):
    logits, target = batch("binary")
    loss = function(logits, torch.zeros_like(target), "binary")
    torch.testing.assert_close(loss, logits.sigmoid().mean())
    target[:, :, 1:], target[:, :, :1] = 0, 255
    loss = function(logits, target, "binary", ignore_index=255)
    torch.testing.assert_close(loss, logits[:, :, 1:].sigmoid().mean())


def test_an_absent_class_has_the_mean_probability():
    logits, target = batch("multiclass")
    target[target == 1] = 0
    present = dice_loss(logits, target, "multiclass", absent="skip")
    mean = logits.softmax(1)[:, 1].mean()
    torch.testing.assert_close(dice_loss(logits, target, "multiclass"), (2 * present + mean) / 3)
    present = lovasz_loss(logits, target, "multiclass", absent="skip")
    torch.testing.assert_close(lovasz_loss(logits, target, "multiclass"), (2 * present + mean) / 3)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky", "generalized_dice", "mcc"])
def test_a_soft_prediction_equal_to_its_target_is_perfect(name, mode):
    logits, _ = batch(mode)
    target = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    assert getattr(losses, f"{name}_loss")(logits, target, mode).item() == pytest.approx(0, abs=1e-5)
    assert getattr(losses, f"{name}_loss")(2 * logits, target, mode).item() > 0.02


# The Matthews correlation


@pytest.mark.parametrize("seed", range(3))
def test_mcc_of_certain_predictions_is_that_of_sklearn(seed):
    logits, target = batch("binary", (8, 9), seed=seed)
    expected = 1 - matthews_corrcoef(target.flatten(), logits.flatten() > 0)
    assert mcc_loss(logits.sign() * SURE, target, "binary").item() == pytest.approx(expected)


def test_mcc_is_two_for_the_opposite_and_one_for_chance():
    assert mcc_loss(-sure(TRUE), TRUE, "binary").item() == pytest.approx(2)
    assert mcc_loss(torch.full_like(TRUE, 0.3), TRUE, "binary").item() == pytest.approx(1)


def test_mcc_without_background_is_one_minus_the_mean_probability():
    logits, target = batch("binary")
    loss = mcc_loss(logits, torch.ones_like(target), "binary")
    torch.testing.assert_close(loss, 1 - logits.sigmoid().mean())


def test_mcc_of_each_class_against_the_rest():
    logits, target = batch("multiclass")
    chances = logits.softmax(1)
    each = [mcc_loss(chances[:, [c]].logit(), target == c, "binary") for c in range(3)]
    torch.testing.assert_close(mcc_loss(logits, target, "multiclass"), sum(each) / 3)
