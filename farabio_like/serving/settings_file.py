"""A configuration of a service in YAML: the options of `farabio-like serve`, with variables of the environment."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import yaml_text
from ..errors import ConfigError, closest
from .settings import ServeSettings

# As in a shell and in compose.yml: ${NAME} and ${NAME:-default}.
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_KINDS = {field.name: str(field.type).partition(" ")[0] for field in fields(ServeSettings)}
_OWN = {"serve": "str", "checkpoint": "str", "log": "str"}  # which are no settings


def read(file: str | Path) -> dict[str, Any]:
    """Return the settings that a file holds, by name, and ``serve``, ``checkpoint`` and ``log``.

    Parameters
    ----------
    file : path

    Raises
    ------
    ConfigError
        With file and line: for an unknown key, a variable that is not set, or a value of another kind.
    FileNotFoundError
    """
    path = Path(file)
    try:
        data, lines = yaml_text.parse(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no UTF-8.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no keys; expected serve: RUN, port: 8000, ...")
    kinds, found = {**_OWN, **_KINDS}, {}
    for name, value in data.items():
        where = f"{path}:{lines.get((name,), 1)}"
        if name not in kinds:
            raise ConfigError(f"{where}: there is no setting {name!r}.{closest(str(name), kinds)}")
        found[name] = _of_kind(_substituted(value, where), kinds[name], f"{where}: {name}")
    return {name: value for name, value in found.items() if value is not None}


def _substituted(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value

    def variable(found: re.Match[str]) -> str:
        name, default = found.groups()
        text = os.environ.get(name) or default
        if text is None:
            raise ConfigError(f"{where}: the variable {name} is not set. Set it, or write ${{{name}:-default}}.")
        return text

    return _VARIABLE.sub(variable, value) or None


def _of_kind(value: Any, kind: str, where: str) -> Any:
    if value is None:
        return None
    expected = {"str": "text", "int": "a whole number"}.get(kind, "a number")
    if kind == "str" and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if kind != "str" and isinstance(value, str | int | float) and not isinstance(value, bool):
        number = {"int": int, "float": float}[kind]
        if not (kind == "int" and isinstance(value, float)):
            with contextlib.suppress(ValueError):
                return number(value)
    raise ConfigError(f"{where} is {value!r}; expected {expected}.")
