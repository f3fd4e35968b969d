"""A GAN on two ranks learns what it learns on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..conftest import ROOT
from .gan_ranks import SETTINGS

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def run(ranks, where):
    where.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("gan_ranks.py")
    done = subprocess.run(
        [*command, str(script), str(where)], cwd=where, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_ranks_learn_what_one_does(tmp_path):
    for ranks in (1, 2):
        run(ranks, tmp_path / str(ranks))
    for name in SETTINGS:
        one, two = (torch.load(tmp_path / ranks / f"{name}.pth", weights_only=True) for ranks in "12")
        for network, state in one.items():
            for key, value in state.items():
                torch.testing.assert_close(
                    value, two[network][key], rtol=1e-4, atol=1e-6, msg=f"{name} {network} {key}"
                )
        one, two = (torch.load(tmp_path / ranks / f"{name}.numbers", weights_only=True) for ranks in "12")
        for part, numbers in one.items():
            assert two[part] == pytest.approx(numbers, rel=1e-4, abs=1e-6)
