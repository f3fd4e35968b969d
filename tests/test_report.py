"""A report is one file with everything, made of the run folder alone."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from farabio_like import compare, report
from farabio_like.errors import ConfigError
from farabio_like.rundir import reader

from .conftest import ROOT
from .rundir.test_config_file import DAMAGED
from .trainers import Tiny


class Page(HTMLParser):
    """Reads a page: its texts, pictures, tables, and every address that it has."""

    def __init__(self, path):
        super().__init__()
        self.texts, self.pictures, self.addresses, self.tags = [], [], [], []
        self.rows = []
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[name] for name in ("src", "href", "action") if name in attributes]
        if tag == "img":
            self.pictures.append(attributes["src"])
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())
            if self.rows:
                self.rows[-1].append(data.strip())


def test_a_run_writes_a_report_and_its_test_writes_it_again():
    trainer = Tiny({"_num_epochs": 3, "_logdir": "runs"})
    history = trainer.train()
    path = trainer.run_dir / "report.html"
    page = Page(path)
    rows = {row[0]: row for row in page.rows if row}
    best = min(history, key=lambda one: one["valid"]["loss"])
    assert rows["loss"] == ["loss", "valid", f"{best['valid']['loss']:.4f}", str(best["epoch"]), *rows["loss"][4:]]
    for entry in history:
        shown = rows[str(entry["epoch"])]
        assert shown[1:3] == [f"{entry['train']['loss']:.4f}", f"{entry['valid']['loss']:.4f}"]
    assert rows["_num_epochs"] == ["_num_epochs", "3"] and rows["python"][1].startswith("3.")
    assert "Tiny 1" in page.texts and "3 of 3" in page.texts and "Test" not in page.texts
    result = trainer.test()
    assert f"{result['loss']:.4f}" in Page(path).texts and "Test" in Page(path).texts


def test_pictures_are_inside_and_nothing_is_fetched():
    trainer = Tiny({"_logdir": "runs"})
    trainer.train()
    plots = trainer.run_dir / "plots"
    (plots / "a_first.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (plots / "notes.txt").write_text("no picture")
    page = Page(report.write(trainer.run_dir))
    assert [address.partition(",")[0] for address in page.pictures] == [
        "data:image/png;base64",  # the curves come first
        "data:image/svg+xml;base64",
    ]
    assert base64.b64decode(page.pictures[0].partition(",")[2]) == (plots / "curves.png").read_bytes()
    assert page.addresses == page.pictures, "no other address in the page"
    assert not {"script", "link", "iframe"} & set(page.tags)
    text = (trainer.run_dir / "report.html").read_text()
    assert not re.search(r"url\(|@import|https?:", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text and "width=device-width" in text


def test_what_users_name_is_escaped():
    class Named(Tiny):
        def define_misc_attr(self):
            self._device, self._logdir, self._verbose, self._num_epochs = "cpu", "runs", False, 1

        def compute_loss(self):
            self.batch_metrics["<b>acc</b>"] = 1.0
            return super().compute_loss()

    trainer = Named({"note": "<script>alert(1)</script> & 'so' \"on\""})
    trainer.train()
    (trainer.run_dir / "plots" / "<img onerror=x>.png").write_bytes((trainer.run_dir / "plots/curves.png").read_bytes())
    page = Page(report.write(trainer.run_dir))
    assert not {"script", "b"} & set(page.tags)
    assert "<script>alert(1)</script> & 'so' \"on\"" in page.texts
    assert "<b>acc</b>" in page.texts and page.tags.count("img") == 2


def test_a_huge_configuration_is_folded_and_its_long_values_are_cut():
    config = {f"key{number}": number for number in range(500)} | {"long": "a" * 100_000 + "z"}
    trainer = Tiny(config | {"_logdir": "runs", "_num_epochs": 1})
    trainer.train()
    path = trainer.run_dir / "report.html"
    page = Page(path)
    assert "503 entries" in page.texts and page.tags.count("details") == 2
    assert ["key499", "499"] in page.rows
    assert path.stat().st_size < 1_000_000 and "aaa…aaa" in path.read_text() and "aaaz<" in path.read_text()


def test_a_report_without_pictures_has_no_place_for_them():
    trainer = Tiny({"_logdir": "runs"})
    trainer.train()
    shutil.rmtree(trainer.run_dir / "plots")
    page = Page(report.write(trainer.run_dir))
    assert "img" not in page.tags and "Pictures" not in page.texts and "Epochs" in page.texts


def folder(tmp_path, lines, config="class: Odd\nsettings:\n  _num_epochs: 9\n"):
    run = tmp_path / "runs" / "Odd" / "1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(config)
    (run / "metrics.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return run


def line(epoch, **more):
    return {"epoch": epoch, "train": {"loss": 1.0 / epoch}, "valid": {}, "lr": 0.1, "seconds": 1.0, **more}


def test_odd_runs_have_a_report(tmp_path):
    lines = [
        {"epoch": 0, "valid": {"loss": 9.0}},
        line(1, train={"loss": "NaN", "x" * 90: 1e-300}, lr={"g": [0.1, 0.2]}, best=True),
        line(2, valid={"loss": "Infinity", "per": [0.5, "NaN"]}),
        '{"epoch": 3, "tra',
    ]
    run = folder(tmp_path, lines)
    report.main([str(run)])
    page = Page(run / "report.html")
    assert "2 of 9" in page.texts and "nan" in page.texts and "inf" in page.texts
    assert len(page.pictures) == 2, "curves and bars"


@pytest.mark.parametrize("lines", [[], ["garbage"], [line(1)]])
def test_a_run_without_a_finished_epoch_or_environment_has_a_report(tmp_path, lines):
    run = folder(tmp_path, lines)
    report.main([str(run)])
    assert ("No epoch is recorded." in Page(run / "report.html").texts) == (lines != [line(1)])


def test_long_runs_show_some_of_their_epochs(tmp_path):
    run = folder(tmp_path, [line(epoch, best=epoch == 333) for epoch in range(1, 1001)])
    page = Page(report.write(run))
    epochs = [int(row[0]) for row in page.rows if row and row[0].isdecimal() and len(row) > 3]
    assert len(epochs) <= report.MOST_ROWS + 2 and {1, 333, 1000} <= set(epochs) and epochs == sorted(epochs)
    assert any(f"{1000 - len(epochs)} epochs in between" in text for text in page.texts)


def test_an_epoch_that_was_trained_again_counts_once(tmp_path):
    run = folder(tmp_path, [line(1), line(2, best=True), line(3), line(2, train={"loss": 7.0}), line(3)])
    found = reader.read(run)
    assert [entry["epoch"] for entry in found.history] == [1, 2, 3]
    assert found.history[1]["train"]["loss"] == 7.0 and found.best_epoch is None


def test_reports_and_tables_of_damaged_configurations_are_made(tmp_path, capsys):
    runs = []
    for number, name in enumerate(["tab", "bomb", "deep list", "no text"]):
        run = folder(tmp_path / str(number), [line(1)], "")
        text = DAMAGED[name][0]
        (run / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        runs.append(str(run))
    with pytest.warns(UserWarning, match="config.yaml: line 4: .* What follows there is left out."):
        for run in runs:
            report.main([run])
        compare.main([*runs, "-o", str(tmp_path / "curves.png")])
    assert all(Path(run, "report.html").stat().st_size > 10_000 for run in runs)
    assert re.search(r"0/runs/Odd/1 +0.1 +2 ", capsys.readouterr().out) and (tmp_path / "curves.png").is_file()


def test_the_best_value_follows_the_direction_of_the_metric(tmp_path):
    lines = [line(e, valid={"accuracy": a, "loss": a, "odd": a}) for e, a in ((1, 0.5), (2, "NaN"), (3, 0.75))]
    found = reader.read(folder(tmp_path, lines, "settings:\n  _monitor: odd\n  _monitor_mode: max\n"))
    assert found.best("accuracy") == ("valid", 0.75, 3) and found.best("loss") == ("valid", 0.5, 1)
    assert found.best("odd") == ("valid", 0.75, 3) and found.best("other") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [(None, "is no folder"), ("empty", "neither config.yaml nor metrics.jsonl"), ("parent", "There are runs in it: ")],
)
def test_what_is_no_run_folder_is_named(tmp_path, capsys, make, message):
    if make == "parent":
        path = folder(tmp_path, []).parent
    else:
        path = tmp_path / "somewhere"
        if make:
            path.mkdir()
    with pytest.raises(ConfigError, match=message) as caught:
        reader.read(path)
    assert str(path) in str(caught.value)
    with pytest.raises(SystemExit) as ended:
        report.main([str(path)])
    assert ended.value.code == 2 and message in capsys.readouterr().err


KILLED = """
import time
from tests.trainers import Still
class Slow(Still):
    def on_epoch_end(self):
        print(self.epoch, flush=True)
    def on_train_epoch_start(self):
        if self.epoch == 3:
            time.sleep(60)
Slow({"_num_epochs": 9, "_logdir": "runs"}).train()
"""


def test_a_run_that_was_killed_has_a_report(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "1\n" and process.stdout.readline() == "2\n"
        end = time.monotonic() + 30
        while len(Path("runs/Slow/1/metrics.jsonl").read_text().splitlines()) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    done = subprocess.run(
        [sys.executable, "-m", "farabio_like.report", "runs/Slow/1"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "runs/Slow/1/report.html\n", done.stderr
    page = Page("runs/Slow/1/report.html")
    assert "2 of 9" in page.texts and len(page.pictures) == 1
