"""The pipeline of the example: run through, and killed at every boundary and in the middle of trainings."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from farabio_like.pipelines.record import Record

from .driving import ROOT, command, environment, kill, nothing_runs, starts, states

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# What the driver says, or a task through it, when it is killed.
KILLS = [
    r"^split: started",
    r"^split: Success",
    r"^train\[config.lr=0.05 config.hidden=32\]: started",
    r"^train\[config.lr=0.05 config.hidden=32\] \|.*3/6",
    r"^train\[config.lr=0.2 config.hidden=64\] \|.*5/6",
    r"^train\[config.lr=0.2 config.hidden=32\]: Success",
    r"^valid: started",
    r"^infer: started",
    r"^submit: started",
    r"^submit: Success",
]


def copied():
    shutil.copytree(ROOT / "examples" / "pipeline", "pipeline")


def drive(until, *arguments):
    """Run a command until it says something; kill it then. Return whether it has."""
    driver = subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.PIPE, text=True)
    for line in driver.stdout:
        if until is not None and re.search(until, line):
            kill(driver)
            nothing_runs()
            return True
    return driver.wait(60) != 0


def weights():
    """Return the last weights of every training, by cell."""
    found = {}
    for path in sorted(Path("dags/digits/1/tasks/train").glob("*/runs/*/*/model.pth")):
        found[path.parts[5]] = torch.load(path, weights_only=True)
    return found


def reference(folder):
    """Return the weights of a run that nothing stops."""
    copied()
    assert not drive(None, "run", "pipeline/digits.yml")
    return weights()


def flat(values):
    return {key: part for key, part in values.items() if isinstance(part, torch.Tensor)}


def test_killed_ten_times_the_weights_are_the_same_and_each_task_succeeds_once(tmp_path):
    expected = reference(tmp_path)
    assert len(expected) == 4
    shutil.rmtree("dags")
    shutil.rmtree("pipeline/data")
    killed = 0
    arguments = ["run", "pipeline/digits.yml"]
    for said in KILLS:
        killed += drive(said, *arguments)
        arguments = ["resume", "digits"] if Path("dags/digits/1/plan.json").exists() else arguments
    assert not drive(None, *arguments)
    assert killed >= 8
    assert set(states("digits").values()) == {"Success"}
    found = weights()
    assert found.keys() == expected.keys()
    for cell, state in expected.items():
        assert flat(state).keys() == flat(found[cell]).keys()
        assert all(torch.equal(part, found[cell][key]) for key, part in flat(state).items()), cell
    for path in Record.find(Path("dags"), "digits").path.rglob("events.jsonl"):
        assert path.read_bytes().count(b'"event": "Success"') == 1, path
    assert min(starts("digits").values()) >= 1
