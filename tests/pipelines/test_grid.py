"""Grids: cells, their names, and what is wrong with them."""

from pathlib import Path

import pytest

from farabio_like import ConfigError
from farabio_like.pipelines import grid
from farabio_like.pipelines.record import slug
from farabio_like.pipelines.source import Source, read


def cells(rows):
    return grid.cells(rows, Source(Path("p.yml"), {}), "grid")


def test_rows_are_combined_the_last_fastest():
    found = cells([{"batch_size": [20, 40]}, [{"workers": 2, "lr": 0.01}, {"workers": 3, "lr": 0.1}]])
    assert [grid.name(cell) for cell in found] == [
        "batch_size=20 workers=2 lr=0.01",
        "batch_size=20 workers=3 lr=0.1",
        "batch_size=40 workers=2 lr=0.01",
        "batch_size=40 workers=3 lr=0.1",
    ]


def test_both_ends_of_a_range_belong_to_it():
    assert cells([{"fold": "0-3"}]) == [{"fold": 0}, {"fold": 1}, {"fold": 2}, {"fold": 3}]
    assert cells([{"x": "-2--1"}]) == [{"x": -2}, {"x": -1}]


def test_files_and_folders_are_rows():
    Path("sets").mkdir()
    Path("sets/a.yml").write_text("optimizer: {lr: 0.1}\nname: a")
    Path("sets/b.yml").write_text("name: b")
    Path("p.yml").write_text("grid: []")
    source = read("p.yml")
    expected = [{"optimizer.lr": 0.1, "name": "a"}, {"name": "b"}]
    assert grid.cells([{"_folder": "sets"}], source) == expected
    assert grid.cells([{"_file": ["sets/a.yml", "sets/b.yml"]}], source) == expected


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has none"),
        ("0-3", "has none"),
        ([{"x": []}], "needs a list of values"),
        ([{"x": 3}], "needs a list of values"),
        ([{"x": "a-b"}], "neither a list"),
        ([{"x": "3-1"}], "empty or too long"),
        ([{"x": [1], "y": [2]}], "one key"),
        ([[1, 2]], "holds dicts"),
        ([{"x": [1, 2, 1]}], "the cell x=1 is there twice"),
        ([{"x": [1]}, {"x": [2]}], "the key 'x' is in two rows"),
        ([{"a": [{"b": 1}]}, {"a.b": [2]}], "two rows"),
        ([{"_file": ["none.yml"]}], "no file none.yml"),
        ([{"_folder": "none"}], "has no .yml"),
        ([{"a": list(range(1000))}, {"b": list(range(1000))}], "1000000 cells"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(rows, said):
    with pytest.raises(ConfigError, match=said) as error:
        cells(rows)
    assert str(error.value).startswith("p.yml:1: ")


def test_cells_have_folders_of_their_own():
    names = ["lr=0.1 b=2", "lr=0.1,b=2", "path=a/b", "path=a_b", "t=" + "x" * 500, "t=" + "x" * 501, "x=../.."]
    folders = [slug(name) for name in names]
    assert folders[0] == "lr=0.1,b=2"
    assert len(set(folders)) == len(names)
    assert all("/" not in folder and len(folder) < 200 for folder in folders)
