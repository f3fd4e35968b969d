"""What runs in the process of a task of type python, submit, or of one of the user's own.

It is run by its path and imports nothing of this package, so that a task does not wait for it. What a task is given
stands in a file; what it returns is written beside it, durably, before the process ends.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LONGEST_ANSWER = 20_000  # characters that are kept


def main() -> None:
    """Run what the command line names."""
    if sys.argv[1] == "trace":
        trace(Path(sys.argv[2]))
        return
    path = Path(sys.argv[1])
    call = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()  # there may be secrets in it
    sys.path[0] = os.getcwd()  # the folder of the pipeline, instead of that of this file
    write(Path(call["result"]), CALLS[call["call"]](call))


def call_function(call: dict[str, Any]) -> Any:
    """Call ``function(results=..., **values)``; `results` only where the function has that parameter."""
    function = load(call["function"])
    code = getattr(function, "__code__", None)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code is not None else ()
    if "results" in names:
        return function(results=call["results"], **call["arguments"])
    return function(**call["arguments"])


def call_own(call: dict[str, Any]) -> Any:
    """Call ``function(task)``."""
    task = SimpleNamespace(**{**call["task"], "folder": Path(call["task"]["folder"]), "results": call["results"]})
    return load(call["function"])(task)


def submit(call: dict[str, Any]) -> Any:
    """Write the predictions in the asked format, run the user's command, and return what it has answered."""
    file = Path(call["file"])
    rows = list(read_rows(Path(call["predictions"])))
    if not rows:
        sys.exit(f"{call['predictions']} has no predictions")
    write_rows(file, rows)
    print(f"{len(rows)} predictions in {file}", flush=True)
    done = subprocess.run(["bash", "-c", call["command"]], stdout=subprocess.PIPE, text=True, errors="replace")
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(done.returncode)
    return {"file": str(file), "answer": done.stdout[-LONGEST_ANSWER:].strip()}


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of predictions, or of those in a folder."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix == ".csv":
            with open(file, newline="", encoding="utf-8") as stream:
                yield from csv.DictReader(stream)
        elif file.suffix == ".jsonl":
            yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())
        elif file.suffix == ".json":
            found = json.loads(file.read_text(encoding="utf-8"))
            yield from found if isinstance(found, list) else [found]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, JSON, or a line of JSON each."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
        elif file.suffix == ".json":
            json.dump(rows, stream)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)


def trace(logdir: Path) -> None:
    """Become the process that exports the best weights of the newest run below a folder."""
    runs = sorted(logdir.glob("*/*/checkpoints"), key=os.path.getmtime)
    if not runs:
        sys.exit(f"there is no run in {logdir}: its _logdir has to be os.environ['FARABIO_LOGDIR']")
    os.execv(sys.executable, [sys.executable, "-m", "farabio_like", "trace", str(runs[-1].parent)])


def load(text: str) -> Callable[..., Any]:
    """Return the function ``module:function``."""
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)


def write(path: Path, value: Any) -> None:
    """Write what a task returns, whole or not at all."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        sys.exit(f"what the task returned cannot be written as JSON: {error}; it is a {type(value).__name__}")
    temporary = path.with_name(f".{path.name}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


CALLS = {"python": call_function, "own": call_own, "submit": submit}

if __name__ == "__main__":
    main()
