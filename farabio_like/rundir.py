"""The folder of a run: its name, what was run (config, environment, code), and its numbers, line by line."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from . import distributed
from .checkpoint import write_text
from .errors import CheckpointError, ConfigError

LOCK = ".lock"  # in the folder of a run while a process trains it
LARGEST_SOURCE = 1 << 20  # bytes; a larger .py file is generated, not written


class RunDir:
    """A folder ``<logdir>/<class name>/<number>`` that belongs to one run.

    Parameters
    ----------
    logdir : str or Path
    owner : type
        The trainer's class.

    Raises
    ------
    ConfigError
        If the folder cannot be made.
    """

    def __init__(self, logdir: str | Path, owner: type) -> None:
        self.path = Path(distributed.from_main(lambda: str(_new_folder(logdir, owner))))
        self.owner = owner
        self._lock: IO[str] | None = None

    @classmethod
    def at(cls, path: Path, owner: type) -> RunDir:
        """Return the folder of a run that goes on."""
        found = cls.__new__(cls)
        found.path, found.owner, found._lock = path, owner, None
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None}  # a loader's worker may get the trainer

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Give a copy of a trainer no folder: its next run gets one of its own."""
        return None

    def hold(self) -> None:
        """Keep other processes from training this run too, until `release` or until this process has ended.

        Raises
        ------
        ConfigError
            If another process trains it.
        OSError
            If the folder cannot be written.
        """
        if self._lock is not None or os.name == "nt":
            return
        import fcntl

        path = self.path / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not flock, which a loader's worker would hold on to after this process was killed.
        lock = open(path, "a+")  # noqa: SIM115  (it is open as long as the run lasts)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                lock.close()  # its holder has removed it meanwhile
                return self.hold()
        except OSError as error:
            lock.seek(0)
            holder = lock.read()
            lock.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(
                    f"the run {self.path} is being trained by another process ({holder}). Wait until that has ended, "
                    "or end it; both would write the same files."
                ) from None
            return  # a file system without locks
        lock.truncate(0)
        lock.write(f"number {os.getpid()} on {platform.node()}")
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Let other processes train this run."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):  # of a disk that has gone: what ended the run comes out
                (self.path / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                lock.close()

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """The weights of the last epoch."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def weights(self) -> Path:
        """The weights alone, for use elsewhere."""
        return self.path / "model.pth"

    def describe(self, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Write what is run: ``config.yaml``, ``environment.json`` and the code."""
        if not distributed.is_main():
            return
        body = {"class": self.owner.__qualname__, "config": dict(config), "settings": dict(settings)}
        text = json.dumps(environment(), indent=2)
        try:
            (self.path / "config.yaml").write_text(_yaml(body), encoding="utf-8")
            (self.path / "environment.json").write_text(text + "\n", encoding="utf-8")
            _copy_code(self.owner, self.path / "code")
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} cannot be written: {error.strerror or error}. "
                "Make room, or choose another place by _logdir."
            ) from error

    def rewind(self, history: list[dict[str, Any]], step: int, best: int | None) -> None:
        """Make the epochs in ``metrics.jsonl`` those of a history: a killed run may have come further, or not so far.

        Lines of steps after `step` go too, and one that was cut off in the middle. Other lines stay. A line that is
        missing says whether its epoch is the `best`.
        """
        path = self.path / "metrics.jsonl"
        there: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                there.append(json.loads(line))
            except ValueError:
                continue
        epochs = {entry["epoch"] for entry in history}
        kept = [entry for entry in there if "train" not in entry or entry.get("epoch") in epochs]
        kept = [entry for entry in kept if entry.get("step", 0) <= step]
        known = {entry.get("epoch") for entry in kept if "train" in entry}
        missing = [entry for entry in history if entry["epoch"] not in known]
        kept += [finite({**entry, "best": entry["epoch"] == best}) for entry in missing]
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``; it is in the hands of the system when this returns."""
        if not distributed.is_main():
            return
        path = self.path / "metrics.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it: the run goes on
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite(entry)) + "\n")
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror or error}.") from error


def _new_folder(logdir: str | Path, owner: type) -> Path:
    parent = Path(logdir).expanduser() / owner.__name__
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max(run_numbers(parent), default=0) + 1
        while True:
            try:
                (parent / str(number)).mkdir()
                break
            except FileExistsError:  # another process took the number
                number += 1
    except OSError as error:
        raise ConfigError(
            f"_logdir is {str(logdir)!r}, but {error.filename or parent} cannot be made or written: "
            f"{error.strerror}. Choose another place, or _logdir = None to write nothing."
        ) from error
    return parent / str(number)


def run_numbers(parent: Path) -> list[int]:
    """Return the numbers of the runs in the folder of a trainer's class."""
    return [int(path.name) for path in parent.iterdir() if path.name.isdecimal()] if parent.is_dir() else []


def newest_weights(logdir: str | Path, owner: type) -> Path | None:
    """Return the best (else the last, else the saved) weights of the newest run that has any."""
    parent = Path(logdir).expanduser() / owner.__name__
    for number in sorted(run_numbers(parent), reverse=True):
        for name in ("checkpoints/best.ckpt", "model.pth", "checkpoints/last.ckpt"):
            if (parent / str(number) / name).is_file():
                return parent / str(number) / name
    return None


def finite(value: Any) -> Any:
    """Return plain data for JSON; NaN and infinities become ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return repr(value)


def environment() -> dict[str, Any]:
    """Return what a run depends on besides its code: versions, machine, command, commit."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "folder": os.getcwd(),
        "git_commit": _git_commit(),
        "torchrun_job": distributed.job(),
        "processes": distributed.world_size(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    """Return the installed packages, read off the folders' names: parsing their metadata takes half a second."""
    found: dict[str, str] = {}
    for folder in sys.path:
        for info in Path(folder or ".").glob("*-*.dist-info"):
            name, version = info.name.removesuffix(".dist-info").rsplit("-", 1)
            found.setdefault(name, version)
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def _git_commit() -> str | None:
    try:
        asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _copy_code(owner: type, folder: Path) -> None:
    """Copy the sources that belong to the run: the script, the trainer's file and the modules beside them."""
    package = sys.modules.get(owner.__module__.partition(".")[0])
    files = [getattr(module, "__file__", None) for module in (sys.modules.get("__main__"), package)]
    try:
        files.append(inspect.getsourcefile(owner))
    except (TypeError, OSError):
        pass
    own = [Path(file).resolve() for file in files if file and Path(file).is_file()]
    own = [path for path in own if path.suffix == ".py" and not installed(path)]
    homes = {path.parent for path in own}
    sources = set(own)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # Resolving the path of every installed module would take longer than the rest together.
        if isinstance(file, str) and file.endswith(".py") and not installed(Path(file)):
            path = Path(file).resolve()
            if _inside(path, homes) and not installed(path) and path.is_file():
                sources.add(path)
    if not sources:
        return
    common = Path(os.path.commonpath([path.parent for path in sources]))
    for path in sources:
        if path.stat().st_size <= LARGEST_SOURCE:
            target = folder / path.relative_to(common)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def installed(path: Path) -> bool:
    """Return whether a source file belongs to an installed package, the standard library, or this library."""
    # By name too: the packages of `pip install --user` and of other environments are in no path of sysconfig.
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts) or _inside(path, _library_folders())


@cache
def _library_folders() -> list[Path]:
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parent))
    return [each for folder in folders for each in {Path(folder), Path(folder).resolve()}]


def _inside(path: Path, folders: Any) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _yaml(value: Any, indent: str = "") -> str:
    """Return plain data as block YAML; what is no plain data appears as its ``repr``."""
    if isinstance(value, Mapping):
        lines = []
        for key, part in value.items():
            nested = isinstance(part, (Mapping, list, tuple)) and bool(part)  # an array has no truth
            lines.append(
                f"{indent}{_scalar(str(key))}:"
                + (f"\n{_yaml(part, indent + '  ')}" if nested else f" {_scalar(part)}\n")
            )
        return "".join(lines)
    lines = []
    for part in value:
        if isinstance(part, (Mapping, list, tuple)) and part:
            lines.append(f"{indent}-\n{_yaml(part, indent + '  ')}")
        else:
            lines.append(f"{indent}- {_scalar(part)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        text = float.__repr__(value)
        # YAML 1.1 takes 1e-05 for a string: a number with an exponent needs a point.
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    if value is None or isinstance(value, (int, dict, list, tuple)):  # of the containers, empty ones only
        return json.dumps(value)
    text = str.__str__(value) if isinstance(value, str) else repr(value)
    if isinstance(value, str) and text.isidentifier() and text.lower() not in _YAML_WORDS:
        return text
    return '"' + "".join(_character(character) for character in text) + '"'


def _character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08X}"


_YAML_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "none"}
