"""`cross_validate`: folds, means, ensembles, and going on after a kill."""

import csv
import os
import statistics
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from farabio_like import ConfigError, DataError
from farabio_like.inference import sliding_window
from farabio_like.trainers import ClassificationTrainer, Ensemble, SegmentationTrainer, cross_validate
from farabio_like.trainers.folds import labels_of, split

from ..conftest import ROOT
from .discs import QUIET, folders, small_unet, tensors
from .test_classification import images, network

# ---------------------------------------------------------------- folds


@pytest.mark.parametrize("samples", [10, 13, 47])
def test_every_sample_is_in_one_fold(samples):
    parts = split(samples, 5, None, None, seed=0)
    assert sorted(index for part in parts for index in part) == list(range(samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert split(samples, 5, None, None, seed=0) == parts != split(samples, 5, None, None, seed=1)


def test_every_fold_has_the_same_share_of_every_class():
    labels = [0] * 31 + [1] * 12 + [2] * 5
    parts = split(len(labels), 5, labels, None, seed=3)
    for label in range(3):
        counts = [sum(labels[index] == label for index in part) for part in parts]
        assert max(counts) - min(counts) <= 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.warns(UserWarning, match=r"some folds have no sample of \['b'\]"):
        split(12, 3, ["a"] * 11 + ["b"], None, seed=0)


def test_a_group_is_in_one_fold():
    groups = [f"patient {k}" for k, size in enumerate([9, 7, 5, 4, 4, 3, 3, 2, 2, 1, 1, 1]) for _ in range(size)]
    labels = [int(group.endswith(("1", "4", "7"))) for group in groups]
    parts = split(len(groups), 4, labels, groups, seed=0)
    assert sorted(index for part in parts for index in part) == list(range(len(groups)))
    places = Counter(group for part in parts for group in {groups[index] for index in part})
    assert set(places.values()) == {1}
    assert all(parts) and max(map(len, parts)) <= 14
    ones = [sum(labels[index] for index in part) for part in parts]
    assert max(ones) <= 7  # of 14 in four groups
    assert all(split(4, 4, None, ["a", "b", "c", "d"], seed=k) for k in range(5))


def test_folds_that_cannot_be():
    with pytest.raises(DataError, match="5 folds of 4 samples"):
        split(4, 5, None, None, seed=0)
    with pytest.raises(DataError, match="5 folds of 2 groups"):
        split(8, 5, None, [0, 1] * 4, seed=0)
    with pytest.raises(DataError, match="there are 3 labels for 8 samples"):
        split(8, 2, [0, 1, 0], None, seed=0)


def test_labels_that_a_data_set_tells():
    data = TensorDataset(*images(9))
    assert labels_of(data) == [0, 1, 2] * 3 and labels_of(Subset(data, [4, 3])) == [1, 0]
    assert labels_of(tensors(3)) is None and labels_of(TensorDataset(torch.rand(4, 2), torch.rand(4))) is None


# ---------------------------------------------------------------- runs


def validated(folds=2, **options):
    data = TensorDataset(*images(31))
    given = {**QUIET, "num_epochs": 1, "model": network, "train": data, "classes": 3, "lr": 0.01, **options}
    return cross_validate(ClassificationTrainer, folds, **given)


def test_a_run_for_each_fold_and_a_report_of_all():
    result = validated(3, test=TensorDataset(*images(12)))
    assert [run.relative_to(result.folder).as_posix() for run in result.runs] == [
        f"fold-{k}/ClassificationTrainer/1" for k in (1, 2, 3)
    ]
    for name in ("accuracy", "loss", "f1", "f1_2", "test_accuracy"):
        values = [fold[name] for fold in result.folds]
        assert result.mean[name] == pytest.approx(statistics.mean(values))
        assert result.deviation[name] == pytest.approx(statistics.stdev(values))
    with open(result.folder / "folds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fold"] for row in rows] == ["1", "2", "3", "mean", "deviation"]
    assert float(rows[3]["accuracy"]) == pytest.approx(result.mean["accuracy"], abs=1e-5)
    page = (result.folder / "report.html").read_text()
    assert "fold-2/ClassificationTrainer/1/report.html" in page and (result.folder / "curves.png").is_file()
    assert "accuracy" in str(result) and "±" in str(result)


def test_each_fold_is_evaluated_on_what_it_has_not_seen():
    seen = []

    class Noting(ClassificationTrainer):
        def on_train_start(self):
            seen.append((list(self.train_loader.dataset.indices), list(self.valid_loader.dataset.indices)))

    data = TensorDataset(*images(31))
    result = cross_validate(Noting, 3, train=data, model=network, classes=3, **{**QUIET, "num_epochs": 1})
    for train, valid in seen:
        assert sorted(train + valid) == list(range(31))
    assert sorted(index for _, valid in seen for index in valid) == list(range(31))
    for (_, valid), fold in zip(seen, result.folds, strict=True):
        trainer = ClassificationTrainer(model=network, valid=Subset(data, valid), classes=3, logdir=None, **QUIET)
        trainer.load_model(result.weights[seen.index((_, valid))])
        assert trainer.evaluate_loader(trainer.valid_loader)["accuracy"] == pytest.approx(fold["accuracy"])


def test_weights_of_all_folds_are_one_network(tmp_path):
    data = folders(tmp_path, size=30)
    train = data.changed(patch=16, patches=2)
    result = cross_validate(SegmentationTrainer, 3, train=train, model=small_unet, **{**QUIET, "num_epochs": 1})
    ensemble = result.ensemble()
    assert type(ensemble) is Ensemble and len(ensemble.models) == 3 and not ensemble.training
    image = data[0][0][None]
    found = sliding_window(ensemble, image, 16)
    each = []
    for path in result.weights:
        model = small_unet()
        model.load_state_dict(torch.load(path, weights_only=True)["model"])
        each.append(sliding_window(model, image, 16))
    assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-6)
    assert (result.runs[0] / "checkpoints").is_dir()


class Named(TensorDataset):
    classes = ["a", "b", "c"]


def test_classes_that_a_data_set_tells_are_those_of_every_fold():
    result = validated(train=Named(*images(31)), classes=None, class_weights=[1.0, 2.0, 1.0])
    assert "f1_c" in result.mean
    assert len(result.ensemble().models) == 2


def test_a_module_is_copied_for_each_fold():
    model = network()
    before = [p.clone() for p in model.parameters()]
    result = validated(model=model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert len(result.folds) == 2


def test_called_again_it_trains_nothing(monkeypatch):
    first = validated()
    monkeypatch.setattr(ClassificationTrainer, "training_step", lambda self: pytest.fail("trained again"))
    second = validated()
    assert second.folds == first.folds and second.runs == first.runs
    with pytest.raises(ConfigError, match="has the folds of other data, or of another seed"):
        validated(seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, "lr=0.01, now 0.5"),
        ({"class_weights": [1.0, 2.0, 1.0]}, r"class_weights=None, now \[1.0, 2.0, 1.0\]"),
        ({"num_epochs": 0}, "num_epochs=1, now 0"),
        ({"clip_norm": 1.0}, "clip_norm=None, now 1.0"),
        ({"config": {"smoothing": 0.1}}, "smoothing=None, now 0.1"),
    ],
)
def test_folds_of_other_settings_are_not_taken_for_these(changes, message):
    validated()
    with pytest.raises(ConfigError, match=f"has the folds of other settings: .*{message}"):
        validated(**changes)


def test_settings_that_change_no_number_may_be_others():
    first = validated(config={"api_key": "sk-1234567890"})
    assert "sk-1234567890" not in (first.folder / "folds.json").read_text()
    again = validated(config={"api_key": "sk-1234567890"}, num_workers=2, log_interval=1)
    assert again.folds == first.folds
    longer = validated(config={"api_key": "sk-1234567890"}, num_epochs=2)
    assert longer.runs == first.runs and '"num_epochs": 2' in (longer.folder / "folds.json").read_text()
    assert [len((run / "metrics.jsonl").read_text().splitlines()) for run in longer.runs] == [2, 2]


def test_other_arguments():
    for folds in (1, 2.5, True):
        with pytest.raises(ConfigError, match="folds="):
            cross_validate(ClassificationTrainer, folds, train=TensorDataset(*images(9)))
    with pytest.raises(ConfigError, match="logdir='runs'.*folder="):
        cross_validate(ClassificationTrainer, train=TensorDataset(*images(9)), logdir="runs")
    with pytest.raises(DataError, match="expected a data set"):
        cross_validate(ClassificationTrainer, train=iter([]))
    with pytest.raises(DataError, match="train has 9 samples and valid 8"):
        cross_validate(ClassificationTrainer, train=TensorDataset(*images(9)), valid=TensorDataset(*images(8)))


SCRIPT = """
import os, signal, sys
import torch
from tests.ready_made.test_classification import images, network
from farabio_like.trainers import ClassificationTrainer, cross_validate
from torch.utils.data import TensorDataset

kill_at = int(sys.argv[1])
steps = 0


class Killed(ClassificationTrainer):
    def on_end_training_batch(self):
        global steps
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


result = cross_validate(
    Killed, 3, train=TensorDataset(*images(31)), model=network, classes=3, num_epochs=2, batch_size=4,
    device="cpu", verbose=False, save_steps=1,
)
print(steps, result.mean["accuracy"], result.mean["loss"])
"""


@pytest.mark.slow
def test_a_killed_one_goes_on(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(folder, kill_at):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, str(tmp_path / "script.py"), str(kill_at)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    steps, *means = whole.stdout.split()
    assert run(tmp_path / "killed", 14).returncode == -9  # in the second fold
    last = run(tmp_path / "killed", 0)
    assert last.returncode == 0, last.stderr
    left, *found = last.stdout.split()
    assert found == means and int(left) == int(steps) - 13  # the one that was killed is trained again
