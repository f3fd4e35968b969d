"""``farabio-like predict``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import printable
from ..export.results import predict_files, sources
from ..export.trained import TrainedModel
from ..rundir import layout

PREDICTIONS = "predictions"  # the folder of the results, where no other is given
MOST_PROBLEMS = 20  # that are printed


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a file of farabio-like trace.")],
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, .npy and .pt files, and folders of them.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A folder; of classes also a .csv file. Default: predictions in the run."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("-c", "--checkpoint", help="best, last, the name of a file, or stage1.1.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Inputs per call; with 1 an answer depends on no other input.")
    ] = 1,
) -> int:
    """Predict for pictures and arrays: a table of classes, or masks, pictures and arrays in the folders as found.

    A file that cannot be read is named and passed over, and the exit status is 1.
    """
    run = run.expanduser()
    out = output if output is not None else (run if run.is_dir() else Path()) / PREDICTIONS
    files = sources(inputs, out.resolve())
    model = TrainedModel.load(run, checkpoint)
    with _bar(len(files)) as advance:
        found = predict_files(model, files, out, batch_size, advance)
    for problem in found.problems[:MOST_PROBLEMS]:
        print(printable(f"passed over: {problem}"), file=sys.stderr)
    if len(found.problems) > MOST_PROBLEMS:
        print(f"and {len(found.problems) - MOST_PROBLEMS} more", file=sys.stderr)
    print(printable(f"{found.count} predictions by {model.source}, in {layout.shown(found.place.absolute())}"))
    return 1 if found.problems else 0


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], Any]]:
    """Give what counts files: by a bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # without the thread by which tqdm watches its bars

    with Bar(total=total, unit="file", leave=False, dynamic_ncols=True) as bar:
        yield bar.update
