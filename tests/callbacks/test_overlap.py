"""Dice and IoU equal scikit-learn's F1 and Jaccard of all pixels, and their definition per image."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score

from farabio_like import DataError
from farabio_like.callbacks.overlap import Dice, IoU

from .replay import measure, scores

BOTH = pytest.mark.parametrize(("kind", "name", "reference"), [(Dice, "dice", f1_score), (IoU, "iou", jaccard_score)])
HALVES = [torch.float32, torch.float16, torch.bfloat16]


def by_hand(name, true, predicted):
    """Return the overlap of two boolean masks, NaN when both are empty."""
    both, either = np.sum(true & predicted), np.sum(true | predicted)
    if not either:
        return math.nan
    return 2 * both / (both + either) if name == "dice" else both / either


@BOTH
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [3, 4, 10])
def test_binary_masks(kind, name, reference, dtype, size):
    logits, target = scores(10, 2, 6, 5, dtype=dtype)
    score = logits[:, 1]
    expected = reference(target.flatten(), score.flatten() > 0)
    for given, mask in (
        (score, target),
        (score.unsqueeze(1), target.unsqueeze(1).float()),
        (score.unsqueeze(1), target > 0),
        (score > 0, target > 0),
    ):
        assert measure(kind(), given, mask, size) == {name: pytest.approx(expected, abs=1e-6)}
    chances = score.sigmoid()
    expected = reference(target.flatten(), chances.flatten() > 0.5)
    assert measure(kind(threshold=0.5), chances, target, size) == {name: pytest.approx(expected, abs=1e-6)}


@BOTH
@pytest.mark.parametrize("dtype", HALVES)
def test_classes(kind, name, reference, dtype):
    logits, target = scores(10, 4, 6, 5, dtype=dtype)
    each = reference(target.flatten(), logits.argmax(1).flatten(), average=None)
    for mask in (target, target.unsqueeze(1)):
        found = measure(kind(), logits, mask, 4)
        assert list(found) == [name, f"{name}_per_class"]
        assert found[f"{name}_per_class"] == pytest.approx(each.tolist(), abs=1e-6)
        assert found[name] == pytest.approx(each.mean(), abs=1e-6)


@BOTH
def test_two_channels_are_two_classes(kind, name, reference):
    logits, target = scores(6, 2, 4, 4)
    found = measure(kind(), logits, target, 4)
    each = reference(target.flatten(), logits.argmax(1).flatten(), average=None)
    assert found == {name: pytest.approx(each.mean(), abs=1e-6), f"{name}_per_class": pytest.approx(each.tolist())}


@BOTH
def test_volumes_with_a_channel_are_one_mask(kind, name, reference):
    logits, target = scores(5, 2, 3, 4, 2)
    score = logits[:, 1:]
    expected = reference(target.flatten(), score.flatten() > 0)
    for mask in (target, target.unsqueeze(1)):
        assert measure(kind(), score, mask, 2) == {name: pytest.approx(expected, abs=1e-6)}


@BOTH
def test_several_masks_each_a_channel(kind, name, reference):
    score = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    target = (score + torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(2)) > 0).float()
    found = measure(kind(), score, target, 3)
    each = [reference(target[:, c].flatten(), score[:, c].flatten() > 0) for c in range(3)]
    assert found == {name: pytest.approx(np.mean(each), abs=1e-6), f"{name}_per_class": pytest.approx(each, abs=1e-6)}
    found = measure(kind(per_image=True), score, target, 3)
    each = [[by_hand(name, target[i, c].numpy() > 0, score[i, c].numpy() > 0) for c in range(3)] for i in range(7)]
    assert found[f"{name}_per_class"] == pytest.approx(np.nanmean(each, axis=0).tolist(), abs=1e-6)


@BOTH
def test_per_image(kind, name, reference):
    logits, target = scores(9, 4, 2, 3)  # so small that classes are missing
    predicted, true = logits.argmax(1).numpy(), target.numpy()
    each = [[by_hand(name, true[i] == c, predicted[i] == c) for c in range(4)] for i in range(9)]
    assert np.isnan(each).any()
    expected = np.nanmean(each, axis=0)
    found = measure(kind(per_image=True), logits, target, 4)
    assert found[f"{name}_per_class"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert found[name] == pytest.approx(expected.mean(), abs=1e-6)
    assert found[name] != pytest.approx(measure(kind(), logits, target, 4)[name], abs=1e-3)


@BOTH
def test_per_image_of_one_mask(kind, name, reference):
    score = torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]], [[-1.0, -1.0]], [[1.0, -1.0]]])
    target = torch.tensor([[[1, 1]], [[0, 0]], [[1, 0]], [[0, 0]]])
    # All of it; nothing to find and nothing found, left out; nothing found; something found where there is nothing.
    assert measure(kind(per_image=True), score, target, 3) == {name: pytest.approx(1 / 3)}


@BOTH
def test_ignored_pixels_do_not_count(kind, name, reference):
    logits, target = scores(8, 3, 5, 5)
    target[:, 0, :] = 255
    kept = (target != 255).flatten()
    each = reference(target.flatten()[kept], logits.argmax(1).flatten()[kept], average=None)
    found = measure(kind(ignore_index=255), logits, target, 3)
    assert found[f"{name}_per_class"] == pytest.approx(each.tolist(), abs=1e-6)
    apart = measure(kind(ignore_index=255, per_image=True), logits, target, 3)
    cropped = measure(kind(per_image=True), logits[:, :, 1:], target[:, 1:], 3)
    assert apart[f"{name}_per_class"] == pytest.approx(cropped[f"{name}_per_class"], abs=1e-6)
    with pytest.raises(DataError, match="40 targets or predictions are outside"):
        measure(kind(), logits, target, 8)


@BOTH
def test_an_ignored_class_is_left_out_of_the_mean(kind, name, reference):
    logits, target = scores(8, 3, 5, 5)
    found = measure(kind(ignore_index=0), logits, target)
    assert found[f"{name}_per_class"][0] == 0  # pixels of it are counted only where it was predicted wrongly
    assert found[name] == pytest.approx(np.mean(found[f"{name}_per_class"]), abs=1e-6)


@BOTH
@pytest.mark.parametrize("per_image", [False, True])
def test_empty_classes(kind, name, reference, per_image):
    empty = torch.zeros(3, 2, 2, dtype=torch.long)
    assert math.isnan(measure(kind(per_image=per_image), -torch.ones(3, 2, 2), empty)[name])
    logits = torch.tensor([0.0, 1.0, -1.0]).reshape(1, 3, 1, 1).expand(3, 3, 2, 2)
    found = measure(kind(per_image=per_image), logits, empty + 1)
    assert found[name] == 1.0
    assert [math.isnan(value) for value in found[f"{name}_per_class"]] == [True, False, True]
