"""The worker process: sets up a predictor and answers batches until its pipe closes.

Which requests make a batch, and what happens when a worker dies, is the business of `pool`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from ..errors import FarabioError
from .payloads import Coded, codec_named, error_body, render
from .predictor import Predictor, RequestError, checked_outputs

LENGTH = struct.Struct(">Q")

# Of one item: ("ok", media type, body) or ("error", status, body, traceback or "").
Result = tuple[str, Any, bytes] | tuple[str, int, bytes, str]
Item = tuple[Any, bool]  # what was sent, whether arrays are wanted as .npy

FAILED = "the model failed on this request; the log of the server says why"


def framed(message: Any) -> bytes:
    """Return a message of our own processes as bytes; plain data and arrays only."""
    body = pickle.dumps(message, protocol=5)
    return LENGTH.pack(len(body)) + body


def work(
    make: Callable[[], Predictor], channel: socket.socket, device: str, max_pixels: int, threads: int | None
) -> None:
    """Be a worker: the target of the process.

    Parameters
    ----------
    make : callable
        Returns the predictor.
    channel : socket.socket
        To the pool; the worker ends when it closes.
    device : str
    max_pixels : int
    threads : int or None
        Of torch; None leaves them.
    """
    # Ctrl-C and a stop of the whole group reach the workers too; the pool decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if threads is not None:
        torch.set_num_threads(threads)
    stream = channel.makefile("rb")
    predictor = None
    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        predictor = make()
        predictor.device, predictor.max_pixels = device, max_pixels
        predictor.setup()
        predictor._is_set_up = True
    except BaseException as error:
        if not isinstance(error, FarabioError):  # its message says everything
            traceback.print_exc()
        channel.sendall(framed(("broken", describe(error))))
        return
    channel.sendall(framed(("ready", (predictor.array_axes, predictor.takes_pixels))))
    try:
        while header := stream.read(LENGTH.size):
            body = stream.read(*LENGTH.unpack(header))
            came = time.monotonic()
            results = answer_batch(predictor, pickle.loads(body), lambda: channel.sendall(RETRYING))
            channel.sendall(framed(("done", results, came, time.monotonic())))
    except (BrokenPipeError, ConnectionResetError, EOFError, pickle.UnpicklingError):
        pass  # the pool has gone
    finally:
        predictor.close()
        sys.stdout.flush()
        # Threads that a library left must not keep the process.
        os._exit(0)


RETRYING = framed(("retrying",))


def describe(error: BaseException) -> str:
    """Return an error as one line: its class and its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def answer_batch(predictor: Predictor, items: list[list[Item]], retrying: Callable[[], None]) -> list[list[Result]]:
    """Answer the items of some requests together, or request by request where that fails.

    Parameters
    ----------
    predictor : Predictor
    items : list of list
        For each request those of its items that are in this batch.
    retrying : callable
        Called before each request that is tried again alone.

    Returns
    -------
    list of list
        The results, in the same order.
    """
    try:
        return _answered(predictor, items)
    except BaseException as error:
        if len(items) == 1 and len(items[0]) == 1:
            return [[_refused(error)]]
    results = []
    for request in items:
        retrying()
        try:
            results += _answered(predictor, [request])
        except BaseException as error:
            results.append([_refused(error)] * len(request))
    return results


def _answered(predictor: Predictor, items: list[list[Item]]) -> list[list[Result]]:
    """Answer a batch; errors of one item's decoding or encoding are its own, those of predicting are raised."""
    results: list[list[Result]] = [[] for _ in items]
    inputs: list[Any] = []
    where: list[tuple[int, int, bool]] = []
    for row, request in enumerate(items):
        for column, (item, as_npy) in enumerate(request):
            results[row].append(("error", 500, b"", ""))
            try:
                inputs.append(predictor.decode(_decoded(item)))
                where.append((row, column, as_npy))
            except BaseException as error:
                results[row][column] = _refused(error)
    outputs = checked_outputs(predictor, predictor.predict(inputs), len(inputs)) if inputs else []
    for (row, column, as_npy), output in zip(where, outputs, strict=True):
        try:
            results[row][column] = ("ok", *render(predictor.encode(output), as_npy))
        except BaseException as error:
            results[row][column] = _refused(error)
    return results


def _decoded(item: Any) -> Any:
    return codec_named(item.codec).decode(item.data) if isinstance(item, Coded) else item


def _refused(error: BaseException | None) -> Result:
    """Return what a request is answered with after an error: its own words where it chose them, else none."""
    if isinstance(error, RequestError):
        return "error", error.status, error_body(error.text), ""
    status, detail = getattr(error, "status_code", None), getattr(error, "detail", None)
    if isinstance(status, int) and 400 <= status <= 599:  # the HTTPException of FastAPI and Starlette
        return "error", status, error_body(str(detail)), ""
    trace = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError, ValueError):  # nobody reads the log any more
        print(trace, file=sys.stderr, flush=True)
    return "error", 500, error_body(FAILED), trace
