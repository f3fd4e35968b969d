"""`ClassificationTrainer`: classes, one label, several; tables and pictures; exact resume."""

import csv
import math
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from farabio_like import Callback, ConfigError, DataError, HookError
from farabio_like.trainers import ClassificationTrainer

from .discs import QUIET


def images(number=40, classes=3, size=8):
    """Return images of which class k is bright in row k, and their classes."""
    generator = torch.Generator().manual_seed(number)
    targets = torch.arange(number) % classes
    found = torch.rand(number, 1, size, size, generator=generator)
    found[torch.arange(number), 0, targets] += 0.5
    return found, targets


def network(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, outputs))


def built(model=network, data=None, **options):
    data = TensorDataset(*images()) if data is None else data
    given = {**QUIET, "classes": 3, "train": data, "valid": data, "test": data, "lr": 0.01, **options}
    return ClassificationTrainer(model=model, **given)


def test_metrics_are_those_of_scikit_learn():
    data = TensorDataset(*images())
    trainer = built(data=data, classes=["a", "b", "c"], top_k=(1, 2), num_epochs=3)
    trainer.train()
    assert trainer._monitor == "accuracy"
    metrics = trainer.test()
    inputs, targets = data.tensors
    with torch.no_grad():
        scores = trainer.model.eval()(inputs)
    predicted = scores.argmax(1)
    assert metrics["accuracy"] == pytest.approx((predicted == targets).double().mean().item())
    best_two = (scores.topk(2).indices == targets[:, None]).any(1)
    assert metrics["accuracy_top2"] == pytest.approx(best_two.double().mean().item())
    assert metrics["f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert metrics["auc"] == pytest.approx(roc_auc_score(targets, scores.double().softmax(1), multi_class="ovr"))
    assert len(metrics["f1_per_class"]) == 3
    plots = trainer.run_dir / "plots"
    assert {"curves.png", "confusion_matrix.png", "per_class.png"} <= {path.name for path in plots.iterdir()}


def test_the_worst_mistakes_are_drawn(monkeypatch):
    drawn = {}

    def grid(pictures, titles, **options):
        drawn.update(pictures=pictures, titles=titles)
        return original(pictures, titles, **options)

    from farabio_like import plots

    original = plots.image_grid
    monkeypatch.setattr(plots, "image_grid", grid)
    trainer = built(num_epochs=1, lr=1e-6, classes=["a", "b", "c"])
    trainer.train()
    trainer.test()
    inputs, targets = images()
    with torch.no_grad():
        scores = trainer.model.eval()(inputs)
    losses = F.cross_entropy(scores, targets, reduction="none") * (scores.argmax(1) != targets)
    order = losses.argsort(descending=True)[: int((losses > 0).sum())][:24]
    assert torch.equal(drawn["pictures"], inputs[order])
    names = "abc"
    assert drawn["titles"] == [f"{names[scores[k].argmax()]}, is {names[targets[k]]}" for k in order]
    assert (trainer.run_dir / "plots" / "mistakes.png").is_file()


@pytest.mark.parametrize("form", ["N", "N x 1, float", "bool"])
def test_one_label(form):
    inputs, targets = images(classes=2)
    data = TensorDataset(inputs, {"N": targets, "bool": targets == 1}.get(form, targets[:, None].float()))
    trainer = built(lambda: network(1), data, classes=["benign", "malignant"], mode="binary", num_epochs=5)
    trainer.train()
    metrics = trainer.test()
    with torch.no_grad():
        scores = trainer.model.eval()(inputs)[:, 0]
    assert metrics["accuracy"] == pytest.approx(((scores > 0) == targets).double().mean().item())
    assert metrics["f1"] == pytest.approx(f1_score(targets, scores > 0))
    assert metrics["auc"] == pytest.approx(roc_auc_score(targets, scores))
    assert metrics["loss"] == pytest.approx(
        F.binary_cross_entropy_with_logits(scores, targets.float()).item(), rel=1e-5
    )
    assert torch.equal(next(trainer.predict(inputs))[:, 0], scores.sigmoid())


def test_several_labels_each():
    inputs, targets = images()
    both = torch.stack([targets == 0, targets != 2], 1).float()
    trainer = built(
        lambda: network(2), TensorDataset(inputs, both), classes=["a", "b"], mode="multilabel", num_epochs=4
    )
    trainer.train()
    assert trainer._monitor == "f1"
    metrics = trainer.test()
    with torch.no_grad():
        scores = trainer.model.eval()(inputs)
    assert metrics["f1"] == pytest.approx(f1_score(both, scores > 0, average="macro"))
    assert metrics["auc"] == pytest.approx(roc_auc_score(both, scores, average="macro"))


def test_weights_and_smoothing_are_those_of_torch():
    trainer = built(class_weights=[1.0, 2.0, 0.5], smoothing=0.2)
    inputs, targets = images()
    trainer.model.eval()
    trainer.take_batch((0, (inputs, targets)))
    expected = F.cross_entropy(trainer.model(inputs), targets, torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.2)
    assert trainer.compute_loss().item() == pytest.approx(expected.item())
    binary = built(lambda: network(1), classes=1, class_weights=[3.0], smoothing=0.2)
    outputs, binary_targets = torch.tensor([[0.3], [-1.0]]), torch.tensor([1, 0])
    expected = 3 * F.binary_cross_entropy_with_logits(outputs[:, 0], torch.tensor([0.9, 0.1]))
    assert binary.criterion(outputs, binary_targets).item() == pytest.approx(expected.item())


class Augmented(Dataset):
    classes = ["a", "b", "c"]

    def __len__(self):
        return 40

    def __getitem__(self, index):
        inputs, targets = images()
        return inputs[index] + 0.1 * torch.rand(1, 8, 8) + 0.1 * float(np.random.rand()), targets[index]


@pytest.mark.parametrize("step", [13])
def test_it_goes_on_bit_for_bit_with_two_workers_and_augmentation(step):
    class Stops(Callback):
        def on_end_training_batch(self, trainer):
            if trainer.step == step:
                signal.raise_signal(signal.SIGTERM)

    def trainer(**options):
        return built(data=Augmented(), classes=None, num_workers=2, save_steps=1, **options)

    whole = trainer(logdir="whole")
    assert whole.class_names == ["a", "b", "c"]
    whole.train()
    with pytest.raises(SystemExit):
        trainer(logdir="stopped", callbacks=[Stops()]).train()
    resumed = trainer(logdir="stopped")
    resumed.train(resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert [e["valid"] for e in whole.history] == [e["valid"] for e in resumed.history]


def write_images(folder, number=5):
    folder.mkdir()
    inputs = (images()[0][:number, 0].clamp(0, 1) * 255).byte().numpy()
    for index, picture in enumerate(inputs):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return torch.from_numpy(inputs).unsqueeze(1) / 255


def test_predict_images_writes_a_table(tmp_path):
    inputs = write_images(tmp_path / "new")
    trainer = built(classes=["a", "b", "c"], batch_size=2)
    trainer.train()
    rows = trainer.predict_images(tmp_path / "new")
    with torch.no_grad():
        expected = trainer.model.eval()(inputs).softmax(1)
    with open(trainer.run_dir / "predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    for number, (row, line) in enumerate(zip(rows, table, strict=True)):
        assert row["file"] == line["file"] == str(tmp_path / "new" / f"{number}.png")
        assert row["predicted"] == line["predicted"] == "abc"[expected[number].argmax()]
        assert [row[name] for name in "abc"] == pytest.approx(expected[number].tolist(), abs=1e-6)
        assert [float(line[name]) for name in "abc"] == pytest.approx(expected[number].tolist(), abs=1e-5)
    paths = [tmp_path / "new" / "3.png", tmp_path / "new" / "1.png"]
    own = trainer.predict_images(paths, table=tmp_path / "own.csv", transform=torch.neg)
    assert [row["file"] for row in own] == [str(path) for path in paths] and (tmp_path / "own.csv").is_file()
    assert own[0]["a"] != rows[3]["a"]
    (tmp_path / "new" / "9.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"9\.png"):
        trainer.predict_images(tmp_path / "new")
    with pytest.raises(DataError, match="no path"):
        trainer.predict_images([])


def test_predict_images_of_labels(tmp_path):
    write_images(tmp_path / "new")
    one = built(lambda: network(1), classes=["no", "yes"], mode="binary", logdir=None).predict_images(tmp_path / "new")
    assert {row["predicted"] for row in one} <= {"no", "yes"} and set(one[0]) == {"file", "predicted", "yes"}
    assert all((row["predicted"] == "yes") == (row["yes"] > 0.5) for row in one)
    several = built(lambda: network(2), classes=["a", "b"], mode="multilabel", logdir=None)
    for row in several.predict_images(tmp_path / "new"):
        assert row["predicted"] == ";".join(name for name in "ab" if row[name] > 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"class_weights": [1.0]}, ConfigError, r"class_weights has the shape \(1,\); expected 3"),
        ({"top_k": 3}, ConfigError, "top_k is 3"),
        ({"loss": "focal"}, ConfigError, "loss='focal'; expected a function"),
        ({"mode": "binary", "classes": 1, "smoothing": 1.5}, ConfigError, "smoothing is 1.5"),
        ({"loss": torch.nn.CrossEntropyLoss}, ConfigError, "is the class CrossEntropyLoss"),
        ({"loss": F.cross_entropy, "smoothing": 0.1}, ConfigError, "smoothing would be ignored, as loss="),
        ({"optimizer": torch.optim.SGD, "lr": 0.1}, ConfigError, "lr would be ignored, as optimizer="),
    ],
)
def test_what_is_not_allowed(options, error, message):
    with pytest.raises(error, match=message):
        built(**options)


def test_outputs_and_targets_that_do_not_fit():
    with pytest.raises(HookError, match=r"expected N x 1, for binary. .* or give classes="):
        built(classes=None, loss=lambda outputs, targets: outputs.mean()).train()
    with pytest.raises(HookError, match=r"outputs of the shape \(4, 4\); expected N x 3, for multiclass"):
        built(lambda: network(4)).train()
    with pytest.raises(DataError, match="mode='multiclass'"):
        built(lambda: network(2), classes=2, mode="multilabel").train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda targets: targets.float(), r"the shape \(31,\), torch.float32; expected class numbers"),
        (lambda targets: targets[:, None], r"the shape \(31, 1\), torch.int64; expected class numbers"),
        (lambda targets: targets.int(), "torch.int32; expected class numbers"),
        (lambda targets: targets + 1, "numbers 0 to 2, and targets from 1 to 3. Write classes=4"),
        (lambda targets: targets - 1, "targets from -1 to 1"),
    ],
)
def test_targets_that_are_no_classes(change, message):
    inputs, targets = images(31)
    data = TensorDataset(inputs, change(targets))
    with pytest.raises(DataError, match=message):
        built(data=data, batch_size=31, num_epochs=1).train()


@pytest.mark.parametrize("wrong", [2.0, -1.0, math.nan])
def test_targets_that_are_neither_yes_nor_no(wrong):
    inputs, targets = images(31, classes=2)
    targets = targets.float()
    targets[3] = wrong
    data = TensorDataset(inputs, targets)
    with pytest.raises(DataError, match="expected 0 or 1 for each label"):
        built(lambda: network(1), data, classes=1, num_epochs=1, valid=None).train()


def test_a_last_batch_of_one_is_left_out_in_training():
    trainer = built(data=TensorDataset(*images(9)), batch_size=4)
    trainer.train()  # batch norm would fail
    assert trainer.step == 4 and math.isfinite(trainer.history[-1]["train"]["loss"])


def test_mixed_targets_train():
    from farabio_like.callbacks import Mixup

    trainer = built(callbacks=[Mixup(num_classes=3)])
    trainer.train()
    assert trainer.history[-1]["valid"]["accuracy"] >= 0
