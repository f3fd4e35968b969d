"""Configuration files: `load` and `save`, as YAML or JSON by the suffix.

Merging and interpolation are OmegaConf's. What such a file means to a trainer is in `launch`.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..packages import needs
from .nested import get
from .places import Places

LARGEST = 1 << 23  # characters, with what stands for others
SUFFIXES = (".yaml", ".yml", ".json")
_PATH = str | os.PathLike[str]
# A text with ${ in it is OmegaConf's to read, where backslashes before it are doubled.
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
_KEY = re.compile(r"\[?([^.\[\]]+)\]?")


def load(*files: _PATH, overrides: Sequence[str] = ()) -> Any:
    r"""Read configuration files, each merged into those before, as plain dicts and lists.

    Parameters
    ----------
    *files : path
        ``.yaml``, ``.yml`` or ``.json``, in UTF-8. Of several, dicts are merged by their keys, all else is replaced.
    overrides : sequence of str
        ``"optimizer.lr=0.1"`` changes what is there, ``"+seed=3"`` adds, ``"~scheduler"`` deletes.

    Returns
    -------
    dict or list
        With ``${other.key}`` and ``${oc.env:NAME,default}`` replaced by what they stand for; ``\${`` is text.

    Raises
    ------
    ConfigError
        With file and line, for what cannot be read, a key that is there twice, and what stands for nothing.
    FileNotFoundError
        If there is no such file.

    Notes
    -----
    Words mean what they do in YAML 1.2: ``yes``, ``1:30`` and dates are text, ``1e-3`` is a number, and ``012`` is
    text.
    """
    return read(*files, overrides=overrides)[0]


def read(*files: _PATH, overrides: Sequence[str] = ()) -> tuple[Any, Places, Any]:
    """Do what `load` does; return also the places of the values, and what is written there, not interpolated."""
    needs("omegaconf", "a configuration file", extra="cli")
    from omegaconf import OmegaConf

    from .overrides import apply

    if not files:
        raise ConfigError("load() got no files. Write load('config.yml').")
    places, parts = Places(), []
    for path in files:
        data, lines = _read_one(Path(path).expanduser())
        places.add(str(path), lines)
        parts.append(data)
    written = parts[0]
    if len(parts) > 1:
        for part, path in zip(parts, files, strict=True):
            if not isinstance(part, dict):
                raise ConfigError(f"{path} is a list, which cannot be merged with {len(parts) - 1} other files.")
        written = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.create, parts)), resolve=False)
    apply(written, overrides, places)
    return _interpolated(written, places), places, written


def _read_one(path: Path) -> tuple[Any, Mapping[Any, int]]:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    parse = _parser(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; expected a configuration file.")
    if not path.is_file():
        raise ConfigError(f"{path} is no regular file; expected a configuration file.")
    with open(path, "rb") as file:
        data = file.read(4 * LARGEST + 4)  # more is more characters than are read
    try:
        value, lines = parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: it is no UTF-8. Save it in that encoding.") from None
    except ConfigError as error:
        found = re.fullmatch(r"line (\d+): (.*)", str(error), re.DOTALL)
        raise ConfigError(f"{path}:{found[1]}: {found[2]}." if found else f"{path}: {error}.") from None
    if value is None:
        value = {}
    if not isinstance(value, (dict, list)):
        raise ConfigError(f"{path}:{lines.get((), 1)}: it holds {value!r:.60} alone; expected keys and values.")
    return value, lines


def _parser(path: Path) -> Callable[[str], tuple[Any, Mapping[Any, int]]]:
    from . import json_text, yaml_text

    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    return json_text.parse if path.suffix.lower() == ".json" else yaml_text.parse


def _interpolated(data: Any, places: Places) -> Any:
    """Return data with what its texts stand for; without any such text, as it is."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not _has_interpolation(data):
        return data
    try:
        if _size(data, data, {}) > LARGEST:
            raise ConfigError(
                f"{places.name}: with what they stand for, its values have more than {LARGEST} characters."
            )
        return OmegaConf.to_container(OmegaConf.create(data), resolve=True)
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        path = tuple(int(part) if part.isdecimal() else part for part in _KEY.findall(key))
        said = str(error.msg or error).splitlines()[0].rstrip(".")
        raise ConfigError(f"{places.of(*path)}: {f'{key}: ' if key else ''}{said}.") from None
    except RecursionError:
        raise ConfigError(f"{places.name}: values stand for each other in a circle.") from None


def _has_interpolation(data: Any) -> bool:
    if isinstance(data, str):
        return "${" in data
    if isinstance(data, dict):
        return any(map(_has_interpolation, data.values()))
    return isinstance(data, list) and any(map(_has_interpolation, data))


def _size(value: Any, root: Any, known: dict[str, int]) -> int:
    """Return about how many characters a value has when others have come in their places."""
    if isinstance(value, (dict, list)):
        return 1 + sum(_size(part, root, known) for part in (value.values() if isinstance(value, dict) else value))
    if not isinstance(value, str) or "${" not in value:
        return len(value) if isinstance(value, str) else 1
    total = len(value)
    for name in _REFERENCE.findall(value):
        if name not in known:
            known[name] = 0  # of a circle, which OmegaConf finds
            found = root
            for key in _KEY.findall(name):
                found = get(found, int(key) if isinstance(found, list) and key.isdecimal() else key)
            known[name] = _size(found, root, known)
        total += known[name]
    return total


def save(config: Any, file: _PATH) -> None:
    """Write a configuration, so that `load` gives it back.

    Parameters
    ----------
    config : dict, list or Config
        Plain data: dicts by text or whole numbers, lists, text, numbers, booleans and None. A tuple becomes a list.
    file : path
        ``.yaml``, ``.yml`` or ``.json``; it is replaced as a whole.

    Raises
    ------
    ConfigError
        For a value that is no plain data, with its path; for another suffix.
    OSError
        If it cannot be written.
    """
    from . import yaml_text

    path = Path(file).expanduser()
    _parser(path)
    is_json = path.suffix.lower() == ".json"
    if not isinstance(config, (Mapping, list, tuple)):
        raise ConfigError(f"save() got a {type(config).__name__}; expected a dict or a list.")
    data = _plain(config, "", is_json, set())
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n" if is_json else yaml_text.dump(data)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _plain(value: Any, where: str, is_json: bool, around: set[int]) -> Any:
    """Return plain data as a file holds it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (Mapping, list, tuple)):
        if id(value) in around:
            raise ConfigError(f"{where or 'the configuration'} holds itself, and cannot be written.")
        around = around | {id(value)}
    if isinstance(value, Mapping):
        return {
            _plain_key(key, where, is_json): _plain(part, f"{where}.{key}".lstrip("."), is_json, around)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(part, f"{where}[{index}]", is_json, around) for index, part in enumerate(value)]
    if type(value) is str:
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigError(f"{where} is {value!r}, which is no text that UTF-8 can hold.")
        return _INTERPOLATION.sub(lambda found: 2 * found[1] + r"\${", value)
    if value is None or type(value) in (bool, int, float):
        return value
    raise ConfigError(
        f"{where} is {value!r:.80}, a {type(value).__name__}; expected plain data: text, numbers, booleans, None, "
        "lists and dicts."
    )


def _plain_key(key: Any, where: str, is_json: bool) -> Any:
    if type(key) is str and not any("\ud800" <= character <= "\udfff" for character in key):
        return key
    if type(key) is int and not is_json:
        return key
    kind = "text" if is_json else "text or a whole number"
    raise ConfigError(f"{where or 'the configuration'} has the key {key!r}, a {type(key).__name__}; expected {kind}.")
