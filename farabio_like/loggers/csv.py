"""`CSVLogger`: the numbers of a run as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from ..callbacks.base import Logger
from ..checkpoint.files import write_text
from ..plots.figure import printable


class CSVLogger(Logger):
    """Writes ``metrics.csv`` into the run folder: a row for each record, a column for each name as it appears.

    A name that appears later gets a column at the end, and earlier rows an empty cell there; the file is written anew
    for it. A file that is there already is gone on with. Pictures and texts are not for a table.

    Parameters
    ----------
    path : path, optional
        Another place.
    """

    close_seconds = 60.0  # a busy machine may take long to import and to write; nothing here hangs for good

    def __init__(self, path: str | Path | None = None) -> None:
        self.given = None if path is None else Path(path).absolute()  # a hook may change the working folder
        self.columns: list[str] = []
        self.size = 0  # bytes of the file that are whole rows

    def __repr__(self) -> str:
        return f"CSVLogger({'' if self.given is None else repr(str(self.given))})"

    def rewind(self, run_dir: Path, epoch: int, step: int) -> None:
        """Take out the rows of later epochs, and those of the running loss and of evaluations after the step.

        Rows that hooks have recorded stay: their steps may be of their own.
        """
        path = self._path(run_dir)
        try:
            text = path.read_bytes()
            names, *rows = _rows(text[: text.rfind(b"\n") + 1])
            kept = [row for row in rows if not _is_later(dict(zip(names, row, strict=False)), epoch, step)]
        except (FileNotFoundError, ValueError, KeyError):  # there is none, or it is no table of a CSVLogger
            return
        if len(kept) < len(rows):
            write_text(path, _bytes([names, *kept]).decode("utf-8"))

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Read the columns of a file that is there already, and leave out a row that was cut off."""
        self.path = self._path(run_dir)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_bytes() if self.path.exists() else b""
        self.size = text.rfind(b"\n") + 1
        rows = _rows(text[: self.size])
        self.columns = rows[0] if rows else []
        if not self.columns:
            self._write_anew(["step", "epoch"])

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add a row."""
        row = {"step": step, **{printable(name): value for name, value in values.items()}}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        if new := [name for name in row if name not in self.columns]:
            self._write_anew([*self.columns, *new])
        line = _bytes([[row.get(name, "") for name in self.columns]])
        with open(self.path, "r+b") as file:
            file.truncate(self.size)  # what an earlier try left
            file.seek(self.size)
            file.write(line)
        self.size += len(line)

    def _path(self, run_dir: Path | None) -> Path:
        if self.given is not None:
            return self.given
        if run_dir is None:
            raise ValueError("there is no run folder: write CSVLogger('metrics.csv')")
        return run_dir / "metrics.csv"

    def _write_anew(self, columns: list[str]) -> None:
        rows: list[list[str]] = []
        if self.columns:
            with open(self.path, "rb") as old:
                rows = _rows(old.read(self.size))[1:]
        text = _bytes([columns, *([*row, *[""] * (len(columns) - len(row))] for row in rows)])
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self.columns, self.size = columns, len(text)


def _is_later(row: dict[str, str], epoch: int, step: int) -> bool:
    within = not row.get("epoch") and any(value and name.startswith("valid/") for name, value in row.items())
    if row.get("running/loss") or within:
        return int(row["step"]) > step
    return bool(row.get("epoch")) and int(row["epoch"]) > epoch


def _rows(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode("utf-8"), newline="")))


def _bytes(rows: list[list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8")
