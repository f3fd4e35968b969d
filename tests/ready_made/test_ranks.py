"""Ready-made trainers on several ranks: the numbers of one process, and the masks of all images."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT
from .discs import folders

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def run(ranks, where, script="ranks.py"):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name(script)
    done = subprocess.run(
        [*command, str(script), str(where)], cwd=where, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def test_two_ranks_measure_and_write_what_one_does(tmp_path):
    results = []
    for ranks in (1, 2):
        where = tmp_path / str(ranks)
        where.mkdir()
        folders(where, number=5, size=30)
        results.append(run(ranks, where))
    for (valid, test, _), (valid_of_two, test_of_two, _) in zip(*results, strict=True):
        assert valid.keys() == valid_of_two.keys() and test.keys() == test_of_two.keys()
    (valid, test, _), (valid_of_two, test_of_two, _) = results[0][1], results[1][1]
    for name in ("loss", "accuracy", "f1", "auc"):
        assert valid_of_two[name] == pytest.approx(valid[name], rel=1e-4)
        assert test_of_two[name] == pytest.approx(test[name], rel=1e-4)
    where = Path(results[1][0][2]) / "test"
    assert sorted(path.stem for path in (where / "masks").iterdir()) == [f"disc{k}" for k in range(5)]
    assert len(list((where / "overlays").iterdir())) == 5
    with open(where / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"disc{k}" for k in range(5)]
    mean = sum(float(row["hausdorff95"]) for row in rows) / 5
    assert results[1][0][1]["hausdorff95"] == pytest.approx(mean, rel=1e-4)
    for name in ("confusion_matrix", "mistakes"):
        assert (Path(results[1][1][2]) / "plots" / f"{name}.png").is_file()
