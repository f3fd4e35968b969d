"""The values of an independent library, and of torch itself."""

import pytest
import torch
import torch.nn.functional as F

from farabio_like import losses

LOGITS = (3 * torch.linspace(-2, 2, 120, dtype=torch.float64).sin()).reshape(2, 3, 4, 5)
CLASSES = (torch.arange(40) % 3).reshape(2, 4, 5)
PIXEL, ROW = CLASSES.clone(), CLASSES.clone()
PIXEL[:, 0, 0] = 255
ROW[:, 0, :] = 255
INPUTS = {
    "binary": (LOGITS[:, :1], (torch.arange(40) % 2).reshape(2, 4, 5), {}),
    "multiclass": (LOGITS, CLASSES, {}),
    "multilabel": (LOGITS, (torch.arange(120) % 4 == 0).reshape(2, 3, 4, 5), {}),
    "a pixel ignored": (LOGITS, PIXEL, {"ignore_index": 255}),
    "a row ignored": (LOGITS, ROW, {"ignore_index": 255}),
}
VALUES = {
    losses.dice_loss: [0.561878, 0.708941, 0.676941, 0.716241, 0.708458],
    losses.jaccard_loss: [0.719491, 0.824799, 0.807117, 0.829793, 0.823929],
    losses.lovasz_loss: [2.382611, 0.748236, 2.863129, 0.754232, 0.749117],
    losses.focal_loss: [0.860009, 0.951051, 0.959661],
}


@pytest.mark.parametrize(
    ("function", "name", "expected"),
    [(function, *pair) for function, values in VALUES.items() for pair in zip(INPUTS, values, strict=False)],
)
def test_table(function, name, expected):
    logits, target, arguments = INPUTS[name]
    mode = name if name in ("binary", "multilabel") else "multiclass"
    assert function(logits, target, mode, **arguments).item() == pytest.approx(expected, abs=1e-6)
    assert function(logits.float(), target, mode, **arguments).item() == pytest.approx(expected, abs=2e-6)


def test_focal_tversky():
    loss = losses.focal_tversky_loss(LOGITS, CLASSES, "multiclass", alpha=0.7, beta=0.3, gamma=2)
    assert loss.item() == pytest.approx(0.497881, abs=1e-6)


def test_focal_with_alpha():
    logits, target, _ = INPUTS["binary"]
    assert losses.focal_loss(logits, target, "binary", alpha=0.25).item() == pytest.approx(0.303967, abs=1e-6)


def test_mcc():
    logits, target, _ = INPUTS["binary"]
    # The other library adds 1e-5 to each count.
    assert losses.mcc_loss(logits, target, "binary").item() == pytest.approx(0.990873, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]])
@pytest.mark.parametrize("target", [CLASSES, ROW], ids=["all", "row ignored"])
def test_cross_entropy_is_that_of_torch(target, weights, smoothing):
    loss = losses.soft_ce_loss(LOGITS, target, smoothing=smoothing, class_weights=weights, ignore_index=255)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    torchs = F.cross_entropy(LOGITS, target, weight, label_smoothing=smoothing, ignore_index=255)
    torch.testing.assert_close(loss, torchs)


def test_cross_entropy_of_probabilities_is_that_of_torch():
    target = LOGITS.flip(0, 2).softmax(1)
    loss = losses.soft_ce_loss(LOGITS, target, smoothing=0.1)
    torch.testing.assert_close(loss, F.cross_entropy(LOGITS, target, label_smoothing=0.1))


def test_binary_cross_entropy_is_that_of_torch():
    logits, target, _ = INPUTS["multilabel"]
    loss = losses.soft_bce_loss(logits, target, "multilabel")
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, target.double()))


def test_smoothing_of_one_class_is_that_of_two():
    logits, target, _ = INPUTS["binary"]
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    loss = losses.soft_bce_loss(logits, target, "binary", smoothing=0.1)
    torch.testing.assert_close(loss, losses.soft_ce_loss(both, target, smoothing=0.1))
