"""The service over HTTP: an application for any ASGI server. Who starts and stops one is in `server`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .jobs import PendingRequest
from .monitor import docs_page, monitor_page
from .openapi import document
from .payloads import CODEC, JSON, NPY, Coded, Rendered, error_body, from_json, from_multipart, from_npy, joined
from .payloads import samples_of as array_samples
from .predictor import RequestError
from .service import Service, refused

KINDS = "multipart/form-data, application/json, application/x-npy, image/* or application/x-codec"
CLIENT_GONE = 499  # nobody sees it but the handlers


class HTTP:
    """The paths of the service.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.settings = service.settings
        token = self.settings.token
        self._expected = None if token is None else token.encode()

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self._behind_token(self.metrics)),
            Route("/monitor", self._behind_token(self.monitor)),
            Route("/monitor/hour", self._behind_token(self.hour)),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.docs),
            Route("/", self.docs),
        ]
        handlers = {HTTPException: _not_here, Exception: _failed}
        return Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]

    async def health(self, request: Request) -> Response:
        """Say that the process is alive."""
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Say whether requests are taken."""
        if self.service.ready:
            return JSONResponse({"status": "ready"})
        return _error(503, "the service is ending" if self.service.draining else "the workers are not set up yet")

    async def metrics(self, request: Request) -> Response:
        """Show the counts."""
        return Response(self.service.metrics_text(), media_type="text/plain; version=0.0.4")

    async def monitor(self, request: Request) -> Response:
        """Show the chart of the last hour."""
        return HTMLResponse(monitor_page())

    async def hour(self, request: Request) -> Response:
        """Return the numbers of the chart."""
        return JSONResponse(self.service.metrics.last_hour())

    async def openapi(self, request: Request) -> Response:
        """Return the description of the paths."""
        return JSONResponse(document(with_token=self._expected is not None))

    async def docs(self, request: Request) -> Response:
        """Show the description."""
        return HTMLResponse(docs_page(document(with_token=self._expected is not None)))

    async def predict(self, request: Request) -> Response:
        """Answer a request."""
        began = time.monotonic()
        items: list[Any] = []
        try:
            self._check_token(request)
            if self.service.draining:
                raise RequestError(503, "the service is ending")
            items, several = self._items(await self._body(request), request.headers.get("content-type", ""))
            as_npy = _wants_npy(request)
            status, answer = await self._answer(request, items, several, as_npy)
        except RequestError as error:
            status, media_type, body = refused(error)
            answer = media_type, body
        except ClientDisconnect:
            status, answer = CLIENT_GONE, (JSON, b"")
        media_type, body = answer
        client = request.client.host if request.client else ""
        self.service.note("http", client, items, began, status, media_type, body)
        return Response(body, status, _headers(status), media_type)

    def _check_token(self, request: Request) -> None:
        if self._expected is not None:
            if not hmac.compare_digest(_secret(request.headers.get("authorization", "")), self._expected):
                raise RequestError(401, "the token is missing or wrong; expected Authorization: Bearer TOKEN")

    def _behind_token(self, page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            try:
                self._check_token(request)
            except RequestError as error:
                return _error(error.status, error.text)
            return await page(request)

        return checked

    async def _body(self, request: Request) -> bytes:
        """Return the body; refuse one that is too long, and one that does not end."""
        most = self.settings.max_body
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise RequestError(413, f"the body has {length} bytes; {most} are allowed")
        task, late = asyncio.current_task(), []

        def end() -> None:
            late.append(True)
            if task is not None:
                task.cancel()

        timer = asyncio.get_running_loop().call_later(self.settings.max_seconds, end)
        parts, size = [], 0
        try:
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    raise RequestError(413, f"the body has more than {most} bytes, which are allowed")
        except asyncio.CancelledError:
            if not late:
                raise
            raise RequestError(408, f"the body has not come within {self.settings.max_seconds:g} seconds") from None
        finally:
            timer.cancel()
        return b"".join(parts)

    def _items(self, body: bytes, content_type: str) -> tuple[list[Any], bool]:
        """Return the items of a body, and whether the answer is a list."""
        kind, _, parameters = content_type.partition(";")
        kind = kind.strip().lower()
        if kind in (JSON, ""):
            return from_json(body)
        if kind == "multipart/form-data":
            files = from_multipart(body, content_type)
            return files, len(files) > 1
        if kind == NPY:
            return array_samples(from_npy(body), *self.service.pool.arrays)
        if kind.startswith("image/"):
            return [body], False
        name, _, codec = parameters.strip().partition("=")
        if kind == CODEC and name == "name" and codec:
            return [Coded(codec.strip('"'), body)], False
        raise RequestError(415, f"the Content-Type is {content_type[:100]!r}; expected {KINDS}")

    async def _answer(self, request: Request, items: list[Any], several: bool, as_npy: bool) -> tuple[int, Rendered]:
        service, seconds = self.service, self.settings.max_seconds
        job = service.submit(items, as_npy)
        watch = asyncio.create_task(self._watch(request, job))
        timer = asyncio.get_running_loop().call_later(
            seconds, job.refuse, 503, f"there was no answer within {seconds:g} seconds"
        )
        try:
            results: Any = await job.done
        except asyncio.CancelledError:
            if not watch.done():  # the server was told to stop at once
                raise
            return CLIENT_GONE, (JSON, b"")
        finally:
            timer.cancel()
            watch.cancel()
            service.pool.abandon(job)
        if results[0][0] == "error":
            return results[0][1], (JSON, results[0][2])
        answers = [(media_type, body) for _, media_type, body in results]
        return 200, joined(answers) if several else answers[0]

    async def _watch(self, request: Request, job: PendingRequest) -> None:
        """Abandon a request when its client goes."""
        with contextlib.suppress(RuntimeError):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.service.pool.abandon(job)


def _wants_npy(request: Request) -> bool:
    """Return whether arrays go out as ``.npy``: asked for, or sent so and nothing else asked for."""
    accept = request.headers.get("accept", "*/*")
    return NPY in accept or (JSON not in accept and request.headers.get("content-type", "").lower().startswith(NPY))


def _secret(header: str) -> bytes:
    """Return the token that a header gives; browsers, for the page, ask for it as the password of anybody."""
    scheme, _, secret = header.encode("latin-1", "replace").partition(b" ")
    if scheme.lower() == b"basic":
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(secret).partition(b":")[2]
    return secret.strip() if scheme.lower() == b"bearer" else b""


def _headers(status: int) -> dict[str, str] | None:
    if status == 401:
        return {"WWW-Authenticate": 'Bearer, Basic realm="the token as password"'}
    return {"Retry-After": "1"} if status in (429, 503) else None


def _error(status: int, text: str) -> Response:
    return Response(error_body(text), status, _headers(status), JSON)


async def _not_here(request: Request, error: HTTPException) -> Response:
    response = _error(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}")
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "the service failed on this request; its log says why")
