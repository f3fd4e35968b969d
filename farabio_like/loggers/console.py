"""The terminal: a header, one aligned line per epoch, a bar while a loader is read, a closing line.

Lines go to stdout, the bar to stderr. Where no bar is seen, a plain line a minute says that a long pass goes on.
Nothing is wider than 80 columns, except a path that is; there are no colours. Output that cannot be written (a closed
pipe, a full disk, a character that the encoding lacks) ends no training.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from .. import distributed
from ..errors import printable

WIDTH = 80
NUMBER = 9  # of them a metric's value takes
REDRAW_SECONDS = 0.1
NARROWEST_BAR = 5
HEARTBEAT_SECONDS = 60.0
LOOK_SECONDS = 5.0  # how often a heartbeat looks at the clock


class Console:
    """Prints a run.

    Parameters
    ----------
    verbose : bool
        Without it nothing is printed, the bar excepted.
    use_tqdm : bool or None
        None shows a bar where stderr is a terminal or a notebook.
    """

    def __init__(self, verbose: bool = True, use_tqdm: bool | None = None) -> None:
        self.verbose = verbose
        self.use_tqdm = use_tqdm
        self.problem: str | None = None  # why something could not be shown: what came first
        self.monitor: str | None = None  # this metric is shown first, after the loss
        self._known: set[tuple[str, str]] = set()
        self._columns: list[tuple[str, str, int]] = []
        self._first = 0
        self._digits = 0
        self._said: set[str] = set()
        self._epochs: list[float] = []  # seconds of those that this process trained
        self._epochs_left = 0
        self._epoch_ended = 0.0

    def line(self, text: str = "") -> None:
        """Print one line."""
        if self.verbose and distributed.is_main():
            self.note(write_line(printable(text, "\n"), sys.stdout))  # it may have words of a file

    def note(self, problem: str | None) -> None:
        """Remember why something could not be shown, None where all was."""
        self.problem = self.problem or problem

    def once(self, text: str) -> None:
        """Print a line, the first time that it is asked for."""
        if text not in self._said:
            self._said.add(text)
            self.line(text)

    def metrics(self, title: str, metrics: Mapping[str, Any]) -> None:
        """Print the single numbers of one pass over a loader, in as many lines as they need."""
        text = title
        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                part = f"  {printable(name)} {number(value)}"
                if len(text) + len(part) > WIDTH:
                    self.line(text)
                    text = " " * len(title)
                text += part
        self.line(text)

    def epoch(self, entry: Mapping[str, Any], last_epoch: int, best: bool) -> None:
        """Print the line of an epoch; the headings come before the first one and when the metrics change."""
        self._epochs.append(entry["seconds"])
        self._epochs_left = last_epoch - entry["epoch"]
        self._epoch_ended = perf_counter()
        if not self.verbose:
            return
        if len(str(last_epoch)) > self._digits or not set(_columns(entry)) <= self._known:
            self._lay_out(_columns(entry), last_epoch)
        cells = [f"{entry['epoch']:>{len(str(last_epoch))}}/{last_epoch}".rjust(self._first)]
        for part, name, width in self._columns:
            value = entry.get(part, {}).get(name)
            cells.append((number(value) if isinstance(value, (int, float)) else "-").rjust(width))
        cells += [rate(entry.get("lr")).rjust(8), seconds(entry["seconds"]).rjust(6)]
        self.line("  ".join(cells) + (" *" if best else ""))

    def _lay_out(self, found: list[tuple[str, str]], last_epoch: int) -> None:
        """Choose the metrics that fit, train and valid of the same name together, and print the headings."""
        self._known = set(found)
        self._digits = len(str(last_epoch))
        self._first = max(5, 2 * len(str(last_epoch)) + 1)
        room = WIDTH - self._first - len("        lr") - len("    time") - len(" *")
        chosen: list[tuple[str, str, int]] = []
        names = dict.fromkeys(name for _, name in found)
        for name in sorted(names, key=lambda name: (name != "loss", name != self.monitor)):
            width = min(max(len(printable(name)), NUMBER), 16)
            same = [(part, name, width) for part, other in found if other == name]
            room -= len(same) * (width + 2)
            if room < 0:
                break
            chosen += same
        self._columns = sorted(chosen, key=lambda column: column[0] != "train")
        top, bottom, previous = " " * self._first, "epoch".rjust(self._first), None
        for part, name, width in self._columns:
            top += "  " + (part if part != previous else "").rjust(width)
            shown = printable(name)
            bottom += "  " + (shown if len(shown) <= width else shown[: width - 1] + "~").rjust(width)
            previous = part
        self.line(f"\n{top.rstrip()}\n{bottom}  {'lr':>8}  {'time':>6}")
        if len(found) > len(chosen):
            self.line(f"({len(found) - len(chosen)} more columns do not fit here; they are in the history)")

    def seconds_left(self) -> float | None:
        """Return the seconds that the run will still take, by the mean of its epochs; None before the first one."""
        if not self._epochs or self._epochs_left <= 0:
            return None
        mean = sum(self._epochs) / len(self._epochs)
        return max(0.0, self._epochs_left * mean - (perf_counter() - self._epoch_ended))

    def bar(self, name: str, total: int | None, epoch: str, timed: bool = False) -> Bar | None:
        """Return a bar for one pass over a loader, None where none is wanted.

        Parameters
        ----------
        name : str
            Of the loader.
        total : int or None
            Number of batches.
        epoch : str
            Put before the name.
        timed : bool
            Say how long the run will still take.
        """
        wanted = _draws_bars(sys.stderr) if self.use_tqdm is None else self.use_tqdm
        if not wanted or not distributed.is_main():
            return None
        return Bar(f"{epoch} {name}", total, self.seconds_left if timed else None, self.note)

    def heartbeat(self, name: str, total: int | None, epoch: str, timed: bool = False) -> Heartbeat | None:
        """Return what prints a line a minute during one pass over a loader, None where a terminal shows a bar."""
        seen = _is_terminal(sys.stdout) and self.use_tqdm is not False and _draws_bars(sys.stderr)
        if not self.verbose or not distributed.is_main() or seen or _is_notebook(sys.stdout):
            return None
        return Heartbeat(self, f"{epoch} {name}".strip(), total, self.seconds_left if timed else None)


class Bar:
    """A transient tqdm bar that looks at the clock itself: a tick that draws nothing costs 0.1 us.

    It appears after `REDRAW_SECONDS`, so a pass that is over by then shows none.
    """

    def __init__(
        self,
        text: str,
        total: int | None,
        seconds_left: Callable[[], float | None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.text = text.strip()
        self.seconds_left = seconds_left
        self.note = note  # is told why the bar cannot be drawn
        self.total = total
        self.bar: Any = None
        self.pending = 0
        self.started = perf_counter()
        self.due = self.started + REDRAW_SECONDS

    def tick(self) -> None:
        """Count one batch, and draw at most ten times a second."""
        self.pending += 1
        if perf_counter() >= self.due:
            self.draw()

    def draw(self) -> None:
        """Draw what was counted; where that cannot be done, no bar is drawn from now on."""
        try:
            self._draw()
        except Exception as error:  # whatever a stream raises that stands for the terminal
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.bar, self.due = None, math.inf
        if self.note is not None:
            self.note(f"the bar cannot be drawn on stderr ({type(error).__name__}: {error})")

    def _draw(self) -> None:
        if self.bar is None:
            kind = _tqdm(self.seconds_left)
            self.bar = kind(total=self.total, desc=self.text, leave=False, dynamic_ncols=True, mininterval=0)
            # Its rate counts from the first batch, not from here.
            self.bar.start_t = self.bar.start_t - (perf_counter() - self.started)
            self.bar.last_print_t = self.bar.start_t
        self.bar.update(self.pending)
        self.pending = 0
        self.due = perf_counter() + REDRAW_SECONDS

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            try:
                self.bar.close()
            except Exception as error:
                self._give_up(error)


def _tqdm(seconds_left: Callable[[], float | None] | None) -> Any:
    """Return a class of bars that end with the time that the run will still take, where that fits."""
    from tqdm.auto import tqdm

    class Transient(tqdm):
        monitor_interval = 0  # without the thread by which tqdm watches its bars: it would outlive the run

        @property
        def format_dict(self) -> dict[str, Any]:
            shown = super().format_dict
            left = seconds_left() if seconds_left is not None else None
            if left is not None:
                shown["postfix"] = f"run {seconds(left)}"
                width = shown["ncols"] if isinstance(shown["ncols"], int) else math.inf
                if len(self.format_meter(**{**shown, "ncols": 0})) + NARROWEST_BAR > width:
                    shown["postfix"] = None  # tqdm would cut it off in the middle
            return shown

    return Transient


class Heartbeat:
    """Prints a line when a pass lasts. The loop compares two numbers per batch, and calls `look` now and then."""

    def __init__(
        self, console: Console, text: str, total: int | None, seconds_left: Callable[[], float | None] | None
    ) -> None:
        self.console = console
        self.text = text
        self.total = total
        self.seconds_left = seconds_left
        self.started = self.printed = perf_counter()

    def look(self, done: int) -> int:
        """Print a line when one is due, and return after how many batches to look again.

        Parameters
        ----------
        done : int
            Batches so far, 1 at least.
        """
        now = perf_counter()
        passed = now - self.started
        if now - self.printed >= HEARTBEAT_SECONDS:
            self.printed = now
            total = f"/{self.total}" if self.total else ""
            text = f"{self.text}: {done}{total} batches, {seconds(passed)}"
            if self.total and self.total >= done:
                text += f", {seconds(passed / done * (self.total - done))} left"
            left = self.seconds_left() if self.seconds_left is not None else None
            run = "" if left is None else f", run {seconds(left)} left"
            self.console.line((text + run if len(text + run) <= WIDTH else text)[:WIDTH])
        # Twice as many batches at most: the first ones may be quicker than the rest.
        return done + max(1, min(done, int(LOOK_SECONDS * done / passed) if passed > 0 else done))


def write_line(text: str, stream: Any) -> str | None:
    """Print a line, in characters that the stream has; return why it could not be shown as it is, None where it was.

    Parameters
    ----------
    text : str
    stream : text stream or None
        ``sys.stdout`` or ``sys.stderr``, which a program without a terminal may not have.
    """
    problem = None
    try:
        if stream is not None:
            try:
                print(text, file=stream, flush=True)
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                problem = f"the output has characters that its encoding {encoding} lacks; they are escaped"
                print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
        return problem
    except (OSError, ValueError) as error:  # ValueError: it is closed
        if isinstance(error, BrokenPipeError):
            _close_quietly(stream)
        return f"the output cannot be written ({type(error).__name__}: {error}); the run goes on without it"


def _close_quietly(stream: Any) -> None:
    """Send what is still written to a pipe that nobody reads to the null device: Python's exit would fail on it."""
    with contextlib.suppress(OSError, ValueError):  # it stands for no file
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def _is_notebook(stream: Any) -> bool:
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def _draws_bars(stream: Any) -> bool:
    return _is_terminal(stream) or _is_notebook(stream)


def _columns(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return part and name of every single number in a history entry."""
    return [
        (part, name)
        for part in ("train", "valid")
        for name, value in entry.get(part, {}).items()
        if isinstance(value, (int, float))
    ]


def number(value: float) -> str:
    """Return a metric in at most 9 characters."""
    if not math.isfinite(value):
        return str(value)
    styles = (".4f", ".3f", ".2e") if value == 0 or 1e-3 <= abs(value) < 1e4 else (".2e", ".1e")
    return next(text for style in styles if len(text := f"{value:{style}}") <= NUMBER)


def rate(lr: Any) -> str:
    """Return a learning rate, or the first of several, in at most 8 characters."""
    while isinstance(lr, (Mapping, list)):
        lr = next(iter(lr.values() if isinstance(lr, Mapping) else lr), None)
    return "-" if lr is None else f"{lr:.2e}"


def seconds(value: float) -> str:
    """Return a duration as 1.2s, 3m05s or 2h07m."""
    if value < 60:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
