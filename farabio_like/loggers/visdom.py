"""`VisdomLogger`: live curves, images and tables on a visdom server; run this file to start one.

    python -m farabio_like.loggers.visdom

It speaks to the server over HTTP by itself, so a machine that only trains does not need the package visdom.
"""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import json
import math
import os
import time
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib import error, request

from torch import Tensor

from ..callbacks.base import Logger
from ..checkpoint import access
from ..config.secrets import Secrets
from ..errors import ConfigError
from ..plots.figure import printable
from ..rundir import layout
from .curves import Curve
from .images import figure_png, grid, png
from .run import numbers_of
from .visdom_server import main

REDRAW_SECONDS = 1.0
TIMEOUT = 2.0  # seconds for one request
PARTS = ("train", "valid", "test")  # what stands before a metric's name, and is one curve in its window
MARGIN = {"l": 55, "r": 20, "t": 45, "b": 60}
COLOURS = {"train": "#1f77b4", "valid": "#ff7f0e", "test": "#2ca02c"}


class VisdomLogger(Logger):
    """Shows a run on a visdom server: a window for each metric, learning rate, images, confusion matrix, texts.

    What is not given here is taken from the trainer's configuration (``visdom_server``, ``visdom_port``,
    ``visdom_env``), else from the environment (``VISDOM_SERVER``, ``VISDOM_PORT``, ``VISDOM_ENV``).
    Windows are sent whole, at most once a second; after a server was away they are all sent again.

    Parameters
    ----------
    server : str, optional
        Default: ``http://127.0.0.1``.
    port : int, optional
        Default: 8097.
    env : str, optional
        The environment of the windows. Default: class and number of the run, ``Digits_3``.
    username, password : str, optional
        For a server with ``-enable_login``; default: ``VISDOM_USERNAME``, ``VISDOM_PASSWORD``.

    Raises
    ------
    ConfigError
        For an address or a port that cannot be.
    """

    def __init__(
        self,
        server: str | None = None,
        port: int | None = None,
        env: str | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.given = {"server": server, "port": port, "env": env}
        self.username = username or os.environ.get("VISDOM_USERNAME")
        self.password = password or os.environ.get("VISDOM_PASSWORD")
        _address(server or "http://127.0.0.1", 8097 if port is None else port)
        self.env = ""
        self.url = ""
        self._forget()

    def __repr__(self) -> str:
        given = (f"{name}={value!r}" for name, value in self.given.items() if value is not None)
        return f"VisdomLogger({', '.join(given)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "opener": None}

    def _forget(self) -> None:
        self.opener: Any = None
        self.curves: dict[str, dict[str, Curve]] = {}  # window: name of the curve
        self.axes: dict[str, str] = {}  # window: what its x axis is
        self.others: dict[str, dict[str, Any]] = {}  # window: what is sent for it
        self.due: set[str] = set()  # windows that changed
        self.unsaved = self.away = False
        self.next_time = 0.0

    def start(self, config: dict[str, Any], run_dir: Path | None) -> None:
        """Find the server's address, and the points of a run that goes on."""
        self._forget()

        def setting(name: str, default: Any) -> Any:
            found = (self.given[name], config.get(f"visdom_{name}"), os.environ.get(f"VISDOM_{name.upper()}"))
            return next((value for value in found if value not in (None, "")), default)

        self.url = _address(setting("server", "http://127.0.0.1"), setting("port", 8097))
        own = f"{run_dir.parent.name}_{run_dir.name}" if run_dir is not None else "main"
        self.env = str(setting("env", own)).replace("/", "_")
        if run_dir is not None:
            self._read(run_dir / layout.METRICS)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add points to the curves; numbers of an epoch lie over the epochs, others over the steps."""
        epoch = values.get("epoch")
        for name, value in values.items():
            if name == "epoch":
                continue
            window, curve = _window_of(name)
            if epoch is None and curve in PARTS:  # an evaluation within an epoch
                window = f"{window} over steps"
            self.axes[window] = "step" if epoch is None else "epoch"
            self.curves.setdefault(window, {}).setdefault(curve, Curve()).add(step if epoch is None else epoch, value)
            self.due.add(window)
        self.unsaved = self.unsaved or epoch is not None

    def images(self, name: str, images: Tensor, step: int) -> None:
        """Show a grid of images."""
        picture = grid(images)
        size = {"width": min(600, picture.shape[2] + 20), "height": min(600, picture.shape[1] + 70)}
        self._picture(name, png(picture), step, size)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Show a figure."""
        self._picture(name, figure_png(figure), step, {"width": 600, "height": 500})

    def matrix(self, name: str, matrix: Any, labels: list[str] | None, step: int) -> None:
        """Show a confusion matrix: row 0, the first true class, on top."""
        counts = matrix.tolist() if hasattr(matrix, "tolist") else [list(row) for row in matrix]
        names = [_plain(str(label)) for label in labels] if labels is not None else [str(n) for n in range(len(counts))]
        data = {"type": "heatmap", "z": counts, "x": names, "y": names, "colorscale": "Blues", "reversescale": True}
        if len(counts) <= 20:
            data["texttemplate"] = "%{z}"
        axis = {"type": "category", "automargin": True}
        layout = {
            "title": _plain(name),
            "margin": MARGIN,
            "xaxis": {**axis, "title": "predicted class"},
            "yaxis": {**axis, "title": "true class", "autorange": "reversed"},
        }
        self._put(name, {"data": [data], "layout": layout, "opts": {"title": name, "width": 460, "height": 420}})

    def text(self, name: str, text: str, step: int) -> None:
        """Show a text as it is: no part of it is taken for HTML."""
        content = f"<pre style='white-space: pre-wrap'>{html.escape(text)}</pre>"
        self._put(name, {"data": [{"type": "text", "content": content}], "opts": {"title": name}})

    def flush(self) -> None:
        """Send the windows that changed, if a second has passed; after epochs, have the server save them."""
        now = time.monotonic()
        # While the server is away the worker waits between two tries; to send nothing would pass for success.
        early = now < self.next_time and not self.away and self.deadline is None
        if early or not (self.due or self.unsaved):
            return
        self.next_time = now + REDRAW_SECONDS
        if self.away:  # it may have been started anew, with nothing
            self.due = {*self.curves, *self.others}
        try:
            for window in sorted(self.due, key=_place):
                self._post("events", {"win": _identifier(window), "eid": self.env, **self._content(window)})
                self.due.discard(window)
            if self.unsaved:
                self._post("save", {"data": [self.env]})
                self.unsaved = False
        except OSError:
            self.away = True
            raise
        self.away = False

    def finish(self, status: str) -> None:
        """Send everything once more, for a server that was started anew and not missed."""
        if not self.away:
            self.due, self.unsaved = {*self.curves, *self.others}, True
            self.flush()

    def _picture(self, name: str, file: bytes, step: int, size: dict[str, int]) -> None:
        content = {"src": f"data:image/png;base64,{base64.b64encode(file).decode()}", "caption": f"step {step}"}
        self._put(name, {"data": [{"type": "image", "content": content}], "opts": {"title": name, **size}})

    def _put(self, window: str, content: dict[str, Any]) -> None:
        self.others[window] = content
        self.due.add(window)

    def _content(self, window: str) -> dict[str, Any]:
        if window not in self.curves:
            return self.others[window]
        data: list[dict[str, Any]] = []
        for name, curve in self.curves[window].items():
            x, y = curve.drawn()
            mode = "lines" if len(x) > 100 else "lines+markers"
            line = {"line": {"color": COLOURS[name]}} if name in COLOURS else {}
            data.append({"type": "scatter", "mode": mode, "name": _plain(name), "x": x, "y": y, **line})
        y_axis: dict[str, Any] = {"title": _plain(window), "automargin": True}
        if window.endswith("lr"):
            y_axis.update(_rate_axis([y for curve in data for y in curve["y"] if y is not None]))
        layout = {
            "title": _plain(window),
            "margin": MARGIN,
            "showlegend": True,
            "xaxis": {"title": self.axes[window], "automargin": True},
            "yaxis": y_axis,
        }
        return {"data": data, "layout": layout, "opts": {"title": window, "width": 420, "height": 320}}

    def _post(self, endpoint: str, body: dict[str, Any]) -> None:
        """Send one request.

        Raises
        ------
        OSError
            If it does not succeed in time.
        """
        if self.opener is None:
            self.opener = self._log_in()
        self._request(self.opener, f"{self.url}/{endpoint}", body)

    def _log_in(self) -> Any:
        # Without the proxies of the environment: the server is near.
        opener = request.build_opener(request.ProxyHandler({}), request.HTTPCookieProcessor(CookieJar()))
        if self.username and self.password:
            hashed = hashlib.sha256(self.password.encode()).hexdigest()
            self._request(opener, self.url, {"username": self.username, "password": hashed})
        return opener

    def _request(self, opener: Any, url: str, body: dict[str, Any]) -> None:
        left = TIMEOUT if self.deadline is None else min(TIMEOUT, self.deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("the run has ended, and the server has not answered")
        asked = request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with opener.open(asked, timeout=left) as answer:
                answer.read()
        except error.HTTPError as refused:
            self.opener = None  # a server that was started anew knows no cookie
            hint = "; it asks for a user and a password" if refused.code == 400 and not self.username else ""
            raise OSError(f"{self.url} answers {refused.code}{hint}") from None
        except http.client.HTTPException as broken:
            raise OSError(f"{self.url}: {type(broken).__name__}: {broken}") from None
        except OSError as problem:
            reason = getattr(problem, "reason", problem)
            raise OSError(f"{self.url}: {reason}") from None

    def _read(self, path: Path) -> None:
        """Take the points of a run that goes on from its record."""
        epoch = 0
        for _, entry in access.lines(path, path.parent):
            epoch = entry.get("epoch", epoch)
            if "test" in entry:  # of the epoch before it
                entry["epoch"] = epoch
            step = entry.get("step", 0)
            if not _is_number(step) or not _is_number(epoch):
                continue
            if "batch" in entry:
                valid = entry.get("valid")
                numbers = valid.items() if isinstance(valid, dict) else ()
                self.scalars({f"valid/{name}": value for name, value in numbers if _is_number(value)}, step)
            elif "epoch" in entry:
                entry = {key: value for key, value in entry.items() if key not in PARTS or isinstance(value, dict)}
                self.scalars({key: value for key, value in numbers_of(entry).items() if _is_number(value)}, 0)
            elif "step" in entry:
                del entry["step"]
                self.scalars({f"running/{key}": value for key, value in entry.items() if _is_number(value)}, step)


def _address(server: Any, port: Any) -> str:
    try:
        number = int(port)
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < 65536:
        raise ConfigError(f"VisdomLogger: port is {port!r}; expected a number from 1 to 65535. Write port=8097.")
    address = str(server).rstrip("/")
    address = address if "://" in address else f"http://{address}"
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"VisdomLogger: server is {Secrets().text(repr(server))}; expected an address: server='http://127.0.0.1'."
        )
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}:{number}{slash}{path}"


def _window_of(name: str) -> tuple[str, str]:
    """Return window and curve of a number: those of train and valid share a window, several learning rates too."""
    first, _, rest = name.partition("/")
    if first in PARTS and rest:
        return rest, first
    if name.startswith(("lr/", "running/lr/")):
        window, _, curve = name.rpartition("lr/")
        return f"{window}lr", curve
    return name, name


def _rate_axis(rates: list[float]) -> dict[str, Any]:
    """Return a log axis for learning rates: on a linear one plotly draws a constant, small one as if it were 0."""
    if not rates or min(rates) <= 0:
        return {}
    few = {"dtick": "D2"} if max(rates) < 100 * min(rates) else {}  # ticks at 1, 2 and 5 of each decade
    return {"type": "log", "exponentformat": "e", **few}


def _plain(name: str) -> str:
    """Return a name as plotly takes it for text: no part of it is a tag or, between two dollars, mathematics."""
    return html.escape(printable(name), quote=False).replace("$", "&#36;")


def _identifier(window: str) -> str:
    """Return the name by which the server knows a window."""
    return f"farabio_{hashlib.sha256(window.encode()).hexdigest()[:16]}"


def _place(window: str) -> tuple[bool, bool, str]:
    """Return where a window comes among the others: the run first, then the loss."""
    return window != "run info", window != "loss", window


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < math.inf and abs(value) < 1e300


if __name__ == "__main__":
    main()
