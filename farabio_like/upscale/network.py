"""The network in the folder of a run, or in a file of weights. What it is used for is in `folders`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .. import checkpoint
from ..errors import CheckpointError
from ..models.superresolution.weights import network_of
from ..rundir import layout

GENERATOR = "generator"
IN_A_RUN = (Path(layout.CHECKPOINTS, layout.BEST), Path(layout.WEIGHTS), Path(layout.CHECKPOINTS, layout.LAST))


def load_network(run_or_weights: str | Path) -> tuple[nn.Module, Path]:
    """Return the network that makes images larger, and the file of its weights.

    Averages of the weights, which the evaluation of a run has taken, are taken here too. No code is run.

    Parameters
    ----------
    run_or_weights : path
        The folder of a run, of which the best weights are taken, those saved, or the last ones; a checkpoint; or a file
        of weights: the ``state_dict`` of a network of `models.superresolution`, or a dict of several.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no weights in the folder.
    CheckpointError
        For a file that is damaged, and for weights of another network.
    """
    path = _file_of(Path(run_or_weights).expanduser())
    for state in _states(checkpoint.read(path)):
        network = network_of(state, str(path))
        if network is not None:
            return network, path
    raise CheckpointError(
        f"{path} holds no weights of a network of farabio_like.models.superresolution. For another network, write "
        "farabio_like.upscale.upscale_folder(network, IN, OUT) in a script."
    )


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    there = next((path / name for name in IN_A_RUN if (path / name).is_file()), None)
    if there is None:
        expected = ", ".join(map(str, IN_A_RUN))
        runs = sorted(str(inner) for inner in path.iterdir() if any((inner / name).is_file() for name in IN_A_RUN))
        hint = f" There are runs in it: {', '.join(runs[:5])}." if runs else ""
        raise FileNotFoundError(f"{path} has no weights of a run; expected one of {expected}.{hint}")
    return there


def _states(found: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the weights of every network in a file, averages first, and of several networks the generator's first."""
    averages = found.get("averages") if "format" in found else None
    sources = [*(averages.values() if isinstance(averages, Mapping) else ()), checkpoint.weights_of(dict(found))]
    for source in sources:
        if not isinstance(source, Mapping):
            continue
        parts = {name: part for name, part in source.items() if isinstance(part, Mapping)}
        yield from (parts[name] for name in sorted(parts, key=lambda name: name != GENERATOR))
        yield source
