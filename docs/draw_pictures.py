"""Draw the pictures of the page `pictures.rst` anew, by real runs: python docs/draw_pictures.py

They are kept in docs/_static/pictures, so that building the pages trains nothing. The picture of the report needs
Chromium and is left as it is where there is none.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import digits  # noqa: E402

from farabio_like import compare, plots  # noqa: E402
from farabio_like.callbacks.lr_finder import find_lr  # noqa: E402

TARGET = ROOT / "docs" / "_static" / "pictures"


class Digits(digits.Digits):
    def define_log_attr(self):
        self._verbose, self._use_tqdm = False, False

    def define_misc_attr(self):
        self._num_epochs = 8

    def build_model(self):
        super().build_model()
        self.set_lr(self.config.get("lr", 2e-3))


def segmented():
    """Return images of digits, with the pixels that have ink and, where there is much of it, the darkest as classes."""
    images = torch.stack([Digits({"_logdir": None}).test_set[number][0] for number in range(10)])
    return images, (images > 0.3).long() + (images > 0.85).long()


def photograph(page, target):
    """Write the upper part of a page as a picture, by a browser without a window."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=900,1250"]
    subprocess.run(
        [browser, *options, f"--screenshot={target}", page.resolve().as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )


def main():
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        runs = []
        for lr in (2e-3, 5e-4, 2e-2):
            torch.manual_seed(0)
            trainer = Digits({"lr": lr})
            trainer.train()
            trainer.test()
            runs.append(trainer.run_dir)
        for name in ("curves", "confusion_matrix", "per_class", "predictions"):
            shutil.copy(runs[0] / "plots" / f"{name}.png", TARGET)
        photograph(runs[0] / "report.html", TARGET / "report.png")
        compare.draw(runs, TARGET / "compare.png", "loss")
        torch.manual_seed(0)
        plots.save(find_lr(Digits()).figure(), TARGET / "lr_finder.png")
        images, masks = segmented()
        plots.save(plots.image_grid(images, columns=5, masks=masks), TARGET / "masks.png")
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
