"""The Lovász losses against their definition: the Jaccard loss of the sets of the largest errors."""

import pytest
import torch

from farabio_like.losses import jaccard_loss, lovasz_loss

from .catalogue import batch


def jaccard_of_wrong(wrong, true):
    """Return the Jaccard loss if the pixels of a set are wrong and all others right."""
    union = len(true | wrong)
    return len(wrong) / union if union else 0.0


def extension(errors, true):
    """Return the Lovász extension, set by set."""
    order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel])
    true = {pixel for pixel, mark in enumerate(true) if mark}
    rises = [
        jaccard_of_wrong({*order[: n + 1]}, true) - jaccard_of_wrong({*order[:n]}, true) for n in range(len(order))
    ]
    return sum(errors[pixel] * rise for pixel, rise in zip(order, rises, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_hinge(seed):
    logits, target = batch("binary", seed=seed)
    errors = (1 - logits * (2 * target - 1)).clamp(min=0).flatten().tolist()
    assert lovasz_loss(logits, target, "binary").item() == pytest.approx(extension(errors, target.flatten()))


@pytest.mark.parametrize("seed", range(3))
def test_softmax(seed):
    logits, target = batch("multiclass", seed=seed)
    values = logits.softmax(1)
    each = [
        extension((values[:, c] - (target == c).double()).abs().flatten().tolist(), (target == c).flatten())
        for c in range(3)
    ]
    assert lovasz_loss(logits, target, "multiclass").item() == pytest.approx(sum(each) / 3)


def test_of_certain_predictions_it_is_the_jaccard_loss():
    logits, target = batch("multiclass", (8, 9))
    certain = torch.nn.functional.one_hot(logits.argmax(1)).movedim(-1, 1) * 100.0
    torch.testing.assert_close(lovasz_loss(certain, target, "multiclass"), jaccard_loss(certain, target, "multiclass"))


def test_empty_masks_have_the_mean_of_their_hinges():
    logits, target = batch("multilabel")
    loss = lovasz_loss(logits, torch.zeros_like(target), "multilabel")
    torch.testing.assert_close(loss, (1 + logits).relu().mean())


def test_multilabel_is_one_hinge_over_all_channels():
    logits, target = batch("multilabel")
    one = lovasz_loss(logits.flatten(1).view(2, 1, 9, 4), target.flatten(1).view(2, 9, 4), "binary")
    torch.testing.assert_close(lovasz_loss(logits, target, "multilabel"), one)


def test_multilabel_skips_the_channels_without_a_true_pixel():
    logits, target = batch("multilabel")
    target[:, 1] = 0
    rest = lovasz_loss(logits[:, [0, 2]], target[:, [0, 2]], "multilabel")
    torch.testing.assert_close(lovasz_loss(logits, target, "multilabel", absent="skip"), rest)
    assert lovasz_loss(logits, target, "multilabel") > rest


def test_many_pixels_in_float32():
    logits, target = batch("binary", (300, 400))
    exact = lovasz_loss(logits, target, "binary")
    assert lovasz_loss(logits.float(), target, "binary").item() == pytest.approx(exact.item(), rel=1e-6)
