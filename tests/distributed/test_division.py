"""Loaders that are divided among the ranks already are read as they are; the others are divided; both tell numbers."""

import json
from pathlib import Path

import pytest

from . import divided
from .test_torchrun import torchrun

pytestmark = [pytest.mark.slow, pytest.mark.integration]
SCRIPT = Path(__file__).with_name("divided.py")
ODD = ("samples of both", "undivided", "a split of its own")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divided")
    torchrun(2, SCRIPT, folder, folder=folder)
    found = json.loads((folder / "rank0.json").read_text())
    torchrun(1, SCRIPT, folder, "a list of batches", folder=folder)
    return {**found, "by one": json.loads((folder / "rank0.json").read_text())}


@pytest.mark.parametrize("name", [name for name in divided.LOADERS if not name.startswith(ODD)])
def test_each_sample_is_read_once(results, name):
    found = results[name]
    assert found["train"] == found["valid"] == [float(i) for i in range(divided.N)]
    assert found["mean"] == pytest.approx(sum(range(divided.N)) / divided.N)
    assert found["said"] == []


def test_numbers_that_do_not_add_up_are_said_of_each_loader(results):
    train, valid = results["samples of both"]["said"]
    assert "train" in train and "valid" in valid
    for said in (train, valid):
        assert " 10 samples" in said and "has 16" in said and "_shard_loaders" in said


def test_loaders_are_left_alone_where_it_is_asked(results):
    left = results["samples of both, left alone"]
    assert left["train"] == left["valid"] == sorted([0.0, 8.0, *map(float, range(16))]) and left["said"] == []
    assert results["undivided, as asked"]["train"] == sorted([float(i) for i in range(16)] * 2)


@pytest.mark.parametrize("name", ["a split of its own", "a split of its own, of files"])
def test_splits_that_each_rank_has_drawn_for_itself_are_an_error(results, name):
    assert "other samples on each process" in results[name] and "_seed" in results[name]


def test_random_numbers_of_samples_depend_on_neither_ranks_nor_workers(results):
    (none, two), (alone, _) = results["drawn"], results["by one"]["drawn"]
    assert none == two == alone
    assert len({tuple(row) for row in none}) == len(none) == 48


def test_a_batch_that_all_ranks_skip_is_skipped(results):
    two, one = results["skipped"], results["by one"]["skipped"]
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-9)
    assert two["mean"] == pytest.approx(one["mean"])
    rows = [i for i in range(divided.N) if i // 4 != 1]
    assert one["mean"] == pytest.approx(sum(rows) / len(rows))


def test_a_batch_that_one_rank_skips_alone_is_an_error(tmp_path):
    _, said = torchrun(2, SCRIPT, tmp_path, "alone", folder=tmp_path, good=False)
    assert "HookError: _next_loop is set on rank 1 for a batch that rank 0 trains" in said
