"""`SuperResolutionTrainer` on two ranks: weights and metrics of one process, in both stages."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .test_ranks import run

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def test_two_ranks_of_super_resolution_are_one(tmp_path):
    results = []
    for ranks in (1, 2):
        where = tmp_path / str(ranks)
        (where / "photos").mkdir(parents=True)
        for number in range(5):  # an odd number: one rank evaluates an image more
            array = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(array).resize((48 + number, 40)).save(where / "photos" / f"{number}.png")
        results.append(run(ranks, where, "super_resolution_ranks.py"))
    (weights, valid, _), (weights_of_two, valid_of_two, folder) = results
    assert weights_of_two == pytest.approx(weights, rel=1e-4)
    assert len(valid) == 2
    for one, two in zip(valid, valid_of_two, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    assert len(list((Path(folder) / "samples").iterdir())) == 2
