"""The handbook and README.md name every hook, every setting with its default, and every public name."""

import ast
import inspect
import re
import runpy
from pathlib import Path

import pytest

import farabio_like
import farabio_like.callbacks
from farabio_like import ConvnetTrainer
from farabio_like.checks import hooks
from farabio_like.trainer import SETTINGS

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "farabio_like").rglob("*.py"))
HANDBOOK = (ROOT / "docs" / "hooks.rst").read_text()
README = (ROOT / "README.md").read_text()

# Not called by the loops, and described elsewhere.
ENTRANCES = {"train", "test", "train_step", "val_step", "predict"}


def public_methods():
    return [n for n, _ in inspect.getmembers(ConvnetTrainer, inspect.isfunction) if not n.startswith("_")]


def cells(table):
    """Return the first cell of every row of the list-tables and Markdown tables in a text."""
    return re.findall(r"^   \* - (.*)|^\| (`.*?) \|", table, flags=re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in public_methods() if name not in ENTRANCES])
def test_handbook_has_a_row_for_every_method(name):
    rows = [first for first, _ in cells(HANDBOOK)]
    assert any(re.search(rf"ConvnetTrainer\.{name}\b", row) for row in rows)


@pytest.mark.parametrize("name", hooks.HOOKS)
def test_readme_has_a_row_for_every_hook_with_its_argument(name):
    row = next(line for line in README.splitlines() if line.startswith("| `") and f"`{name}`" in line.split("|")[1])
    argument = row.split("|")[3].strip().strip("`")
    assert argument == ", ".join(hooks.HOOKS[name])


def test_handbook_names_no_method_that_is_not_there():
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.rst"))
    assert set(re.findall(r"ConvnetTrainer\.(\w+)", pages)) <= set(public_methods())


def test_handbook_has_every_setting_with_its_default():
    pytest.importorskip("sphinx")
    table = "\n".join(runpy.run_path(str(ROOT / "docs" / "conf.py"))["settings_table"]())
    rows = re.findall(r"^   \* - ``(_\w+)``\n     - ``(.*)``\n     -.*\n     - \S", table, flags=re.MULTILINE)
    assert [(name, ast.literal_eval(default)) for name, default in rows] == list(SETTINGS.items())
    assert "\n.. settings-table::\n" in HANDBOOK


@pytest.mark.parametrize("name", [name for name in farabio_like.__all__ if name != "__version__"])
def test_reference_has_every_public_name(name):
    reference = (ROOT / "docs" / "reference.rst").read_text()
    assert re.search(rf"^\.\. auto\w+:: farabio_like\.{name}$", reference, flags=re.MULTILINE)


def test_every_module_has_its_documentation():
    pages = "".join((ROOT / "docs" / f"{page}.rst").read_text() for page in ("reference", "modules"))
    shown = set(re.findall(r"^\.\. automodule:: ([\w.]+)$", pages, flags=re.MULTILINE))
    there = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES}
    shown_by_name = {"farabio_like", "farabio_like.trainer", "farabio_like.errors"}
    assert shown == {name for name in there if not name.endswith("__")} - shown_by_name


def test_the_tree_has_every_file():
    tree = (ROOT / "docs" / "design.rst").read_text().partition("   farabio_like/\n")[2].partition("   tests/")[0]
    shown, folders = set(), []
    for indent, name in re.findall(r"^   ( +)(\w+/|\w+\.py)", tree, flags=re.MULTILINE):
        del folders[len(indent) // 2 - 1 :]
        shown.add("".join([*folders, name]))
        if name.endswith("/"):
            folders.append(name)
    there = {path.relative_to(ROOT / "farabio_like").as_posix() for path in MODULES}
    there = {name.removesuffix("__init__.py") or name for name in there}
    # The callbacks that ship are in a table of their own.
    assert {n for n in shown if "callbacks/" not in n} == {n for n in there if "callbacks/" not in n}


def test_pages_name_no_callback_that_is_not_there():
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.rst"))
    imported = ",".join(re.findall(r"^ *from farabio_like\.callbacks import ([\w, ]+)$", pages, flags=re.MULTILINE))
    named = {*re.findall(r":callback:`(\w+)`", pages), *re.split(r",\s*", imported)}
    assert [name for name in sorted(named) if not hasattr(farabio_like.callbacks, name)] == []


def test_links_of_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^):]+)\)", README):
        assert (ROOT / target).is_file(), target
