"""``farabio-like trace``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoint import access
from ..errors import ConfigError, printable
from ..export import formats
from ..export.exported import TOLERANCE, Exported, export
from ..export.trained import open_run
from ..rundir import layout
from ..trainer import ConvnetTrainer

FOLDER = "trace"  # in the folder of the run

Run = Annotated[Path, typer.Argument(help="The folder of a run.")]
Checkpoint = Annotated[
    str | None,
    typer.Option("-c", "--checkpoint", help="best, last, the name of a file, or stage1.1. Default: the best."),
]
Method = Annotated[str, typer.Option("-m", "--method", help="The method of the model that the file runs.")]
OutDir = Annotated[Path | None, typer.Option(help="The folder of the file. Default: trace in the run.")]
OutModel = Annotated[Path | None, typer.Option(help="The file itself; it wins over --out-dir.")]


def trace(
    run: Run,
    checkpoint: Checkpoint = None,
    method: Method = "forward",
    mode: Annotated[str, typer.Option(help="eval or train.")] = "eval",
    with_grad: Annotated[bool, typer.Option("--with-grad", help="Keep the parameters trainable.")] = False,
    out_dir: OutDir = None,
    out_model: OutModel = None,
    format: Annotated[str, typer.Option(help="jit, export or onnx.")] = "jit",
    tolerance: Annotated[float, typer.Option(help="The largest relative difference that counts as none.")] = TOLERANCE,
) -> int:
    """Export the model of a run, built by the code in its folder, into a file that runs without it.

    The file is compared with the model for batches of several sizes; past the tolerance its name says so, and the
    exit status is 1.
    """
    form = formats.check_format(format)
    trainer, name = opened(run, checkpoint)
    marks = ("-in_train" if mode == "train" else "") + ("-with_grad" if with_grad else "")
    file = f"traced-{name}-{method}{marks}{formats.SUFFIXES[form]}"
    found = export(
        trainer,
        target(run, file, out_dir, out_model),
        format=form,
        method=method,
        mode=mode,
        with_grad=with_grad,
        tolerance=tolerance,
    )
    return told(found)


def opened(run: Path, checkpoint: str | None) -> tuple[ConvnetTrainer, str]:
    """Return the trainer of a run with its weights, and the name of these."""
    run = run.expanduser()
    if not run.is_dir():
        raise ConfigError(f"{run} is no folder of a run.")
    trainer, file = open_run(run, checkpoint)
    return trainer, file.stem if checkpoint is None else Path(checkpoint).name.removesuffix(".ckpt")


def target(run: Path, name: str, out_dir: Path | None, out_model: Path | None) -> Path:
    """Return where a file is written."""
    if out_model is not None:
        return out_model.expanduser()
    if out_dir is not None:
        return out_dir.expanduser() / name
    folder = run.expanduser() / FOLDER
    if access.leads_out(folder, run.expanduser()):
        raise ConfigError(f"{folder} is a link that leads out of the run. Write --out-dir FOLDER.")
    return folder / name


def told(found: Exported) -> int:
    """Print what was compared, and return the exit status."""
    for line in found.differences.lines():
        print(printable(line))
    verdict = "within" if found.is_same else "past"
    print(f"largest relative difference {found.differences.largest:.3g}, {verdict} the tolerance {found.tolerance:g}")
    print(printable(f"written: {layout.shown(found.path.absolute())}"))
    return 0 if found.is_same else 1
