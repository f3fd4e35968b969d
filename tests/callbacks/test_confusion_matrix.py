"""The confusion matrix equals scikit-learn's, and its picture shows it."""

from pathlib import Path

import pytest
import torch
from sklearn import metrics

from farabio_like import ConfigError, DataError, plots
from farabio_like.callbacks.confusion_matrix import ConfusionMatrix

from .replay import batches, measure, replay, scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [7, 50])
def test_classes(dtype, size):
    logits, target = scores(50, 5, dtype=dtype)
    callback = ConfusionMatrix()
    assert callback.matrix is None and measure(callback, logits, target, size) == {}
    expected = metrics.confusion_matrix(target, logits.double().argmax(1), labels=range(5))
    assert callback.matrix.dtype == torch.int64 and callback.matrix.tolist() == expected.tolist()


def test_binary_labels_and_pixels():
    logits, target = scores(30, 2)
    callback = ConfusionMatrix()
    measure(callback, logits[:, 1:], target.float())
    assert callback.matrix.tolist() == metrics.confusion_matrix(target, logits[:, 1] > 0).tolist()
    callback = ConfusionMatrix(4)
    measure(callback, logits.argmax(1), target)
    assert callback.matrix.tolist() == metrics.confusion_matrix(target, logits.argmax(1), labels=range(4)).tolist()
    logits, target = scores(6, 3, 4, 4)
    target[:, 0] = 9
    callback = ConfusionMatrix(ignore_index=9)
    measure(callback, logits, target)
    kept = (target != 9).flatten()
    expected = metrics.confusion_matrix(target.flatten()[kept], logits.argmax(1).flatten()[kept])
    assert callback.matrix.tolist() == expected.tolist()


def test_it_counts_each_pass_anew_and_not_the_train_loader():
    logits, target = scores(20, 3)
    callback = ConfusionMatrix()
    trainer = replay(callback, batches(logits, target), batches(logits[:10], target[:10]), _num_epochs=2)
    trainer.train()
    assert callback.matrix.sum() == 10
    trainer.test()
    assert callback.matrix.sum() == 20
    assert not list(Path().iterdir())
    replay(ConfusionMatrix(loaders=("train",)), batches(logits, target)).train()


def test_the_picture_is_in_the_run_folder(monkeypatch):
    titles = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda f, path: (titles.append(f.axes[0].get_title()), save(f, path)))
    logits, target = scores(20, 3)
    callbacks = [
        ConfusionMatrix(class_names=["ant", "bee", "cat"]),
        ConfusionMatrix(prefix="train_", loaders=("train",)),
    ]
    trainer = replay(callbacks, batches(logits, target), _logdir="runs", _num_epochs=2)
    trainer.train()
    found = sorted(path.name for path in (trainer.run_dir / "plots").iterdir())
    assert found == ["confusion_matrix.png", "curves.png", "train_confusion_matrix.png"]
    assert (trainer.run_dir / "plots/confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    trainer.test()
    assert [title for title in titles if title != "loss"] == [
        *("train, epoch 1", "valid, epoch 1", "train, epoch 2", "valid, epoch 2", "test")
    ]


def test_without_matplotlib_it_still_counts(monkeypatch):
    def missing(*arguments):
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(plots, "confusion_matrix", missing)
    callback = ConfusionMatrix()
    trainer = replay(callback, batches(*scores(20, 3)), _logdir="runs", _num_epochs=2)
    with pytest.warns(UserWarning, match="pip install matplotlib") as said:
        trainer.train()
    assert len(said) == 1 and callback.matrix.sum() == 20


def test_mistakes():
    with pytest.raises(ConfigError, match="num_classes=3 and 2 class_names"):
        ConfusionMatrix(3, ["a", "b"])
    with pytest.raises(ConfigError, match="one name per class"):
        ConfusionMatrix(class_names="ab")
    with pytest.raises(DataError, match="has 2 class_names for 3 classes"):
        measure(ConfusionMatrix(class_names=["a", "b"]), *scores(9, 3))
    with pytest.raises(DataError, match=r"several labels each.*argmax\(1\)"):
        measure(ConfusionMatrix(), torch.zeros(9, 3), torch.zeros(9, 3))


MATRIX = torch.tensor([[8, 2, 0], [0, 0, 0], [1, 2, 123456]])


def test_the_figure_shows_rows_as_true_classes_from_the_top():
    (panel, bar) = plots.confusion_matrix(MATRIX, ["ant", "bee", "cat"]).axes
    (image,) = panel.images
    share = [[0.8, 0.2, 0], [0, 0, 0], [1 / 123459, 2 / 123459, 123456 / 123459]]
    for shown, row in zip(image.get_array().tolist(), share, strict=True):
        assert shown == pytest.approx(row, abs=1e-6)
    assert image.origin == "upper" and panel.get_ylim() == (2.5, -0.5)
    assert panel.get_xlabel() == "predicted" and panel.get_ylabel() == "true"
    assert [text.get_text() for text in panel.get_xticklabels()] == ["ant", "bee", "cat"]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["ant", "bee", "cat"]
    cells = {text.get_position(): text.get_text() for text in panel.texts}
    assert cells[(1, 0)] == "2" and cells[(0, 2)] == "1" and cells[(2, 2)] == "1.2e+05" and len(cells) == 9
    colours = {text.get_position(): text.get_color() for text in panel.texts}
    assert colours[(0, 0)] == "white" and colours[(1, 0)] == "black"


def test_the_figure_of_many_classes_has_no_counts_and_names_are_numbers():
    panel = plots.confusion_matrix(torch.eye(plots.MOST_CELLS + 1)).axes[0]
    assert not panel.texts and panel.images[0].get_array().shape == (31, 31)
    panel = plots.confusion_matrix(torch.eye(plots.MOST_CELLS)).axes[0]
    assert len(panel.texts) == 900 and panel.get_yticklabels()[7].get_text() == "7"


@pytest.mark.parametrize(
    ("shape", "names", "message"),
    [((2, 3), None, r"\(2, 3\); expected \(C, C\)"), ((2, 2), ["a"], "1 class_names for 2")],
)
def test_the_figure_names_what_does_not_fit(shape, names, message):
    with pytest.raises(ValueError, match=message):
        plots.confusion_matrix(torch.zeros(shape), names)
