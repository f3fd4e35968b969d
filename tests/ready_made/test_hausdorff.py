"""The Hausdorff distance against torchmetrics and SciPy, and by hand."""

import math

import numpy as np
import pytest
import torch

from farabio_like import ConfigError
from farabio_like.trainers.hausdorff import HausdorffDistance, border_distance


def region(shape, seed):
    random = np.random.default_rng(seed)
    places = np.indices(shape).reshape(len(shape), -1).T
    centre = [random.uniform(0.2 * size, 0.8 * size) for size in shape]
    inside = np.linalg.norm(places - centre, axis=1) < random.uniform(3, 0.4 * min(shape))
    return torch.from_numpy(inside.reshape(shape))


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_distance_is_that_of_torchmetrics(seed):
    functional = pytest.importorskip("torchmetrics.functional.segmentation")
    first, second = region((24, 24), seed), region((24, 24), seed + 100)
    expected = functional.hausdorff_distance(
        first[None, None].long(), second[None, None].long(), num_classes=1, include_background=True
    )
    assert border_distance(first, second, 100) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(20, 37), (9, 14, 11)])
@pytest.mark.parametrize("percentile", [50, 95])
def test_a_percentile_is_that_of_distance_transforms(shape, percentile):
    ndimage = pytest.importorskip("scipy.ndimage")
    for seed in range(4):
        first, second = region(shape, seed).numpy(), region(shape, seed + 50).numpy()
        borders = [r & ~ndimage.binary_erosion(r, border_value=0) for r in (first, second)]
        one = ndimage.distance_transform_edt(~borders[1])[borders[0]]
        other = ndimage.distance_transform_edt(~borders[0])[borders[1]]
        expected = max(np.percentile(one, percentile), np.percentile(other, percentile))
        found = border_distance(torch.from_numpy(first), torch.from_numpy(second), percentile)
        assert found == pytest.approx(expected, rel=1e-9)


def test_closed_forms():
    square = torch.zeros(20, 30, dtype=torch.bool)
    square[5:10, 5:10] = True
    assert border_distance(square, square) == 0
    assert border_distance(square, square.roll(7, 1), 100) == 7
    empty = torch.zeros_like(square)
    assert math.isnan(border_distance(empty, empty))
    assert border_distance(square, empty) == border_distance(empty, square) == math.hypot(20, 30)


def test_images_and_classes_without_a_region_count_nowhere():
    true = torch.zeros(2, 20, 20, dtype=torch.long)
    true[0, 5:10, 5:10] = 1
    scores = torch.nn.functional.one_hot(true.roll(3, 1), 3).movedim(-1, 1).float()
    metric, state = HausdorffDistance(percentile=100), {}
    metric.update(state, scores[:1], true[:1])
    metric.update(state, scores[1:], true[1:])
    found = metric.compute(state)
    assert found["hausdorff100"] == 3 and found["hausdorff100_per_class"][0] == 3
    assert math.isnan(found["hausdorff100_per_class"][1])
    with pytest.raises(ConfigError, match="percentile=0"):
        HausdorffDistance(0)
