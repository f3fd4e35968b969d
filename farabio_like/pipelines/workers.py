"""The processes of a search: so many at a time, each tries one trial, and is gone on with when it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from .. import version
from ..errors import ConfigError
from . import devices, grid
from .asked import Checked
from .space import as_overrides
from .study import RUNS, VALUES, Claim, Objective, Study, sampler, study_name

OUTPUT = "output.txt"  # beside the lock of a trial
MOST_DEATHS = 3  # of the process of one trial, that are gone on from
POLL, LOOK = 0.05, 1.0  # seconds: for the end of a process, and for work that others have left
LAST_LINES = 5  # of the output of a trial that has failed
CONFIG_ERROR = 2  # the exit status of a trial that the user's mistake has ended
STOPPED = {130, 143}  # and of one that was asked to end
_PACKAGE = Path(version.__file__).resolve().parent.parent

Say = Callable[[str], None]


class Workers:
    """Tries what is wanted.

    Parameters
    ----------
    checked : Checked
    study : Study
        With all that is wanted in it.
    say : callable
        Gets a line for the terminal.
    """

    def __init__(self, checked: Checked, study: Study, say: Say) -> None:
        self.checked = checked
        self.study = study
        self.say = say
        self.slots: dict[int, tuple[Claim, subprocess.Popen[bytes]]] = {}
        self.deaths: dict[int, int] = {}
        self.evaluated: set[int] = set()
        self.mistake = ""  # of the user's, that ends it all
        self.gpus = devices.here().gpus

    def run(self) -> int:
        """Go on until nothing is left, and return the exit status."""
        before = signal.signal(signal.SIGTERM, _interrupted)
        try:
            self._work()
        except KeyboardInterrupt as error:
            self._end()
            self.say(f"stopped. To go on: {self.checked.asked.line(self.checked.asked.search)}")
            return error.args[0] if error.args else 130
        finally:
            self._end()
            signal.signal(signal.SIGTERM, before)
        if self.mistake:
            raise ConfigError(self.mistake)
        return self._summary()

    def _work(self) -> None:
        said, look_at = False, 0.0
        while not self.mistake:
            ended = self._reap()
            free = [n for n in range(self.checked.asked.workers) if n not in self.slots]
            if free and (ended or time.monotonic() >= look_at):
                claimed = self._claim()
                look_at = time.monotonic() + (0 if claimed else LOOK)
                if claimed is not None:
                    self._start(free[0], claimed)
                    continue
                if not self.slots:
                    left = self._left()
                    if not left:
                        return
                    if not said:
                        self.say(f"{len(left)} trials are being tried by another process: waiting for them")
                        said = True
            time.sleep(POLL)

    def _left(self) -> list[FrozenTrial]:
        """Return the trials on this machine that are not at their end."""
        wanted, trials = self.checked.wanted, self.study.trials()
        return [
            trial
            for key, trial in trials.items()
            if key in wanted
            and (trial.state == TrialState.WAITING or (trial.state == TrialState.RUNNING and self.study.is_ours(trial)))
        ]

    def _claim(self) -> Claim | None:
        asked = self.checked.asked
        mine = {claim.number for claim, _ in self.slots.values()}
        return self.study.claim(
            set(self.checked.wanted),
            mine,
            self.checked.space,
            lambda number: sampler(asked.sampler, None if asked.seed is None else asked.seed + number),
            self.checked.run_name,
        )

    def _start(self, slot: int, claim: Claim) -> None:
        asked, checked = self.checked.asked, self.checked
        spec = {
            "parent": os.getpid(),
            "lock": claim.lock,
            "folder": str(checked.folder),
            "runs": str(checked.folder / RUNS),
            "storage": asked.storage,
            "study": study_name(asked.search, checked.epochs),
            "number": claim.number,
            "run": claim.run,
            "file": str(asked.file),
            "overrides": [*checked.overrides, *as_overrides(claim.values)],
            "allow": asked.allow,
            "epochs": checked.epochs,
            "pruner": asked.pruner,
        }
        with open(self.study.lock_path(claim.run).with_name(OUTPUT), "ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.trial"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment(slot),
                pass_fds=[claim.lock],
                start_new_session=True,  # Ctrl-C comes from here, once
            )
        os.close(claim.lock)
        assert child.stdin is not None
        try:
            with child.stdin:
                child.stdin.write(json.dumps(spec).encode())
        except BrokenPipeError:  # it has died at once, which is seen by its status
            pass
        self.slots[slot] = claim, child

    def _environment(self, slot: int) -> dict[str, str]:
        path = [str(_PACKAGE)] if not {"site-packages", "dist-packages"} & set(_PACKAGE.parts) else []
        path += [each for each in [os.environ.get("PYTHONPATH")] if each]
        workers = self.checked.asked.workers
        threads = str(max(1, devices.here().cpus // workers))
        gpus = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus and workers > 1 else {}
        return {
            "OMP_NUM_THREADS": threads,
            **os.environ,
            **({"PYTHONPATH": os.pathsep.join(path)} if path else {}),
            "PYTHONUNBUFFERED": "1",
            **gpus,
        }

    def _reap(self) -> bool:
        """Look after the processes that have ended, and return whether any has."""
        ended = {slot: (claim, child) for slot, (claim, child) in self.slots.items() if child.poll() is not None}
        for slot, (claim, child) in ended.items():
            del self.slots[slot]
            trial = self.study.frozen(claim.number)
            if trial.state.is_finished():
                self.evaluated.add(trial.number)
                self._say_end(trial, claim, child.returncode)
            else:
                self._died(claim, child.returncode)
        return bool(ended)

    def _died(self, claim: Claim, code: int) -> None:
        self.deaths[claim.number] = deaths = self.deaths.get(claim.number, 0) + 1
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with status {code}"
        said = f"the process of trial {claim.number} ({grid.name(claim.values)}) {how}"
        if (code < 0 or code in STOPPED) and deaths <= MOST_DEATHS:
            self.say(f"{said}: it is gone on with")
            return
        self.study.optuna.tell(claim.number, state=TrialState.FAIL, skip_if_finished=True)
        self.evaluated.add(claim.number)
        self.say(f"{said}: it has failed\n{self._last_lines(claim)}")

    def _say_end(self, trial: FrozenTrial, claim: Claim, code: int) -> None:
        text = f"trial {trial.number} ({grid.name(claim.values)})"
        if trial.state == TrialState.FAIL:
            lines = self._last_lines(claim)
            if code == CONFIG_ERROR:
                self.mistake = f"{text} could not be tried:\n{lines}"
            else:
                self.say(f"{text} has failed:\n{lines}")
        elif trial.state == TrialState.PRUNED:
            self.say(f"{text} was pruned after epoch {trial.user_attrs.get('pruned')}")
        else:
            self.say(f"{text}: {values_text(trial, self.checked.goals)}")

    def _last_lines(self, claim: Claim) -> str:
        path = self.study.lock_path(claim.run).with_name(OUTPUT)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join([*(f"  {line}" for line in lines), f"  all of it: {path}"])

    def _end(self) -> None:
        """Ask the processes to end, which write a checkpoint, and wait; a second Ctrl-C kills them."""
        for _, child in self.slots.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        try:
            for _, child in self.slots.values():
                child.wait()
        except KeyboardInterrupt:
            for _, child in self.slots.values():
                child.kill()
                child.wait()
        self.slots.clear()

    def _summary(self) -> int:
        wanted = self.checked.wanted
        trials = {key: trial for key, trial in self.study.trials().items() if key in wanted}
        states = [trial.state for trial in trials.values()]
        failed = sum(state == TrialState.FAIL for state in states)
        parts = [f"{sum(state == TrialState.COMPLETE for state in states)} of {len(wanted)} trials are complete"]
        for state, word in (
            (TrialState.PRUNED, "pruned"),
            (TrialState.FAIL, "failed"),
            (TrialState.RUNNING, "running"),
        ):
            count = sum(each == state for each in states)
            parts += [f"{count} {word}"] if count else []
        nothing = "" if self.evaluated else "nothing was left to evaluate: "
        self.say(nothing + ", ".join(parts))
        say_best(self.study, self.say)
        return 1 if failed else 0


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt(143)


def values_text(trial: FrozenTrial, goals: Sequence[Objective]) -> str:
    """Return the results of a trial."""
    found = ", ".join(f"{goal.name} {value:.6g}" for goal, value in zip(goals, trial.values or [], strict=False))
    return f"{found} in epoch {trial.user_attrs.get('epoch', '?')}"


def say_best(study: Study, say: Say) -> None:
    """Say what the best trials of a study are."""
    for trial in study.best():
        values = grid.name(trial.user_attrs[VALUES] or trial.params)
        say(f"best: {values_text(trial, study.goals)}, trial {trial.number} ({values}), {study.run_folder(trial)}")
