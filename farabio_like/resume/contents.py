"""What a checkpoint of a run has to hold: checked field by field when it is read, before any of it is used.

A file may be damaged, or a stranger's. What only the trainer knows, as the shapes of its weights, is checked where it
is restored.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint.plain import is_plain
from ..config.settings import OF_A_STAGE
from ..errors import CheckpointError, FarabioError

LARGEST = 1 << 53  # of a count
LONGEST_NAME = 1000  # characters
_PHASES = ("train", "evaluate")
_SETTINGS_OF_A_STAGE = frozenset(f"_{name}" for name in OF_A_STAGE)


@contextlib.contextmanager
def using(file: str | Path, field: str) -> Iterator[None]:
    """Raise a CheckpointError that names file and field for whatever is raised by using what is there."""
    try:
        yield
    except FarabioError:
        raise
    except Exception as error:
        said = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise CheckpointError(
            f"{file}: its field {field} cannot be used: {type(error).__name__}: {said[:500]}"
        ) from error


def check(found: Mapping[str, Any], path: Path) -> None:
    """Check a checkpoint of a run.

    Raises
    ------
    CheckpointError
        With the file, the first field that is missing or wrong, and what was expected there.
    """
    check_weights(found, path)
    look = _Look(path)
    look.at(found, "step", "a number of steps", _is_count)
    look.at(found, "run", "a dict", _is_dict)
    run, look = found["run"], _Look(path, "run")
    for name, expected, fits in _OF_A_RUN:
        look.at(run, name, expected, fits)
    for name, expected, fits in _MAY_BE_IN_A_RUN:
        if name in run:
            look.at(run, name, expected, fits)
    for index, entry in enumerate(run["history"]):
        _check_entry(entry, _Look(path, f"run/history/{index}"))
    for name, part in run["components"].items():
        _check_component(part, _Look(path, f"run/components/{name}"))
    _check_stepping(run["stepping"], _Look(path, "run/stepping"), in_shards="shards" in found)
    _check_rng(run["rng"], _Look(path, "run/rng"))
    if run["epoch"] is not None:
        _check_position(run["epoch"], path, "run/epoch")
    for index, rank in enumerate(run.get("ranks", ())):
        _check_rank(rank, path, f"run/ranks/{index}", in_shards="shards" in found)


def check_weights(found: Mapping[str, Any], path: Path) -> None:
    """Check what is read of a file of ours where only its weights are wanted; see `check`."""
    look = _Look(path)
    look.at(found, "format", "a number", lambda value: _is_count(value) and value > 0)
    look.at(found, "class", "the name of a class", _is_name)
    look.at(found, "epoch", "the number of an epoch", _is_count)
    look.at(found, "model", "the weights by their names", _is_named)
    look.at(found, "averages", "dicts of weights by names", lambda value: _is_named(value) and _all(value, _is_dict))
    if "shards" in found:
        look.at(found, "shards", "a dict", _is_dict)
        look = _Look(path, "shards")
        for name, expected, fits in _OF_SHARDS:
            look.at(found["shards"], name, expected, fits)


class _Look:
    """Looks at the fields of a dict in a file, at a place in it."""

    def __init__(self, path: Path, where: str = "") -> None:
        self.path, self.where = path, where

    def at(self, holder: Mapping[str, Any], name: str, expected: str, fits: Callable[[Any], bool]) -> None:
        """Raise a CheckpointError unless a field is there and fits."""
        place = f"{self.where}/{name}" if self.where else name
        if name not in holder:
            raise CheckpointError(f"{self.path} is no checkpoint of a run, or damaged: it has no field {place}.")
        try:
            good = fits(holder[name])
        except Exception:  # of a tensor, say, in the place of a number
            good = False
        if not good:
            raise self.wrong(holder[name], expected, place)

    def wrong(self, value: Any, expected: str, place: str | None = None) -> CheckpointError:
        """Return the error for a value that is none of what was expected."""
        return CheckpointError(
            f"{self.path} is no checkpoint of a run, or damaged: its field {place or self.where} is {_short(value)}; "
            f"expected {expected}."
        )


# ---------------------------------------------------------------- kinds of values


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of the shape {tuple(value.shape)}"
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    try:
        text = repr(value)
    except ValueError:  # of a number with thousands of digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) <= LARGEST


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) <= LARGEST) or isinstance(value, float)


def _is_duration(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and abs(value) <= LARGEST


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _all(value: Mapping[Any, Any], fits: Callable[[Any], bool]) -> bool:
    return all(map(fits, value.values()))


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_state(value: Any) -> bool:
    """Return whether a value may be what `checkpoint.objects.capture` returned."""
    return isinstance(value, dict) and bool(value) and all(isinstance(name, str) for name in value)


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _is_best(value: Any) -> bool:
    if not _is_list(value) or len(value) not in (4, 5):
        return False
    part, name, best, epoch, step = (*value, None)[:5]
    if step is not None and not _is_count(step):
        return False
    return part in ("train", "valid") and _is_name(name) and _is_number(best) and best == best and _is_count(epoch)


def _are_callbacks(value: Any) -> bool:
    pairs = _is_list(value) and all(_is_list(pair) and len(pair) == 2 for pair in value)
    return pairs and all(_is_name(name) and isinstance(state, dict) for name, state in value)


def _are_callbacks_of_a_rank(value: Any) -> bool:
    """Return whether a value may be the callbacks of a rank; None stands for the state that all ranks have."""
    return _is_list(value) and all(
        _is_list(pair) and len(pair) == 2 and _is_name(pair[0]) and isinstance(pair[1], (dict, type(None)))
        for pair in value
    )


def _is_names(value: Any) -> bool:
    return _is_list(value) and all(map(_or_none(_is_name), value))


def _is_path(value: Any) -> bool:
    """Return whether a value is the place of a part: an attribute, and keys of dicts and lists."""
    keys = _is_list(value) and len(value) > 0 and isinstance(value[0], str) and value[0].isidentifier()
    return keys and all(isinstance(key, (str, int, float, bool, type(None))) for key in value[1:])


def _is_layout(value: Any) -> bool:
    """Return whether a value may tell how an optimizer or a schedule is made, see `resume.optimizers`."""
    if not _is_named(value) or not (_is_name(value.get("module")) and _is_name(value.get("class"))):
        return False
    if "path" in value and not _is_path(value["path"]):
        return False
    if "groups" in value:
        return _is_list(value["groups"]) and all(map(_is_names, value["groups"]))
    inner = value.get("inner")
    return "of" in value and _or_none(_is_name)(value["of"]) and _is_list(inner) and all(map(_is_layout, inner))


def _are_layouts(value: Any) -> bool:
    return _is_named(value) and _all(value, _is_layout)


def _is_pair(value: Any) -> bool:
    named = _is_list(value) and len(value) == 2 and _is_name(value[0]) and not value[0].startswith("__")
    return named and (value[1] is None or _is_state(value[1]))


def _are_pairs(value: Any) -> bool:
    return _is_named(value) and _all(value, lambda pairs: _is_list(pairs) and all(map(_is_pair, pairs)))


def _is_layer(value: Any) -> bool:
    if not _is_named(value) or not _or_none(_is_path)(value.get("path")):
        return False
    kind, empty, fields = (value.get(name) for name in ("class", "empty", "fields"))
    if not (_is_names(kind) and len(kind) == 2 and _is_named(empty) and _all(empty, _is_names)):
        return False
    return empty.keys() == {"_parameters", "_buffers", "_modules"} and _is_list(fields) and all(map(_is_pair, fields))


_OF_INSIDE = {
    "flags": lambda value: _is_named(value) and _all(value, _is_flag),
    "eval": lambda value: value is None or _is_names(value),
    "model": _are_pairs,
    "data": _are_pairs,
    "layers": lambda value: _is_named(value) and _all(value, _is_layer),
    "settings": lambda value: _is_named(value) and _all(value, is_plain) and value.keys() <= _SETTINGS_OF_A_STAGE,
}


def _is_inside(value: Any) -> bool:
    return _is_named(value) and all(name in _OF_INSIDE and _OF_INSIDE[name](part) for name, part in value.items())


def _is_print(value: Any) -> bool:
    texts = _is_named(value) and all(_or_none(_is_name)(value.get(name)) for name in ("order", "samples"))
    return texts and {"order", "samples", "length"} <= value.keys() and _or_none(_is_count)(value["length"])


def _is_data(value: Any) -> bool:
    if not _is_named(value) or not {"print", "indices", "base"} <= value.keys():
        return False
    indices = value["indices"]
    return (
        _is_print(value["print"])
        and _or_none(_is_print)(value["base"])
        and _is_named(indices)
        and _all(indices, lambda part: _is_tensor(part) and part.dim() == 1 and not part.is_floating_point())
    )


def _is_position_of_a_schedule(value: Any) -> bool:
    """Return whether a value may be where a schedule stood; a number is of an older file."""
    if value is None or _is_whole(value):
        return True
    return (
        _is_list(value) and len(value) == 2 and (_is_whole(value[0]) or _is_names(value[:1])) and _is_names(value[1:])
    )


def _are_attributes(value: Any) -> bool:
    return _is_named(value) and all(name.isidentifier() and not name.startswith("__") for name in value)


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_list(entry) and len(entry) == 2 and _is_count(entry[0]) and isinstance(entry[1], str)
        for entry in value.values()
    )


_OF_A_RUN: Sequence[tuple[str, str, Callable[[Any], bool]]] = (
    ("num_epochs", "a number of epochs", _is_whole),
    ("finished", "True or False", _is_flag),
    ("done", "None or the number of an epoch", _or_none(_is_whole)),
    ("stage", "None or the name of a stage", _or_none(lambda value: isinstance(value, str))),
    ("best", "None, or part, name, value and epoch", _or_none(_is_best)),
    ("history", "a list of dicts", lambda value: _is_list(value) and all(map(_is_dict, value))),
    ("components", "dicts by names", lambda value: _is_named(value) and _all(value, _is_dict)),
    ("callbacks", "a list of names and dicts", _are_callbacks),
    ("stepping", "a dict", _is_dict),
    ("attributes", "plain data by names", lambda value: _are_attributes(value) and _all(value, is_plain)),
    ("objects", "states by names", lambda value: _are_attributes(value) and _all(value, _is_state)),
    ("rng", "a dict", _is_dict),
    ("epoch", "None or a dict", _or_none(_is_dict)),
    ("made_with", "plain data by names", lambda value: _is_named(value) and _all(value, is_plain)),
)
_MAY_BE_IN_A_RUN = (
    ("unchanged", "a dict", _is_named),
    ("built", "optimizers and schedules by their places", lambda v: _is_list(v) and all(map(_are_layouts, v))),
    ("inside", "what hooks had changed", _is_inside),
    ("data", "fingerprints of loaders", lambda value: _is_named(value) and _all(value, _is_data)),
    ("ranks", "a list of dicts", lambda value: _is_list(value) and all(map(_is_dict, value))),
)
_MAY_BE_IN_A_POSITION: Sequence[tuple[str, str, Callable[[Any], bool]]] = (
    ("began", "None, or what hooks had changed", _or_none(_is_inside)),
    ("layouts", "None, or optimizers and schedules by their places", _or_none(_are_layouts)),
    ("samples", "None or a number of samples", _or_none(_is_count)),
    ("batch_size", "None or a number of samples", _or_none(lambda value: _is_count(value) and value > 0)),
    ("evaluations", "a list of evaluations", lambda value: _is_list(value) and all(map(_is_evaluation, value))),
)
_OF_SHARDS = (
    ("folder", "the name of a folder", lambda value: True),  # names are checked where they are used
    ("files", "size and SHA-256 by name", _are_files),
    ("same", "names by names", lambda value: _is_named(value) and _all(value, lambda name: isinstance(name, str))),
)


# ---------------------------------------------------------------- the larger fields


def _is_evaluation(value: Any) -> bool:
    counted = _is_dict(value) and all(_is_count(value.get(name)) for name in ("epoch", "step", "batch"))
    return counted and _is_named(value.get("valid"))


def _check_entry(entry: Mapping[str, Any], look: _Look) -> None:
    look.at(entry, "epoch", "the number of an epoch", _is_count)
    look.at(entry, "seconds", "a number of seconds", _is_duration)
    for part in ("train", "valid"):
        look.at(entry, part, "metrics by their names", _is_named)
    if "evaluations" in entry:
        look.at(entry, "evaluations", "a list of evaluations", lambda v: _is_list(v) and all(map(_is_evaluation, v)))
    if "batches" in entry:
        look.at(entry, "batches", "a number of batches", _is_count)


def _check_component(part: Mapping[str, Any], look: _Look) -> None:
    look.at(part, "class", "the name of a class", _is_name)
    look.at(part, "state", "a state", lambda value: value is not None)
    if "layout" in part:
        look.at(part, "layout", "class and groups of an optimizer, or class of a schedule", _is_layout)
    if "defaults" in part:
        look.at(part, "defaults", "options by names", _is_named)
    if "shapes" not in part:
        return
    look.at(part, "shapes", "a list of shapes", lambda value: _is_list(value) and all(map(_or_none(_is_list), value)))
    look.at(part, "state", "a dict", _is_dict)
    state, look = part["state"], _Look(look.path, f"{look.where}/state")
    look.at(state, "state", "dicts by number", lambda value: _is_dict(value) and _all(value, _is_dict))
    look.at(state, "param_groups", "a list of dicts", lambda value: _is_list(value) and all(map(_is_dict, value)))


def _check_stepping(stepping: Mapping[str, Any], look: _Look, in_shards: bool = False) -> None:
    """Check what the steps have gathered; of tensors in shards there is what stands for them here."""
    for name, expected, fits in (
        ("missed", "a number", _is_count),
        ("moved", "True or False", _is_flag),
        ("unit", "a number", _is_duration),
        ("overflows", "a number", _is_count),
        ("waiting", "tensors by names", lambda value: _is_named(value) and (in_shards or _all(value, _is_tensor))),
        ("scalers", "dicts by names", lambda value: _is_named(value) and _all(value, _is_dict)),
        ("windows", "dicts by names", lambda value: _is_named(value) and _all(value, _is_dict)),
        ("schedules", "names by places", lambda value: _is_named(value) and _all(value, _is_name)),
    ):
        if name in stepping:
            look.at(stepping, name, expected, fits)
    for name, window in stepping.get("windows", {}).items():
        look_in = _Look(look.path, f"{look.where}/windows/{name}")
        look_in.at(window, "batches", "a number", _is_count)
        look_in.at(window, "samples", "a number", _is_duration)
        look_in.at(window, "scaler", "None or a name", lambda value: True)
        look_in.at(window, "gradients", "tensors by number", lambda v: _is_dict(v) and all(map(_is_count, v)))
        look_in.at(window, "gradients", "tensors by number", lambda v: in_shards or _all(v, _is_tensor))


def _check_rng(state: Mapping[str, Any], look: _Look) -> None:
    look.at(state, "python", "version, words and number", _is_python_rng)
    look.at(state, "numpy", "the state of MT19937", _is_numpy_rng)
    look.at(state, "torch", "a tensor of bytes", _is_tensor)
    look.at(state, "loaders", "a list of tensors", lambda value: _is_list(value) and all(map(_is_tensor, value)))
    if "cuda" in state:
        look.at(state, "cuda", "a list of tensors", lambda value: _is_list(value) and all(map(_is_tensor, value)))


def _is_python_rng(value: Any) -> bool:
    return _is_list(value) and len(value) == 3 and value[0] == 3 and _is_tensor(value[1]) and value[1].numel() == 625


def _is_numpy_rng(value: Any) -> bool:
    """Return whether NumPy may have this state; it reads beyond its memory where the position is another."""
    if not _is_list(value) or len(value) != 5 or value[0] != "MT19937":
        return False
    _, words, position, has_gauss, gauss = value
    numbers = _is_count(position) and position <= 624 and has_gauss in (0, 1) and _is_number(gauss)
    return numbers and _is_tensor(words) and words.shape == (624,) and not words.is_floating_point()


def _check_position(position: Mapping[str, Any], path: Path, where: str) -> None:
    look = _Look(path, where)
    look.at(position, "phase", "'train' or 'evaluate'", lambda value: value in _PHASES)
    look.at(position, "batches", "a number of batches", _is_count)
    look.at(position, "seconds", "a number of seconds", _is_duration)
    look.at(
        position, "schedulers", "a list of positions", lambda v: _is_list(v) and all(map(_is_position_of_a_schedule, v))
    )
    for name, expected, fits in _MAY_BE_IN_A_POSITION:
        if name in position:
            look.at(position, name, expected, fits)
    look.at(position, "asked", "a dict", _is_dict)
    for name in ("stop", "leave", "stop_loader"):
        _Look(path, f"{where}/asked").at(position["asked"], name, "True or False", _is_flag)
    look.at(position, "metrics", "dicts by names", lambda value: _is_named(value) and _all(value, _is_named))
    look.at(position, "loader", "None or a dict", _or_none(_is_dict))
    look.at(position, "rng", "a dict", _is_dict)
    _check_rng(position["rng"], _Look(path, f"{where}/rng"))
    _check_measured(position, path, where)


def _check_rank(rank: Mapping[str, Any], path: Path, where: str, in_shards: bool) -> None:
    look = _Look(path, where)
    look.at(rank, "rng", "None or a dict", _or_none(_is_dict))
    if rank["rng"] is not None:
        _check_rng(rank["rng"], _Look(path, f"{where}/rng"))
    if "callbacks" in rank:
        look.at(rank, "callbacks", "a list of names and dicts", _are_callbacks_of_a_rank)
    if "stepping" in rank:
        look.at(rank, "stepping", "a dict", _is_dict)
        _check_stepping(rank["stepping"], _Look(path, f"{where}/stepping"), in_shards)
    _check_measured(rank, path, where)


def _check_measured(holder: Mapping[str, Any], path: Path, where: str) -> None:
    """Check the means and the metric objects of an epoch under way, where there are any."""
    look = _Look(path, where)
    for name in ("means", "objects"):
        if name in holder:
            look.at(holder, name, "a dict", _is_named)
    for name, mean in holder.get("means", {}).items():
        look = _Look(path, f"{where}/means")
        look.at(holder["means"], name, "a dict", _is_dict)
        look = _Look(path, f"{where}/means/{name}")
        for part, expected, fits in (
            ("count", "a number", _is_duration),
            ("number", "a number", _is_number),
            ("tensor", "None or a tensor of one number", _or_none(lambda v: _is_tensor(v) and v.numel() == 1)),
            ("waiting", "None or a tensor of numbers", _or_none(lambda v: _is_tensor(v) and v.dim() == 1)),
            ("weight", "a number", _is_duration),
            ("folded", "a number", _is_count),
        ):
            look.at(mean, part, expected, fits)
    objects = holder.get("objects", {})
    for name in ("metrics", "records"):
        if name in objects:
            _Look(path, f"{where}/objects").at(
                objects, name, "dicts by names", lambda v: _is_dict(v) and _all(v, _is_dict)
            )


# ---------------------------------------------------------------- states of objects that there are

# What PyTorch's schedules divide by.
_DIVIDES = {"step_size", "T_max", "T_0", "T_i", "T_mult", "total_iters", "total_steps", "total_size", "step_ratio"}


def check_alike(value: Any, now: Any, where: str, *, counted: bool = False) -> None:
    """Check that a state is of the same kinds as the one that an object has now, which may have less in it yet.

    Parameters
    ----------
    value, now : object
    where : str
        The place of `value`, for the message.
    counted : bool
        What is a number now has to be one, as in a schedule. Else it may be None, which is: not set.

    Raises
    ------
    ValueError
        With the place of a value of another kind.
    """
    if now is None or (value is None and not (counted and _is_number(now))):
        return
    if isinstance(now, Mapping):
        _expect(isinstance(value, Mapping), value, where, "a dict")
        for name in value.keys() & now.keys():
            check_alike(value[name], now[name], f"{where}/{name}", counted=counted)
            if name in _DIVIDES and _is_number(now[name]):
                _expect(_is_number(value[name]) and value[name] > 0, value[name], f"{where}/{name}", "a number above 0")
    elif isinstance(now, (list, tuple)):
        _expect(isinstance(value, (list, tuple)), value, where, "a list")
        for index, part in enumerate(value if len(now) else ()):
            check_alike(part, now[min(index, len(now) - 1)], f"{where}/{index}", counted=counted)
    elif isinstance(now, bool):
        _expect(isinstance(value, bool), value, where, "True or False")
    elif isinstance(now, (int, float)) or _is_one_number(now):
        _expect(_is_number(value) or _is_one_number(value), value, where, "a number")
    elif isinstance(now, (str, bytes)):
        _expect(isinstance(value, type(now)), value, where, "text")
    elif isinstance(now, Tensor):
        _expect(_is_tensor(value) and value.is_complex() == now.is_complex(), value, where, "a tensor")


def _expect(holds: bool, value: Any, where: str, expected: str) -> None:
    if not holds:
        raise ValueError(f"{where} is {_short(value)}; expected {expected}")


def _is_one_number(value: Any) -> bool:
    return _is_tensor(value) and value.numel() == 1 and not value.is_complex()
