"""The pictures show the data that they are given."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from farabio_like import plots

from .trainers import Tiny


def entry(epoch, train, valid=None):
    return {"epoch": epoch, "train": train, "valid": valid or {}, "lr": 0.1, "seconds": 1.0}


HISTORY = [
    entry(1, {"loss": 3.0, "auc": 0.5}),
    entry(2, {"loss": 2.0, "auc": 0.6}, {"loss": 2.5, "dice": 0.1}),
    entry(3, {"loss": 1.0, "auc": math.nan}),
    entry(4, {"loss": 0.5, "auc": 0.9}, {"loss": 2.0, "dice": 0.4}),
]


def drawn(figure):
    """Return the points of every line of every panel, by the panel's title and the line's label."""
    return {
        panel.get_title(): {line.get_label(): line.get_xydata().tolist() for line in panel.get_lines()}
        for panel in figure.axes
        if panel.axison
    }


def test_curves_have_every_metric_over_the_epochs():
    assert drawn(plots.curves(HISTORY)) == {
        "loss": {"train": [[1, 3], [2, 2], [3, 1], [4, 0.5]], "valid": [[2, 2.5], [4, 2.0]]},
        "auc": {"train": [[1, 0.5], [2, 0.6], [4, 0.9]]},
        "dice": {"valid": [[2, 0.1], [4, 0.4]]},
    }


def test_curves_are_labelled():
    figure = plots.curves(HISTORY)
    for panel in figure.axes:
        assert panel.get_xlabel() == "epoch"
        labels = [text.get_text() for text in panel.get_legend().get_texts()]
        assert labels == [line.get_label() for line in panel.get_lines()]
        assert all(float(tick).is_integer() for tick in panel.get_xticks())


def test_the_best_epoch_is_marked():
    for lines in drawn(plots.curves(HISTORY, best_epoch=4)).values():
        assert [x for x, _ in lines["best"]] == [4, 4]
    assert all("best" not in lines for lines in drawn(plots.curves(HISTORY)).values())


def test_unused_panels_are_empty_and_too_many_metrics_are_left_out():
    figure = plots.curves([entry(1, {f"m{i}": float(i) for i in range(4)})])
    assert len(figure.axes) == 6 and [panel.axison for panel in figure.axes] == [True] * 4 + [False] * 2
    many = drawn(plots.curves([entry(1, {f"m{i}": float(i) for i in range(30)})]))
    assert list(many) == [f"m{i}" for i in range(plots.MOST_PANELS)]


def test_what_is_no_number_is_not_drawn():
    history = [entry(1, {"loss": 1.0, "per_class": [0.1, 0.9], "bad": math.nan, "text": "x"})]
    assert drawn(plots.curves(history)) == {"loss": {"train": [[1, 1.0]]}}


@pytest.mark.parametrize("history", [[], [entry(1, {})]])
def test_a_history_without_numbers_is_a_picture_without_panels(history):
    assert drawn(plots.curves(history)) == {}
    plots.save(plots.curves(history), "empty.png")


IMAGES = torch.rand(5, 4, 6)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES.unsqueeze(1), IMAGES),
        (torch.rand(2, 3, 4, 6), None),
        ((IMAGES * 255).to(torch.uint8), (IMAGES * 255).to(torch.uint8).float()),
        (IMAGES.clone().requires_grad_(), IMAGES),
    ],
    ids=["N H W", "N 1 H W", "N 3 H W", "bytes", "with a gradient"],
)
def test_image_grid_shows_every_image_scaled_by_its_extremes(images, expected):
    expected = images.permute(0, 2, 3, 1) if expected is None else expected
    figure = plots.image_grid(images, columns=3)
    shown = [np.asarray(panel.images[0].get_array()) for panel in figure.axes if panel.images]
    assert len(shown) == len(images) and not any(panel.axison for panel in figure.axes)
    for found, image in zip(shown, expected, strict=True):
        scaled = (image - image.min()) / (image.max() - image.min())
        np.testing.assert_allclose(found, scaled.numpy(), atol=1e-6)


def test_image_grid_titles_and_mistakes():
    figure = plots.image_grid(IMAGES, titles=list("abcde"), columns=2, wrong=[False, True, False, False, True])
    assert len(figure.axes) == 6
    assert [panel.get_title() for panel in figure.axes] == [*"abcde", ""]
    colours = [panel.title.get_color() for panel in figure.axes[:5]]
    assert [colour == "crimson" for colour in colours] == [False, True, False, False, True]


def test_a_constant_image_is_drawn():
    (panel,) = plots.image_grid(torch.ones(1, 2, 2), columns=1).axes
    assert np.asarray(panel.images[0].get_array()).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(4, 4), (2, 2, 4, 4), (2, 4, 4, 3), (1, 2, 3, 4, 5)])
def test_image_grid_names_the_shapes_it_takes(shape):
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)") as caught:
        plots.image_grid(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_save_makes_the_folder():
    plots.save(plots.curves(HISTORY), "deep/er/curves.png")
    assert Path("deep/er/curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_draws_its_curves():
    trainer = Tiny({"_logdir": "runs"})
    trainer.train()
    assert (trainer.run_dir / "plots/curves.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_is_never_imported(python):
    script = """
import sys
import torch
from farabio_like import plots
from tests.trainers import Still
trainer = Still({"_logdir": "runs"})
trainer.train()
plots.save(plots.image_grid(torch.rand(3, 4, 4)), "grid.png")
print("matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules, "pylab" in sys.modules)
"""
    assert python(script).split() == ["True", "False", "False"]
    assert Path("runs/Still/1/plots/curves.png").is_file()
