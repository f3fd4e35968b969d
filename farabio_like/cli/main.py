"""The console script: which commands there are, and how what goes wrong is said.

A command is a file of its name beside this one, with a function of its name, which is imported when it is called.
How a command line becomes a call is in `app`, which needs typer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from ..errors import ConfigError
from ..packages import needs


class Command(NamedTuple):
    """A line of the table.

    Attributes
    ----------
    help : str
        What it does, in one line.
    example : str
        A command line to copy.
    """

    help: str
    example: str


COMMANDS = {
    "run": Command(
        "Train and test what configuration files describe, or repeat a run.",
        "farabio-like run digits.yml settings.num_epochs=3",
    ),
    "test": Command("Test a run again, with the code in its folder.", "farabio-like test runs/Digits/1"),
    "average": Command(
        "Write the mean of the weights of several checkpoints.", "farabio-like average runs/Digits/1 --last 3"
    ),
    "predict": Command(
        "Predict for pictures and arrays, into a table or a folder.",
        "farabio-like predict runs/Digits/1 pictures -o predictions",
    ),
    "trace": Command(
        "Export the model of a run into a file that runs without its code.",
        "farabio-like trace runs/Digits/1 -c best --format onnx",
    ),
    "quantize": Command("Export the model of a run with weights of 8 bits.", "farabio-like quantize runs/Digits/1"),
    "ls": Command("List the runs below a log folder.", "farabio-like ls runs"),
    "compare": Command(
        "Compare runs: best values, settings, curves.",
        "farabio-like compare runs/Digits/1 runs/Digits/2 -o compare.png --metric accuracy",
    ),
    "serve": Command("Answer requests with a trained model.", "farabio-like serve runs/Digits/1 --port 8000"),
    "dag": Command("Run tasks that depend on one another, from a YAML file.", "farabio-like dag run digits.yml"),
    "search": Command(
        "Try values of a configuration, and find the best ones.",
        "farabio-like search config.yml --grid config.lr=0.1,0.01",
    ),
    "report": Command("Write report.html into a run folder again.", "farabio-like report runs/Digits/1"),
    "upscale": Command("Make images larger by a network.", "farabio-like upscale runs/SuperResolutionTrainer/1 in out"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those after the name of the command; default: those of the process.

    Returns
    -------
    int
        The exit status: 0, 1 for a run that failed, 2 for a mistake of the caller, 130 after Ctrl-C.
    """
    try:
        needs("typer", "farabio-like", extra="cli")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    run = import_module(".app", __package__).run
    return run(sys.argv[1:] if arguments is None else list(arguments))
