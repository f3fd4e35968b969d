"""`RunDir`: the folder of a run that is made, locked, described, and given its numbers line by line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import stat
import sys
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .. import distributed
from ..checkpoint import access
from ..checkpoint.files import write_text
from ..checkpoint.plain import finite, written
from ..config.secrets import Secrets, masked_state
from ..errors import CheckpointError, ConfigError, printable
from ..metrics.direction import Best
from . import environment, layout
from .runs import new_folder

LONGEST_HOLDER = 200  # characters that are shown of who holds a lock


class RunDir:
    """A folder ``<logdir>/<class name>/<number>`` that belongs to one run.

    Parameters
    ----------
    logdir : str or Path
    owner : type
        The trainer's class.
    name : str, optional
        In place of the number; of a folder that may be there.

    Raises
    ------
    ConfigError
        If the folder cannot be made.
    """

    def __init__(self, logdir: str | Path, owner: type, name: str | None = None) -> None:
        # Absolute, from each machine's own working folder: a hook may change that.
        self.path = Path(distributed.from_main(lambda: str(new_folder(logdir, owner, name)))).absolute()
        self.owner = owner
        self._lock: IO[str] | None = None
        self._noted: set[str] = set()

    @classmethod
    def at(cls, path: Path, owner: type) -> RunDir:
        """Return the folder of a run that goes on."""
        found = cls.__new__(cls)
        found.path, found.owner, found._lock, found._noted = path.absolute(), owner, None, set()
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

        path = self.path / layout.LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not lockf, whose lock is gone as soon as anything in this process has read the file, to copy the folder say.
        lock = _open_lock(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                lock.close()  # its holder has removed it meanwhile
                return self.hold()
        except OSError as error:
            lock.seek(0)
            holder = printable(lock.read(LONGEST_HOLDER))
            lock.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(
                    f"the run {self.path} is being trained by another process ({holder}). Wait until that has ended, "
                    "or end it; both would write the same files."
                ) from None
            warnings.warn(
                f"the file system of {self.path} has no locks ({error.strerror}): nothing keeps another process from "
                "training this run too, and writing the same files.",
                stacklevel=2,
            )
            return
        lock.truncate(0)
        lock.write(f"number {os.getpid()} on {platform.node()}")
        lock.flush()
        self._lock = lock
        _held.add(self)

    def check(self) -> None:
        """Look for what would be written to outside of the folder, by a run that goes on in one of a stranger.

        Raises
        ------
        ConfigError
            For a link that leads out of the folder, and for what is no file where a run writes one.
        """
        # What is written under another name and renamed takes the place of a link; these are written to.
        found = [self.path / name for name in (layout.METRICS, layout.LOCK, layout.CHECKPOINTS, layout.PLOTS)]
        found += [path for pattern in ("*.jsonl", "*.csv") for path in self.path.glob(pattern)]
        for name in (layout.LAST, layout.BEST):
            if (self.path / layout.CHECKPOINTS / name).is_dir():
                found.append(self.path / layout.CHECKPOINTS / name)
        for path in found:
            is_folder = path.name in (layout.CHECKPOINTS, layout.PLOTS)
            if access.leads_out(path, self.path):
                said = "is a link that leads out of it"
            elif os.path.lexists(path) and not (path.is_dir() if is_folder else path.is_file()):
                said = f"is no {'folder' if is_folder else 'regular file'}"
            else:
                continue
            raise ConfigError(
                f"the run folder {self.path} cannot be gone on with: {path.name} {said}. Go on from a checkpoint of "
                "it elsewhere: copy that, and train(resume=path)."
            )

    def release(self) -> None:
        """Let other processes train this run."""
        lock, self._lock = self._lock, None
        _held.discard(self)
        if lock is not None:
            with contextlib.suppress(OSError):  # of a disk that has gone: what ended the run comes out
                (self.path / layout.LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                lock.close()

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.path / layout.CHECKPOINTS / layout.BEST

    @property
    def last(self) -> Path:
        """The weights of the last epoch."""
        return self.path / layout.CHECKPOINTS / layout.LAST

    @property
    def weights(self) -> Path:
        """The weights alone, for use elsewhere."""
        return self.path / layout.WEIGHTS

    def describe(self, config: Mapping[str, Any], settings: Mapping[str, Any], code: bool = True) -> None:
        """Write what is run: ``config.yaml``, ``environment.json`` and the code; in the first two no secrets."""
        if not distributed.is_main():
            return
        from .config_file import to_yaml

        # As plain data first: what an object shows of itself is looked through too.
        known = Secrets(config, settings, arguments=sys.argv)
        body = {"class": self.owner.__qualname__, **known.values(written({"config": config, "settings": settings}))}
        text = json.dumps(environment.environment(known), indent=2)
        try:
            (self.path / layout.CONFIG).write_text(to_yaml(body), encoding="utf-8")
            (self.path / layout.ENVIRONMENT).write_text(text + "\n", encoding="utf-8")
            if code:
                environment.copy_code(self.owner, self.path / layout.CODE)
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} cannot be written: {error.strerror or error}. "
                "Make room, or choose another place by _logdir."
            ) from error

    def describe_input(self, description: Mapping[str, Any]) -> None:
        """Write how a picture becomes an input, and what the outputs mean: ``input.json``."""
        if not distributed.is_main():
            return
        try:
            write_text(self.path / layout.INPUT, json.dumps(description, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"the run folder {self.path} cannot be written: {error.strerror or error}.") from error

    def rewind(
        self,
        history: list[dict[str, Any]],
        step: int,
        best: Best | None = None,
        under_way: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Make the epochs in ``metrics.jsonl`` those of a history: a killed run may have come further, or not so far.

        So are the evaluations within epochs, those of the epoch `under_way` among them. Lines of steps after `step` go
        too, and one that was cut off in the middle. Other lines stay. A line that is missing says whether it is of the
        `best`.
        """
        path = self.path / layout.METRICS
        epochs = {entry["epoch"] for entry in history}
        missing = [record for entry in history for record in entry.get("evaluations", ())] + list(under_way)
        kept: list[dict[str, Any]] = []
        for _, entry in access.lines(path, self.path):
            epoch, of_step = entry.get("epoch"), entry.get("step", 0)
            if "batch" in entry:
                same = next((record for record in missing if _is_same(record, entry)), None)
                if same is None:
                    continue
                missing.remove(same)
            elif "train" in entry and (type(epoch) is not int or epoch not in epochs):
                continue
            elif not isinstance(of_step, (int, float)) or of_step > step:
                continue
            kept.append(entry)
        known = {entry.get("epoch") for entry in kept if "train" in entry}
        for entry in history:
            within = [record for record in missing if record["epoch"] <= entry["epoch"]]
            missing = [record for record in missing if record not in within]
            kept += [_evaluation_line(record, best) for record in within]
            if entry["epoch"] not in known:
                is_best = best is not None and (best.epoch, best.step) == (entry["epoch"], None)
                kept.append(finite({**epoch_line(entry), "best": is_best}))
        kept += [_evaluation_line(record, best) for record in missing]
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``; it is in the hands of the system when this returns."""
        if not distributed.is_main():
            return
        path = self.path / layout.METRICS
        self._notice_move()
        try:
            append_line(path, masked_state(entry, Secrets()))  # a hook may have added anything
        except OSError as error:
            raise CheckpointError(f"cannot write {layout.shown(path)}: {error.strerror or error}.") from error

    def note(self, text: str) -> None:
        """Add a line to ``notes.txt``, once and where that can be done: what cannot be said anywhere else."""
        if text in self._noted or not distributed.is_main():
            return
        self._noted.add(text)
        with contextlib.suppress(OSError):
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.path / layout.NOTES, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def _notice_move(self) -> None:
        """Warn, once, that the folder which this process holds is no longer where its files go."""
        if self._lock is None:
            return
        try:
            there = os.path.samestat(os.fstat(self._lock.fileno()), (self.path / layout.LOCK).stat())
        except OSError:
            there = False
        text = f"the run folder {self.path} was moved or deleted while the run goes on: its next files make it anew"
        if not there and text not in self._noted:
            self.note(text)
            warnings.warn(text, stacklevel=4)


def is_held(path: Path) -> bool:
    """Return whether a process trains the run in a folder."""
    if os.name == "nt" or not (path / layout.LOCK).is_file():
        return False
    import fcntl

    try:
        lock = _open_lock(path / layout.LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            lock.close()
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


_held: weakref.WeakSet[RunDir] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Close the locks in a process that was forked, a loader's worker say: they end with the process that trains."""
    for folder in list(_held):
        lock, folder._lock = folder._lock, None
        if lock is not None:
            lock.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def epoch_line(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an epoch of the history without the evaluations within it, which have lines of their own."""
    return {name: value for name, value in entry.items() if name != "evaluations"}


def _evaluation_line(record: Mapping[str, Any], best: Best | None) -> dict[str, Any]:
    is_best = best is not None and (best.epoch, best.step) == (record["epoch"], record["step"])
    return finite({**record, "best": is_best})


def _is_same(record: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Return whether a line is that of an evaluation."""
    same = all(record[name] == line.get(name) for name in ("epoch", "step", "batch"))
    return same and isinstance(line.get("valid"), dict) and line["valid"].keys() == record["valid"].keys()


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line of JSON to a file; it is in the hands of the system when this returns.

    The thread of a run and that of a logger may add to one file at once: a line is one write. After one that was cut
    off, by a disk that was full, a new line begins.

    Parameters
    ----------
    path : Path
        Made, with its folder, where it is not there: somebody may have deleted it, and the run goes on.
    entry : mapping of str to plain data
        What is none appears as its ``repr``, and numbers that are not finite as strings.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(finite(entry)) + "\n").encode()
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def _open_lock(path: Path) -> IO[str]:
    """Open the file of a lock, made where it is not there; never what a link leads to, nor a pipe, which would wait."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is no regular file", str(path))
    return open(descriptor, "a+", encoding="utf-8", errors="replace")
