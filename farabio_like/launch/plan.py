"""What a configuration says of a run, checked as a whole before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config.allowed import Allowed
from ..config.places import Places
from ..config.settings import DEFINITIONS, OF_A_STAGE
from ..config.stages import Stage
from ..config.yaml_text import scalar
from ..errors import ConfigError, closest
from ..loggers.names import LOGGERS
from ..trainer import ConvnetTrainer
from ..trainers.ready_made import ReadyMadeTrainer
from .components import CLASS, Checker
from .imports import Sources
from .trainer_class import trainer_class

PARTS = ("model", "criterion", "optimizer", "scheduler")
DATA = ("train", "valid", "test")
KEYS = ("trainer", "settings", "config", *PARTS, "callbacks", "loggers", "stages", "variables")
# Those with a key of their own, and what is no choice of a run.
_NO_SETTINGS = {"stages": "stages", "loggers": "loggers", "epoch": None, "next_loop": None}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass
class LaunchPlan:
    """A run that is to be built.

    Attributes
    ----------
    trainer : type
    configuration : dict
        What the files say, merged and interpolated.
    written : dict
        The same, not interpolated.
    sources : Sources
    settings : dict of str to Any
        Under the names of the attributes: ``_num_epochs``.
    arguments : dict
        Of the trainer's constructor, as components.
    parts : dict
        Model, criterion, optimizer and scheduler, where the constructor does not take them.
    callbacks, loggers : list
    places : Places
    """

    trainer: type[ConvnetTrainer]
    configuration: dict[str, Any]
    written: dict[str, Any]
    sources: Sources
    places: Places
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)
    loggers: list[Any] | None = None


def plan(configuration: Any, written: Any, places: Places, sources: Sources) -> LaunchPlan:
    """Check a configuration.

    Raises
    ------
    ConfigError
        With everything that is wrong in it, a line each.
    """
    if not isinstance(configuration, dict):
        raise ConfigError(f"{places.name} is a list; expected keys: {', '.join(KEYS)}.")
    if "trainer" not in configuration:
        near = next((name for name in configuration if closest(str(name), ["trainer"])), None)
        if near is not None:
            raise ConfigError(f"{places.of(near)}: there is no {near!r}. Did you mean 'trainer'?")
        raise ConfigError(f"{places.name} has no trainer. Write trainer: digits.py:Digits")
    sources.put_first()
    made = trainer_class(configuration["trainer"], sources, places.of("trainer"))
    found = LaunchPlan(made, configuration, written, sources, places)
    checker = Checker(sources, places)
    taken = _constructor(made)
    for name, value in configuration.items():
        if name in ("trainer", "config", "settings", "stages", "loggers", "variables"):
            continue
        if name == "callbacks":
            found.callbacks = _list(value, "callbacks", checker)
        elif name in taken:
            is_part = isinstance(value, dict) and name in (*PARTS, *DATA)
            found.arguments[name] = checker.part(value, name) if is_part else checker.argument(value, name)
        elif name in PARTS:
            found.parts[name] = checker.part(value, name)
        else:
            there = [*KEYS, *taken]
            checker.problems.append(
                f"{places.of(name)}: there is no {name!r} for {made.__name__}.{closest(str(name), there)} There are: "
                f"{', '.join(dict.fromkeys(there))}."
            )
    for name in _needed(made):
        if name not in configuration:
            checker.problems.append(f"{places.of('trainer')}: {made.__name__} needs {name!r}. Write {name}: ...")
    _names_fit(found, checker)
    found.settings = _settings(configuration.get("settings"), checker)
    found.loggers = _loggers(configuration.get("loggers"), checker)
    stages = _stages(configuration.get("stages"), checker)
    if stages is not None:
        found.settings["_stages"] = stages
    _config(configuration.get("config"), made, checker)
    if checker.problems:
        raise ConfigError("\n".join(dict.fromkeys(checker.problems)))
    return found


def _constructor(cls: type[ConvnetTrainer]) -> list[str]:
    """Return which arguments the constructor takes by name beside config; of a ready-made trainer its options too."""
    options = cls.OPTIONS if issubclass(cls, ReadyMadeTrainer) else {}
    names: list[str] = []
    for each in cls.__mro__:
        if "__init__" not in vars(each):
            continue
        there = inspect.signature(vars(each)["__init__"]).parameters.values()
        names += [p.name for p in there if p.kind in _NAMED and p.name not in ("self", "config")]
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in there):
            break
    return list(dict.fromkeys([*names, *options]))


def _needed(cls: type[ConvnetTrainer]) -> list[str]:
    there = inspect.signature(cls).parameters.values()
    return [p.name for p in there if p.kind in _NAMED and p.default is inspect.Parameter.empty and p.name != "config"]


def _config(value: Any, cls: type[ConvnetTrainer], checker: Checker) -> None:
    where = checker.places.of("config")
    if value is not None and not isinstance(value, dict):
        checker.problems.append(f"{where}: config is {value!r:.60}; expected names and values.")
    there = inspect.signature(cls).parameters
    if value and not any(p.kind is inspect.Parameter.VAR_POSITIONAL or p.name == "config" for p in there.values()):
        checker.problems.append(f"{where}: {cls.__name__} takes no config; its constructor has: {', '.join(there)}.")


def _names_fit(found: LaunchPlan, checker: Checker) -> None:
    """Say where a dict of optimizers has a name that the dict of models has not, and schedulers one of no optimizer."""
    for name, of in (("optimizer", "model"), ("scheduler", "optimizer")):
        mine, others = found.parts.get(name), found.parts.get(of)
        if isinstance(mine, dict) and isinstance(others, dict):
            for each in mine:
                if each not in others:
                    checker.problems.append(
                        f"{checker.places.of(name, each)}: {name}.{each} has no {of} of its name."
                        f"{closest(str(each), map(str, others))} There are: {', '.join(map(str, others))}."
                    )


def _settings(value: Any, checker: Checker) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        checker.problems.append(
            f"{checker.places.of('settings')}: settings is {value!r:.60}; expected names and values."
        )
        return {}
    known = [name[1:] for name in DEFINITIONS if name[1:] not in _NO_SETTINGS]
    return _checked(value, known, ("settings",), "a setting", checker, "_")


def _checked(
    values: Mapping[Any, Any], known: Sequence[str], path: tuple[Any, ...], kind: str, checker: Checker, prefix: str
) -> dict[str, Any]:
    """Return settings that may be set, under their names with a prefix."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        where = checker.places.of(*path, name)
        if name in known:
            allowed = DEFINITIONS[f"_{name}"].allowed
            value = _number(value, allowed)
            said = allowed.problem(name, value)
            if said is None:
                found[f"{prefix}{name}"] = value
            else:
                checker.problems.append(f"{where}: {said.partition(' Write self.')[0]}")
        elif str(name).startswith("_") and str(name)[1:] in known:
            checker.problems.append(f"{where}: {name} is written without its underscore: {str(name)[1:]}")
        elif own := _NO_SETTINGS.get(name):
            checker.problems.append(f"{where}: {own} stand beside settings, not in it. Write {own}: ...")
        else:
            checker.problems.append(f"{where}: {name!r} is no name of {kind}.{closest(str(name), known)}")
    return found


def _number(value: Any, allowed: Allowed) -> Any:
    """Return the number that a text is, where the setting takes that and not the text."""
    if not isinstance(value, str) or allowed.holds(value):
        return value
    try:
        number = scalar(value.strip())
    except ValueError:
        return value
    return number if isinstance(number, (int, float)) and allowed.holds(number) else value


def _list(value: Any, name: str, checker: Checker) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        checker.problems.append(f"{checker.places.of(name)}: {name} is {value!r:.60}; expected a list of objects.")
        return []
    return [checker.part(each, name, index) for index, each in enumerate(value)]


def _loggers(value: Any, checker: Checker) -> list[Any] | None:
    if value is None:
        return None
    found = []
    for index, each in enumerate(value if isinstance(value, list) else [value]):
        where = checker.places.of("loggers", index)
        if isinstance(each, str):
            said = DEFINITIONS["_loggers"].allowed.problem("loggers", each)
            if said is not None:
                checker.problems.append(f"{where}: {said}")
            found.append(each)
        elif isinstance(each, dict) and CLASS in each:
            found.append(checker.part(each, "loggers", index))
        else:
            names = ", ".join(LOGGERS)
            checker.problems.append(f"{where}: {each!r:.60} is no logger; expected one of {names}, or {{class: ...}}.")
    return found


def _stages(value: Any, checker: Checker) -> list[Stage] | None:
    """Return the stages: of a dict by name, or of a list; the settings under ``defaults`` are those of all of them."""
    if value is None:
        return None
    entries = _named_stages(value, checker)
    defaults = next((each for _, name, each in entries if name == "defaults"), {})
    found = []
    for key, name, own in entries:
        if name == "defaults":
            continue
        path, where = ("stages", key), checker.places.of("stages", key)
        settings = {**defaults, **{k: v for k, v in own.items() if k != "name"}}
        epochs = _number(settings.pop("num_epochs", None), DEFINITIONS["_num_epochs"].allowed)
        checked = _checked(settings, OF_A_STAGE, path, "a setting that a stage may have", checker, "")
        if type(epochs) is not int or epochs < 1:
            checker.problems.append(
                f"{where}: stage {name!r} has num_epochs {epochs!r}; expected a whole number, 1 or more."
            )
        else:
            found.append(Stage(str(name), epochs, **checked))
    names = [stage.name for stage in found]
    if len(set(names)) < len(names):
        checker.problems.append(f"{checker.places.of('stages')}: a stage has the name of another one: {names}.")
    if not found and not checker.problems:
        checker.problems.append(f"{checker.places.of('stages')}: there is no stage in stages.")
    return found


def _named_stages(value: Any, checker: Checker) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Return key or index, name and settings of every entry."""
    where = checker.places.of("stages")
    if not isinstance(value, (list, dict)):
        checker.problems.append(f"{where}: stages is {value!r:.60}; expected a list or a dict of stages.")
        return []
    found = []
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        name: Any
        if isinstance(each, dict) and isinstance(value, list) and set(each) == {"defaults"}:
            name, each = "defaults", each["defaults"]
        else:
            name = key if isinstance(value, dict) else each.get("name") if isinstance(each, dict) else None
        if not isinstance(each, dict) or name is None or name == "":
            checker.problems.append(
                f"{checker.places.of('stages', key)}: {each!r:.60} is no stage. Write "
                "{name: pretrain, num_epochs: 5}."
            )
        else:
            found.append((key, name, each))
    return found
