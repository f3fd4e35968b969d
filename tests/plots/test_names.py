"""A name of a metric, a class or a run is text: no mathematics, no markup, no path, whatever signs it has."""

import csv
import json
import re
import warnings

import pytest
import torch
from torch import nn

from farabio_like import plots, report
from farabio_like.callbacks import Checkpoint, ConfusionMatrix, FunctionMetric
from farabio_like.loggers.visdom import VisdomLogger
from farabio_like.rundir import layout
from tests.trainers import Tiny

ODD = (
    *(
        "cost_$/kg_$",
        "$x^2$",
        r"\$a$",
        r"\frac{",
        "a_{b",
        "<b>bold</b>",
        "<script>alert(1)</script>",
        "&amp;",
        "{{ name }}",
    ),
    *("../../up", "/etc/passwd", ".", "a/b", "_hidden", "new\nline", "\x1b[31mred", "\x00", "\u200b", "\ud800"),
    *("100 %", "%s", "{}", "a,b;c\"d'", "=1+1", "Größe µm", "精度", "a" * 300, "", " "),
)


class Odd(Tiny):
    """Records a number and a list for every odd name."""

    def compute_loss(self):
        loss = super().compute_loss()
        self.batch_metrics.update({name: float(place) for place, name in enumerate(ODD)})
        return loss

    def on_evaluate_epoch_end(self):
        self.loader_metrics.update({f"{name} per class": [0.5, 1.0] for name in ODD[:4]})


def texts(figure):
    """Return what is drawn: the texts as matplotlib shows them, and whether any is mathematics."""
    figure.canvas.draw()
    drawn = figure.findobj(lambda part: hasattr(part, "_preprocess_math") and part.get_text())
    found = [part._preprocess_math(part.get_text()) for part in drawn]
    return [text.strip() for text, _ in found], [text for text, is_mathematics in found if is_mathematics]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", ODD[:9])
def test_every_picture_shows_a_name_as_it_is(name):
    history = [
        {"epoch": e, "train": {name: e / 3}, "valid": {}, "lr": {name: e, "b": 1.0}, "seconds": 1} for e in (1, 2, 3)
    ]
    images, classes = torch.rand(2, 4, 4), torch.tensor([0, 1])
    shown = plots.shorten(name, 20)
    for figure in (
        plots.curves(history),
        plots.comparison({name: history, "other": history}, [name]),
        plots.class_bars({name: [0.1, 0.2]}, [name, "other"]),
        plots.confusion_matrix(torch.eye(2), [name, "other"]),
    ):
        found, mathematics = texts(figure)
        assert not mathematics and any(shown in (text, plots.shorten(text, 20)) for text in found), found
    found, mathematics = texts(plots.prediction_grid(images, classes, classes, [name, "other"]))
    assert not mathematics


def test_a_legend_leaves_no_name_out():
    history = [{"epoch": e, "train": {}, "valid": {}, "lr": {"_g": e, "_d": 1.0}, "seconds": 1} for e in (1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {"_g", "_d"} <= set(texts(plots.curves(history))[0])
        found = [{**entry, "train": {"loss": 1.0}} for entry in history]
        assert {"_a", "_b"} <= set(texts(plots.comparison({"_a": found, "_b": found}, ["loss"]))[0])


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_run_with_odd_names_has_all_of_its_files(capsys):
    trainer = Odd({"_logdir": "runs", "_verbose": True, "_use_tqdm": False, "_loggers": "csv", "_monitor": ODD[0]})
    trainer._monitor_mode = "max"
    trainer.callbacks = [
        *(Checkpoint(name, 1, "max") for name in ("a/b", "../../up", "cost_$/kg_$", "cost_#/kg_#", "a" * 300)),
        FunctionMetric("a/b", lambda outputs, targets: outputs.mean(), prefix="../"),
        FunctionMetric("cost_#/kg_#", lambda outputs, targets: outputs.mean()),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the pictures|the report|CSVLogger")
        trainer.train()
    for name in ("curves.png", "per_class.png"):
        assert (trainer.run_dir / "plots" / name).is_file()
    page = (trainer.run_dir / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>" not in page
    lines = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [set(line["train"]) - {"../a/b", "cost_#/kg_#"} for line in lines] == [{"loss", *ODD}] * 2
    files = [path.name for callback in trainer.callbacks[:5] for path in callback.files]
    assert len(set(files)) == 5 and all((trainer.run_dir / "checkpoints" / name).is_file() for name in files)
    assert {path.name for path in trainer.run_dir.parent.parent.iterdir()} == {"Odd"}
    with open(trainer.run_dir / "metrics.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert (
        len({len(row) for row in rows}) == 1
        and "train/cost_$/kg_$" in rows[0]
        and "train/new\\U0000000Aline" in rows[0]
    )
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    report.main([str(trainer.run_dir)])


def test_a_prefix_is_no_path():
    class Classes(Tiny):
        def get_trainloader(self):
            self.train_loader = self.valid_loader = [(torch.rand(6, 3), torch.arange(6) % 2)]

        def build_model(self):
            self.model = nn.Linear(3, 2)
            self.criterion = nn.CrossEntropyLoss()
            self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)

    trainer = Classes({"_logdir": "runs"})
    trainer.callbacks = [ConfusionMatrix(prefix="../up_", class_names=["$a$", "<b>"])]
    trainer.train()
    found = [path.name for path in (trainer.run_dir / "plots").iterdir() if "confusion" in path.name]
    assert len(found) == 1 and not list(trainer.run_dir.glob("*confusion*"))


@pytest.mark.parametrize("name", ODD)
def test_a_part_of_a_file_name(name):
    part = layout.in_file_name(name)
    assert re.fullmatch(r"[\w.-]*", part) and not part.startswith("..") and len(part.encode()) < 200
    assert sum(layout.in_file_name(other) == part for other in ODD) == 1


@pytest.mark.parametrize("name", ODD)
def test_what_is_sent_to_a_page_is_no_markup(name):
    logger = VisdomLogger()
    logger.scalars({f"valid/{name}" if name else "valid/x": 1.0, "epoch": 1.0}, 1)
    logger.matrix("matrix", torch.eye(2), [name, "other"], 1)
    for window in (*logger.curves, *logger.others):
        content = json.dumps(logger._content(window)["layout"]) + json.dumps(logger._content(window)["data"])
        assert "<" not in content and "$" not in content


def test_mlflow_takes_every_name():
    mlflow = pytest.importorskip("farabio_like.loggers.mlflow")
    validate = pytest.importorskip("mlflow.utils.validation")._validate_metric_name
    names = [mlflow._name(f"valid/{name}") for name in ODD]
    for name in names:
        validate(name)
    assert len(set(names)) == len(ODD) and mlflow._name("valid/loss") == "valid/loss"
