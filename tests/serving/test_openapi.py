"""The description of the paths, against the service itself: schemathesis makes requests of it."""

import subprocess
import sys

import pytest

from .conftest import serving
from .predictors import Sizes

pytest.importorskip("litserve", reason="the extra serve is not installed")
pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_schemathesis_finds_nothing(tmp_path):
    with serving(Sizes, timeout=0) as server:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{server.url}/openapi.json",
            "--max-examples",
            "40",
        ]
        # Random bytes of a right length are no picture, and are refused with 422.
        command += ["--exclude-checks", "positive_data_acceptance", "--seed", "1"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
