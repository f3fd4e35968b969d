"""``farabio-like quantize``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..export import formats, quantized
from .trace import Checkpoint, Method, OutDir, OutModel, Run, opened, target, told


def quantize(
    run: Run,
    checkpoint: Checkpoint = None,
    method: Method = "forward",
    out_dir: OutDir = None,
    out_model: OutModel = None,
    format: Annotated[str, typer.Option(help="jit: linear and recurrent layers; onnx: convolutions too.")] = "jit",
    tolerance: Annotated[
        float, typer.Option(help="The largest relative difference that keeps the file's name.")
    ] = quantized.TOLERANCE,
) -> int:
    """Export the model of a run with weights of 8 bits, for the CPU; print its size and how much it differs."""
    form = formats.check_format(format)
    trainer, name = opened(run, checkpoint)
    file = target(run, f"quantized-{name}-{method}{formats.SUFFIXES[form]}", out_dir, out_model)
    found = quantized.quantize(trainer, file, format=form, method=method, tolerance=tolerance)
    part = found.size / found.size_before
    print(f"{found.size_before:,} bytes became {found.size:,} ({part:.0%})")
    return told(found)
