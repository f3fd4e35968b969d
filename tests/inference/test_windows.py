"""Where windows lie and what they weigh."""

import math

import numpy as np
import pytest
import torch

from farabio_like.inference.windows import SMALLEST_WEIGHT, Grid, importance_map


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_windows_cover_every_pixel_and_end_with_the_image(overlap):
    for size in range(1, 34):
        for window in range(1, 17):
            (starts,) = Grid.over([size], [window], overlap).starts
            covered = set().union(*(range(start, start + window) for start in starts))
            assert covered >= set(range(size))
            assert max(covered) < max(size, window)
            assert starts == sorted(set(starts))
            gaps = {after - before for before, after in zip(starts, starts[1:-1], strict=False)}
            assert gaps <= {max(int(window * (1 - overlap)), 1)}


def test_the_last_window_is_moved_back_into_the_image():
    grid = Grid.over([20, 50, 7], [16, 16, 16], 0.25)
    assert grid.starts == ([0, 4], [0, 12, 24, 34], [0])
    assert grid.windows == 8
    assert list(grid.places(2))[:2] == [(0, 0, 0, 0), (0, 0, 12, 0)] and len(list(grid.places(2))) == 16


def test_a_smaller_image_lies_in_the_middle_of_its_window():
    image = np.arange(1, 7, dtype=">u2").reshape(1, 1, 2, 3)
    windows = Grid.over([2, 3], [5, 4], 0.25).read(image, [(0, 0, 0)])
    expected = [[0, 0, 0, 0], [1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert windows.dtype == torch.uint16 and windows.tolist() == [[expected]]


def test_gaussian_weights_are_an_eighth_of_the_window_wide():
    weights = importance_map([16, 24], "gaussian")
    assert weights.shape == (16, 24)
    # By hand: 2.5 pixels from the middle of 16 and 4.5 from that of 24, standard deviations 2 and 3.
    assert weights[5, 7].item() == pytest.approx(math.exp(-((2.5 / 2) ** 2) / 2 - (4.5 / 3) ** 2 / 2))
    assert torch.equal(weights, weights.flip(0)) and torch.equal(weights, weights.flip(1))
    assert weights.min() == SMALLEST_WEIGHT == weights[0, 0]
    assert importance_map([1, 1, 1], "gaussian").item() == 1


def test_constant_weights():
    assert torch.equal(importance_map([3, 2], "constant"), torch.ones(3, 2, dtype=torch.float64))
