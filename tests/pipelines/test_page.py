"""The page of a run, and the graph of a pipeline."""

import json
import re
from pathlib import Path

from farabio_like.pipelines import page
from farabio_like.pipelines.record import Record

from .driving import background, dag, kill, nothing_runs, until, write

TEXT = """
info: {name: p}
executors:
  split: {type: bash, command: "true"}
  train: {type: train, script: fake.py, depends: split, grid: [{lr: [0.5, 0.1]}, {name: ["<b>", "c"]}]}
  last: {type: bash, command: "touch ready; sleep 1000", depends: split}
"""
FAKE = """
import json, os
from pathlib import Path
run = Path(os.environ["FARABIO_LOGDIR"]) / "Digits" / "1"
run.mkdir(parents=True)
run.joinpath("config.yaml").write_text("settings: {}")
lines = [{"epoch": e, "train": {"loss": float(os.environ["FARABIO_LR"]) / e}, "valid": {}} for e in (1, 2, 3)]
run.joinpath("metrics.jsonl").write_text("".join(json.dumps(line) + "\\\\n" for line in lines))
"""


def test_the_page_has_every_job_and_curve_and_keeps_up_with_the_run():
    Path("fake.py").write_text(FAKE.replace("\\\\n", "\\n"))
    driver = background("run", write(TEXT))
    until(Path("ready").exists)
    path = Path(dag("page", "p").strip())
    text = path.read_text()
    assert "location.reload()" in text
    assert "<b>" not in text and "&lt;b&gt;" in text
    rows = re.findall("<tr>(<td.*?)</tr>", text)
    assert len(rows) == 6
    assert text.count('class="curves"') == 1
    assert not re.search(r"(src|href)=", text)  # one file, and nothing from elsewhere
    dag("stop", "p")
    driver.communicate(timeout=60)
    assert "location.reload()" not in path.read_text()
    assert '<span class="state Stopped">' in path.read_text()


def test_a_number_that_is_not_finite_is_no_point():
    Path("run").mkdir()
    lines = [{"epoch": n, "train": {"loss": value}} for n, value in ((1, 1.0), (2, float("nan")), (3, 0.5))]
    Path("run/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = page.drawing.curves("loss", {"a": [(1, 1.0), (2, float("nan")), (3, 0.5)]}, {"a": "red"})
    assert "nan" not in drawn and drawn.count("L") >= 1
    assert page.drawing.curves("loss", {"a": [(1, float("inf"))]}, {"a": "red"}) == ""


def test_the_graph_of_a_pipeline_that_has_not_run():
    Path("fake.py").write_text("")
    output = dag("graph", write(TEXT), "-o", "graph.svg")
    assert re.search(r"train +train +4 jobs +split", output)
    assert Path("graph.svg").read_text().count('class="box"') == 3
    assert not Path("dags").exists()
    assert ".svg is drawn" in dag("graph", "p.yml", "-o", "graph.png", code=2)


def test_a_page_of_a_killed_driver_says_what_is_alive():
    driver = background(
        "run", write("info: {name: p}\nexecutors:\n  a: {type: bash, command: touch ready; sleep 1000}")
    )
    until(Path("ready").exists)
    kill(driver)
    nothing_runs()
    record = Record.find(Path("dags"), "p")
    assert "location.reload()" not in page.write(record).read_text()
    assert '<span class="state Stopped">' in (record.path / "page.html").read_text()
