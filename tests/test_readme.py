"""The code in README.md and in the documentation runs as pasted, and prints what is shown beneath it."""

import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# In README.md a block that is a whole script follows the line <!-- complete -->. In the pages it has the
# class `complete`; those with the class `continues` go on from it. What a script prints has the class
# `prints`, or `prints-among-others` where other lines come before.
MARKDOWN = re.compile(r"<!-- complete -->\n```python\n(?P<code>.*?)```(?:.*?```text\n(?P<prints>.*?)```)?", re.DOTALL)
BLOCK = re.compile(r"^\.\. code-block:: \w+\n   :class: (?P<kind>[\w-]+)\n\n(?P<body>(?:(?:   .*)?\n)+)", re.MULTILINE)


def blocks_of(page):
    """Yield the kind and the text of every block with a class, in the order of the page."""
    for found in BLOCK.finditer(page.read_text() + "\n"):
        yield found["kind"], textwrap.dedent(found["body"])


def scripts():
    """Yield the code of every whole script, with the kinds and texts of what it prints."""
    for number, found in enumerate(MARKDOWN.finditer((ROOT / "README.md").read_text()), 1):
        yield pytest.param(found["code"], [("prints", found["prints"] or "")], id=f"README.md-{number}")
    for page in sorted((ROOT / "docs").glob("*.rst")):
        found = []
        for kind, text in blocks_of(page):
            if kind == "complete":
                found.append((text, []))
            elif kind == "continues":
                found[-1] = (found[-1][0] + "\n\n" + text, found[-1][1])
            elif kind.startswith("prints"):
                found[-1][1].append((kind, text))
        for number, (code, prints) in enumerate(found, 1):
            yield pytest.param(code, prints, id=f"{page.name}-{number}")


def without_numbers(text):
    """Return the lines that are not empty, with # for what is measured; others keep their spaces."""
    lines = []
    for line in text.splitlines():
        plain = re.sub(r"\b\d+m\d\ds|-?\b\d+\.\d+(e[-+]\d+)?s?|\binf\b|\bnan\b", "#", line)
        plain = re.sub(r"(in epoch |, epoch )\d+$|(?<=in epoch )\d+(?=,)", "#", plain)
        lines.append(line.rstrip() if plain == line else " ".join(plain.removesuffix(" *").split()))
    return [line for line in lines if line]


@pytest.mark.parametrize(("code", "prints"), list(scripts()))
def test_script_runs_and_prints_what_is_shown(code, prints, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(code)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    printed = without_numbers(done.stdout)
    for kind, text in prints:
        shown = without_numbers(text)
        while kind == "prints-among-others" and printed and printed[: len(shown)] != shown:
            printed.pop(0)
        assert printed[: len(shown)] == shown
        printed = printed[len(shown) :]
    assert not printed


def test_readme_shows_the_twenty_lines_first():
    code = MARKDOWN.search((ROOT / "README.md").read_text())["code"]
    assert len([line for line in code.splitlines() if line]) == 20
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def mistakes():
    """Yield code and message for every mistake in docs/errors.rst."""
    blocks = list(blocks_of(ROOT / "docs" / "errors.rst"))
    mistake = [text for kind, text in blocks if kind == "mistake"]
    message = [text for kind, text in blocks if kind == "message"]
    for code, text in zip(mistake, message, strict=True):
        yield pytest.param(code, text, id=text.split()[0].strip(":") + "-" + str(len(code)))


@pytest.fixture(scope="module")
def digits():
    """Return the namespace of the first trainer in docs/getting_started.rst."""
    code = next(text for kind, text in blocks_of(ROOT / "docs" / "getting_started.rst") if kind == "complete")
    names = {"__name__": "first"}
    exec(code.split("torch.manual_seed")[0], names)
    return names


@pytest.mark.parametrize(("code", "message"), list(mistakes()))
def test_mistake_gets_the_message_shown(code, message, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            exec(code, dict(digits))
    got, shown = (
        re.sub(r"\d+ bytes", "# bytes", " ".join(text.split()))
        for text in (f"{caught.type.__name__}: {caught.value}", message)
    )
    assert got == shown
