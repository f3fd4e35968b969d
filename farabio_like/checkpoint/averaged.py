"""The mean of the weights in several files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .files import read, weights_of


def average_of(paths: Sequence[Path], most: int | None = None) -> tuple[dict[str, Any], list[Path]]:
    """Return the mean of the weights in checkpoints.

    P. Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018,
    https://arxiv.org/abs/1803.05407.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        The newest first.
    most : int, optional
        The first so many of different steps; default: all.

    Returns
    -------
    state : dict
        Of floating point tensors their mean, summed in float64; all else as in the first file.
    used : list of pathlib.Path
        One for each step.

    Raises
    ------
    ConfigError
        For fewer than two, or fewer than `most`.
    CheckpointError
        If one cannot be read, has its weights in shards, or is of another model.
    """
    first: dict[str, Any] = {}
    sums: dict[str, Tensor] = {}
    used: list[Path] = []
    steps: set[Any] = set()
    for path in paths:
        if most is not None and len(used) == most:
            break
        found = read(path)
        if found.get("shards") is not None:
            raise CheckpointError(f"{path} has its weights in shards, which are not averaged.")
        step = found.get("step", path)
        if step in steps:
            continue
        steps.add(step)
        weights = dict(_flat(weights_of(found)))
        if not used:
            first = weights_of(found)
            sums = {name: each.double() for name, each in weights.items() if _is_averaged(each)}
        else:
            _add(sums, weights, path, used[0])
        used.append(path)
    wanted = 2 if most is None else most
    if len(used) < wanted:
        names = ", ".join(path.name for path in used) or "none"
        raise ConfigError(
            f"an average needs {wanted} checkpoints of different steps; there are: {names}. Keep more by the callback "
            "Checkpoint(every_epochs=1)."
        )
    return _averaged(first, "", {name: each / len(used) for name, each in sums.items()}), used


def _flat(state: Mapping[str, Any], prefix: str = "") -> Any:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _is_averaged(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _add(sums: dict[str, Tensor], weights: Mapping[str, Any], path: Path, first: Path) -> None:
    theirs = {name: each for name, each in weights.items() if _is_averaged(each)}
    other = sorted(sums.keys() ^ theirs.keys())
    other += [name for name in sums if name in theirs and sums[name].shape != theirs[name].shape]
    if other:
        raise CheckpointError(f"{path} is of another model than {first}: {', '.join(other[:5])} differ.")
    for name, each in theirs.items():
        sums[name] = sums[name] + each.double()


def _averaged(state: Mapping[str, Any], prefix: str, means: Mapping[str, Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            found[name] = _averaged(value, f"{prefix}{name}/", means)
        else:
            mean = means.get(f"{prefix}{name}")
            found[name] = value if mean is None else mean.to(value.dtype)
    return found
