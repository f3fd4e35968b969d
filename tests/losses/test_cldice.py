"""The skeleton against SciPy's morphology; and what the loss is for."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from farabio_like.losses import cldice_loss, dice_loss
from farabio_like.losses.cldice import soft_skeleton


def skeleton_of_scipy(image, iterations):
    cross = ndimage.generate_binary_structure(image.ndim, 1)

    def erode(values):
        return ndimage.grey_erosion(values, footprint=cross, mode="constant", cval=np.inf)

    def taken_by_opening(values):
        opened = ndimage.grey_dilation(erode(values), size=(3,) * image.ndim, mode="constant", cval=-np.inf)
        return np.maximum(values - opened, 0)

    skeleton = taken_by_opening(image)
    for _ in range(iterations):
        image = erode(image)
        skeleton = skeleton + (1 - skeleton) * taken_by_opening(image)
    return skeleton


@pytest.mark.parametrize("shape", [(12, 15), (7, 9, 8)], ids=["2-D", "3-D"])
def test_skeleton_is_that_of_scipy(shape):
    image = np.random.default_rng(0).random(shape)
    ours = soft_skeleton(torch.from_numpy(image)[None, None], 3)[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(skeleton_of_scipy(image, 3)))


def test_skeleton_of_a_bar_is_its_middle_line():
    bar = torch.zeros(1, 1, 11, 30)
    bar[:, :, 3:8] = 1
    lines = soft_skeleton(bar, 5)[0, 0].sum(1)
    assert lines.tolist() == [0, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0]


def test_formula():
    logits = torch.randn(2, 1, 12, 15, dtype=torch.float64)
    target = torch.rand(2, 12, 15) < 0.4
    predicted, true = logits.sigmoid()[:, 0].numpy(), target.double().numpy()
    lines, true_lines = (np.stack([skeleton_of_scipy(one, 2) for one in both]) for both in (predicted, true))
    precision = ((lines * true).sum() + 1) / (lines.sum() + 1)
    sensitivity = ((true_lines * predicted).sum() + 1) / (true_lines.sum() + 1)
    centreline = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    dice = dice_loss(logits, target, "binary").item()
    for alpha in (0, 0.3, 1):
        loss = cldice_loss(logits, target, "binary", alpha=alpha, iterations=2).item()
        assert loss == pytest.approx((1 - alpha) * dice + alpha * centreline)


@pytest.mark.parametrize("space", [(15, 40), (15, 15, 40)], ids=["2-D", "3-D"])
def test_a_cut_costs_more_than_a_thinner_rim(space):
    vessel = torch.zeros(1, 1, *space)
    middle = (slice(5, 10),) * (len(space) - 1)
    vessel[(0, 0, *middle)] = 1
    cut, thin = vessel.clone(), vessel.clone()
    cut[(0, 0, *middle, slice(18, 22))] = 0  # 4 of 40 columns
    rim = torch.zeros_like(vessel)
    rim[(0, 0, 5, *[slice(5, 10)] * (len(space) - 2), slice(10, 30))] = 1  # as many pixels, from the rim
    thin[rim > 0] = 0
    assert cut.sum() == thin.sum()
    losses = [cldice_loss(region * 60 - 30, vessel, "binary", iterations=5).item() for region in (cut, thin)]
    overlap = [dice_loss(region * 60 - 30, vessel, "binary").item() for region in (cut, thin)]
    assert overlap[0] == pytest.approx(overlap[1])
    assert losses[0] > 1.1 * losses[1]
