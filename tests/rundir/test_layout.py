"""Where the runs of a class lie."""

from pathlib import Path

from farabio_like.rundir import layout


class Owner:
    pass


def test_folders_of_a_class_are_its_runs_by_number(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert layout.folders_of("~/runs", Owner) == []
    for name in ("Owner/10", "Owner/9", "Owner/1", "Owner/notes", "Owner/³", "Other/2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs/Owner/11").write_text("a file")
    found = [tmp_path / "runs" / "Owner" / number for number in ("1", "9", "10")]
    assert layout.folders_of("~/runs", Owner) == found == layout.folders_of(Path(tmp_path, "runs"), Owner)
