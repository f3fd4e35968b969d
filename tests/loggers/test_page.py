"""The page of a visdom server in a real browser: curves, images and the confusion matrix are drawn.

The browser is the machine's. What drives it and the page's files come from npm, once, into a cache in the checkout.
"""

import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from .server import ROOT, Server

pytest.importorskip("visdom")
pytest.importorskip("sklearn")  # the example's; here, because it sets an environment variable

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name, path in (("chromium", CHROMIUM), ("npm", shutil.which("npm"))) if path is None]
PLAYWRIGHT = "playwright-core@1.50.1"
CACHE = ROOT / ".cache"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(MISSING), reason=f"the page needs a browser: apt-get install {' '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def files():
    """Return the folders of the page's files and of playwright-core."""
    from farabio_like.loggers import visdom_server

    page = visdom_server.cache()
    if not visdom_server.is_complete(page):
        page = CACHE / page.name
    if not visdom_server.is_complete(page):
        visdom_server.fetch(page)
    folder = CACHE / PLAYWRIGHT
    playwright = folder / "node_modules" / "playwright-core"
    if not playwright.is_dir():
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), PLAYWRIGHT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return page, playwright


def test_example_is_drawn(files, tmp_path, monkeypatch):
    page, playwright = files
    server = Server(tmp_path, page=page).start()
    monkeypatch.setenv("VISDOM_PORT", str(server.port))
    monkeypatch.syspath_prepend(ROOT / "examples")
    try:
        runpy.run_path(str(ROOT / "examples" / "live.py"), run_name="__main__")
        script = Path(__file__).with_name("page.js")
        picture = os.environ.get("FARABIO_SCREENSHOT", str(tmp_path / "page.png"))
        url = f"http://127.0.0.1:{server.port}/env/LiveDigits_1"
        command = ["node", str(script), str(playwright), CHROMIUM, url, picture]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert shown.returncode == 0, shown.stderr
        held = server.windows("LiveDigits_1")
    finally:
        server.kill()
    found = json.loads(shown.stdout)
    assert found["failed"] == []
    recorded = [json.loads(line) for line in (tmp_path / "runs/LiveDigits/1/metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in recorded if "epoch" in line]
    for metric in ("loss", "accuracy"):
        plot = found["plots"][metric]
        for part in ("train", "valid"):
            assert plot["curves"][part]["y"] == [entry[part][metric] for entry in epochs]
        assert len(plot["boxes"]) == 2 and min(plot["boxes"]) > 100  # pixels
        assert plot["legend"] == ["train", "valid"]
        assert plot["axes"] == ["epoch", metric]
    rates = found["plots"]["lr"]
    assert rates["boxes"][0] > 100
    running = found["plots"]["running/loss"]
    assert running["curves"]["running/loss"]["y"] == [line["loss"] for line in recorded if "step" in line]
    matrix = found["plots"]["valid confusion matrix"]
    tops = dict(matrix["rows"])
    assert tops["0"] < tops["9"]  # row 0 is on top
    assert held["valid confusion matrix"]["content"]["data"][0]["z"][0][0] > 10
    assert len(found["images"]) == 2
    assert all(width > 60 and height > 60 and drawn > 60 for width, height, drawn in found["images"])
