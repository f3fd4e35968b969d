"""From a message of a queue to the answer for it, whatever the broker: items go to the service, its answers back."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import FarabioError
from .payloads import CODEC, JSON, NPY, Coded, codec_named, from_npy, joined, samples_of, to_npy
from .predictor import RequestError
from .service import Service, refused

BYTES = "application/octet-stream"


@dataclass
class Message:
    """What goes over a queue, in either direction.

    Parameters
    ----------
    body : bytes
    content_type : str
    headers : dict
        Of a request ``codec``; of an answer ``status`` and, after an error, ``traceback``.
    """

    body: bytes
    content_type: str
    headers: dict[str, Any] = field(default_factory=dict)


class RemoteError(FarabioError, RuntimeError):
    """The service has answered with an error.

    Attributes
    ----------
    status : int
    text : str
    traceback : str
        Of the worker, empty where the service chose its words.
    """

    def __init__(self, status: int, text: str, traceback: str) -> None:
        super().__init__(status, text, traceback)
        self.status, self.text, self.traceback = status, text, traceback

    def __str__(self) -> str:
        return f"{self.text} (status {self.status})" + (f"\n\n{self.traceback}" if self.traceback else "")


class NotNow(Exception):
    """The message is to be given back to the queue: the service is ending."""


def request_of(value: Any, codec: str | None = None) -> Message:
    """Return what is sent for a value.

    Parameters
    ----------
    value : bytes, array, tensor, or plain data
        The bytes of a file, a sample or a batch of them, one item as JSON; anything with a codec.
    codec : str, optional
        A name that `register_codec` was given.
    """
    if codec is not None:
        return Message(codec_named(codec).encode(value), CODEC, {"codec": codec})
    if isinstance(value, bytes | bytearray | memoryview):
        return Message(bytes(value), BYTES)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return Message(to_npy(value), NPY)
    return Message(json.dumps(value).encode(), JSON)


def value_of(answer: Message) -> Any:
    """Return what an answer says: plain data, an array, or the bytes of a picture.

    Raises
    ------
    RemoteError
        Where it is an error.
    """
    status = int(answer.headers.get("status", 200))
    if status >= 400:
        text = str(json.loads(answer.body).get("error", ""))
        raise RemoteError(status, text, str(answer.headers.get("traceback", "")))
    if answer.content_type == JSON:
        return json.loads(answer.body)
    return from_npy(answer.body) if answer.content_type == NPY else answer.body


class Relay:
    """Answers messages with a service.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    def prefetch(self) -> int:
        """How many messages may be under way at once: enough for the batches to be full."""
        settings = self.service.settings
        return settings.prefetch or min(4 * settings.max_batch * settings.workers, settings.max_waiting, 65535)

    async def answer(self, message: Message) -> Message:
        """Return the answer for a message, an error included.

        Raises
        ------
        NotNow
            Where the service is ending, and has not answered it.
        """
        began = time.monotonic()
        items: list[Any] = []
        trace = ""
        try:
            items, several = self._items(message)
            job = self.service.submit(items, message.content_type == NPY)
            try:
                results: Any = await job.done
            finally:
                self.service.pool.abandon(job)
            if results[0][0] == "error":
                _, status, body, trace = results[0]
                kind = JSON
            else:
                answers = [(kind, body) for _, kind, body in results]
                status, (kind, body) = 200, joined(answers) if several else answers[0]
        except RequestError as error:
            status, kind, body = refused(error)
        if status in (429, 503) and (status == 429 or self.service.draining or self.service.pool.failure.done()):
            raise NotNow
        self.service.note("queue", "", items, began, status, kind, body)
        return Message(body, kind, {"status": status, **({"traceback": trace} if trace else {})})

    def _items(self, message: Message) -> tuple[list[Any], bool]:
        settings = self.service.settings
        if len(message.body) > settings.max_body:
            raise RequestError(413, f"the message has {len(message.body)} bytes; {settings.max_body} are allowed")
        if message.content_type == NPY:
            return samples_of(from_npy(message.body), *self.service.pool.arrays)
        if message.content_type == CODEC:
            return [Coded(str(message.headers.get("codec")), message.body)], False
        if message.content_type == BYTES:
            return [message.body], False
        if message.content_type == JSON:
            try:
                return [json.loads(message.body)], False
            except (ValueError, RecursionError):
                raise RequestError(422, "the message is no JSON") from None
        known = f"{JSON}, {NPY}, {BYTES} or {CODEC}"
        raise RequestError(415, f"the content type is {message.content_type[:100]!r}; expected {known}")
