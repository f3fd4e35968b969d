"""The pictures show the data that they are given."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from farabio_like import plots

from ..trainers import Tiny


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
    figure = plots.curves(HISTORY, best_epoch=2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["train", "valid", "best"]
    for panel in figure.axes:
        assert panel.get_xlabel() == "epoch"
        assert panel.get_legend() is None
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


# ---------------------------------------------------------------- curves


def scales(history):
    return {panel.get_title(): panel.get_yscale() for panel in plots.curves(history).axes}


def test_an_axis_is_logarithmic_where_that_helps():
    falling, rising = [10.0 / 2**i for i in range(12)], [0.9 * (i + 1) / 200 for i in range(200)]
    assert plots.is_logarithmic(falling) and not plots.is_logarithmic(rising)
    assert plots.is_logarithmic([0.5, 0.1, 0.001]) and plots.is_logarithmic([1.0, 1e6])
    assert (
        not plots.is_logarithmic([]) and not plots.is_logarithmic([100.0, 0.0]) and not plots.is_logarithmic([3.0, 1.0])
    )
    history = [entry(i + 1, {"loss": value, "near": 1.0 + i, "signed": value - 5}) for i, value in enumerate(falling)]
    assert scales(history) == {"loss": "log", "near": "linear", "signed": "linear"}


def test_an_axis_with_a_line_that_is_not_positive_stays_linear():
    history = [entry(i, {"loss": 10.0**-i}, {"loss": -1.0}) for i in range(1, 5)]
    assert scales(history) == {"loss": "linear"}


def test_a_learning_rate_that_changes_has_a_panel():
    history = [{**entry(i, {"loss": 1.0}), "lr": {"g": 0.1**i, "d": [0.5, 0.25]}} for i in range(1, 4)]
    lines = drawn(plots.curves(history))["learning rate"]
    assert set(lines) == {"g", "d 0", "d 1"}
    assert [y for _, y in lines["g"]] == pytest.approx([0.1, 0.01, 0.001])
    assert "learning rate" not in drawn(plots.curves([entry(1, {"loss": 1.0}), entry(2, {"loss": 1.0})]))


def test_one_epoch_has_one_tick():
    (panel,) = plots.curves([entry(7, {"loss": 1.0})], best_epoch=7).axes
    assert panel.get_xticks().tolist() == [7]


def test_what_does_not_fit_is_counted():
    figure = plots.curves([entry(1, {f"m{i}": 1.0 for i in range(14)})])
    assert figure._supxlabel.get_text() == "and 5 more metrics in the history"


def test_a_long_name_keeps_both_ends():
    (panel,) = plots.curves([entry(1, {"start" + "x" * 80 + "end": 1.0})]).axes
    title = panel.get_title()
    assert len(title) <= 40 and title.startswith("start") and title.endswith("end") and "…" in title


def test_comparison_draws_every_run_that_has_the_metric():
    other = [entry(1, {"loss": 9.0}), entry(2, {"loss": 8.0})]
    figure = plots.comparison({"one": HISTORY, "two": other, "three": []}, ["loss", "dice"])
    points = {p.get_title(): [line.get_xydata().tolist() for line in p.get_lines()] for p in figure.axes if p.axison}
    assert points == {"loss": [[[2, 2.5], [4, 2.0]], [[1, 9.0], [2, 8.0]]], "dice": [[[2, 0.1], [4, 0.4]]]}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]


# ---------------------------------------------------------------- images and classes


def test_masks_lie_over_the_images_and_leave_the_background_clear():
    masks = torch.zeros(5, 4, 6, dtype=torch.long)
    masks[:, 1], masks[:, 2], masks[:, 3] = 1, 2, -1
    for given in (masks, masks.unsqueeze(1)):
        panel = plots.image_grid(IMAGES, masks=given).axes[0]
        over = np.asarray(panel.images[1].get_array())
        assert over.shape == (4, 6, 4)
        assert over[..., 3].tolist() == [[0] * 6, [0.5] * 6, [0.5] * 6, [0] * 6]
        assert (over[1, 0, :3] != over[2, 0, :3]).any()


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"masks of the shape \(5, 6, 4\); expected \(5, 4, 6\)"):
        plots.image_grid(IMAGES, masks=torch.zeros(5, 6, 4))


def test_an_image_with_nan_is_drawn():
    image = torch.tensor([[[1.0, math.nan], [3.0, math.inf]]])
    (panel,) = plots.image_grid(image).axes
    assert np.asarray(panel.images[0].get_array()).tolist() == [[0, 0], [1, 1]]
    plots.save(plots.image_grid(torch.full((1, 2, 2), math.nan)), "nan.png")


def test_prediction_grid_says_what_was_predicted_and_what_is_true():
    figure = plots.prediction_grid(IMAGES, torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0, 1, 1, 1, 0]), ["cat", "dog"])
    titles = [(panel.get_title(), panel.title.get_color()) for panel in figure.axes[:5]]
    assert titles[1] == ("dog", "black") and titles[2] == ("cat, is dog", "crimson")


def test_a_mistake_names_both_classes_however_long_they_are():
    names = ["golden retriever of the far north", "flat-coated retriever of the far north"]
    figure = plots.prediction_grid(IMAGES[:1], torch.tensor([0]), torch.tensor([1]), names)
    assert figure.axes[0].get_title().split("\n") == ["golden… north,", "is flat-c…", "north"]


def test_a_learning_rate_with_a_long_name_leaves_room_for_its_curve():
    history = [{**entry(i, {"loss": 1.0}), "lr": {"discriminator" * 4: 0.1 / i, "b": 0.1}} for i in (1, 2)]
    labels = drawn(plots.curves(history))["learning rate"]
    assert max(map(len, labels)) <= plots.LONGEST_LABEL


def test_a_late_epoch_is_written_out():
    figure = plots.curves([entry(20_000 + i, {"loss": 1.0}) for i in range(9)])
    figure.canvas.draw()
    assert "20004" in [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_a_long_title_is_broken_into_lines():
    title = plots.image_grid(IMAGES[:1], ["golden retriever of the far north and its puppies"]).axes[0].get_title()
    lines = title.split("\n")
    assert len(lines) == 3 and max(map(len, lines)) <= plots.TITLE_WIDTH and title.endswith("…")


def texts(panel):
    return [text.get_text().strip() for text in panel.texts]


def test_class_bars_have_a_bar_and_a_number_for_every_class():
    figure = plots.class_bars({"iou": [0.5, math.nan, 0.25], "bias": [-3.0, 1.0, math.inf]}, ["cat", "dog", "x" * 60])
    iou, bias = (panel for panel in figure.axes if panel.axison)
    assert [bar.get_width() for bar in iou.patches] == [0.5, 0, 0.25]
    assert texts(iou) == ["0.5", "nan", "0.25"] and texts(bias) == ["-3", "1", "inf"]
    names = [label.get_text() for label in iou.get_yticklabels()]
    assert names[:2] == ["cat", "dog"] and len(names[2]) <= plots.LONGEST_NAME
    assert iou.get_ylim()[0] > iou.get_ylim()[1], "class 0 on top"


def test_class_bars_of_many_classes_have_no_names():
    (panel,) = plots.class_bars({"iou": [0.5] * 200}).axes
    assert len(panel.patches) == 200 and not panel.texts


def test_class_bars_and_names_must_fit():
    with pytest.raises(ValueError, match="2 class_names for 3 classes"):
        plots.class_bars({"iou": [1.0, 1.0, 1.0]}, ["a", "b"])


CLASS_NAMES = [f"a rather long name of class number {number}" for number in range(30)]


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.curves([entry(i, {f"a_rather_long_metric_{k}": i * 1e-5 for k in range(9)}) for i in (1, 2)]),
        lambda: plots.curves([entry(1, {"loss": math.nan, "auc": 0.5})], best_epoch=1),
        lambda: plots.curves([entry(10**6 + i, {"x" * 60: 1e-5 + i * 1e-10, "b": -i * 1e9}) for i in range(9)]),
        lambda: plots.confusion_matrix(torch.randint(0, 99999, (30, 30)), CLASS_NAMES),
        lambda: plots.confusion_matrix(torch.tensor([[7]]), ["cat"]),
        lambda: plots.class_bars({"a": [0.123] * 30, "b": [math.nan] * 30}, CLASS_NAMES),
        lambda: plots.prediction_grid(
            torch.rand(9, 3, 40, 10), torch.arange(9), torch.zeros(9, dtype=torch.long), CLASS_NAMES
        ),
        lambda: plots.comparison({name: HISTORY for name in CLASS_NAMES}, ["loss"]),
    ],
    ids=["curves", "one epoch", "a late epoch", "matrix of 30", "matrix of 1", "bars", "grid", "comparison"],
)
def test_nothing_is_cut_off_and_no_titles_or_labels_overlap(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = figure()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole, renderer = figure.bbox, canvas.get_renderer()
    titles = []
    for panel in figure.axes:
        if panel.axison or panel.get_title():
            box = panel.get_tightbbox(renderer)
            assert (
                box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1 and box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1
            )
            titles.append(panel.title.get_window_extent(renderer))
        for axis in (panel.xaxis, panel.yaxis) if panel.axison else ():
            labels = [label.get_window_extent(renderer) for label in axis.get_ticklabels() if label.get_text()]
            assert not any(a.overlaps(b) for a, b in zip(labels, labels[1:], strict=False))
            factor = axis.get_offset_text()
            assert not factor.get_text() or not factor.get_window_extent(renderer).overlaps(titles[-1])
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i] if a.width and b.width)
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= whole.x1 and box.y0 >= 0 and box.y1 <= whole.y1
        assert not any(box.overlaps(panel.get_tightbbox(renderer)) for panel in figure.axes if panel.axison)


# ---------------------------------------------------------------- figures and files


def test_a_notebook_shows_a_figure_by_itself():
    assert plots.curves(HISTORY)._repr_png_().startswith(b"\x89PNG")


def test_plot_history_is_the_figure_of_the_history():
    trainer = Tiny({"_num_epochs": 3})
    assert drawn(trainer.plot_history()) == {}
    history = trainer.train()
    lines = drawn(trainer.plot_history())["loss"]
    assert [y for _, y in lines["train"]] == [one["train"]["loss"] for one in history]
    assert "best" in lines


def test_a_picture_that_cannot_be_drawn_leaves_no_file():
    with pytest.raises(ValueError, match="tip"):
        plots.save(plots.curves(HISTORY), "curves.tip")
    assert not any(Path().iterdir())
    plots.save(plots.curves(HISTORY), "curves.svg")
    assert "<svg" in Path("curves.svg").read_text()
