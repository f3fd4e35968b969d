"""The description of the paths as an OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any

from ..version import __version__

_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_REFUSED = {
    "400": "The request is no HTTP that can be read, or the predictor refused it.",
    "401": "The token is missing or wrong.",
    "408": "The body did not come in time.",
    "413": "The body, the picture or the number of items is too large.",
    "415": "The Content-Type is none of those known.",
    "422": "The input cannot be read.",
    "429": "Too many items are waiting.",
    "500": "The model failed on this request.",
    "503": "No answer in time, a worker ended with this request, or the service is ending.",
}
_JSON_INPUT = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"image": {"type": "string", "contentEncoding": "base64"}},
            "required": ["image"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"inputs": {"type": "array", "minItems": 1, "items": {}}},
            "required": ["inputs"],
            "additionalProperties": False,
        },
    ]
}
_FORM = {
    "type": "object",
    "properties": {"file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
    "required": ["file"],
    "additionalProperties": False,
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def document(with_token: bool) -> dict[str, Any]:
    """Return the document.

    Parameters
    ----------
    with_token : bool
        Whether clients need one.
    """
    security: list[Any] = [{"token": []}] if with_token else []
    paths = {
        "/predict": {"post": _predict(security)},
        "/health": {"get": _get("Whether the process is alive.", "application/json", [])},
        "/ready": {"get": _get("Whether requests are taken.", "application/json", [], "503")},
        "/metrics": {"get": _get("Counts and times, for Prometheus.", "text/plain", security)},
        "/monitor": {"get": _get("A page with a chart of the last hour.", "text/html", security)},
        "/monitor/hour": {"get": _get("The numbers of the chart.", "application/json", security)},
    }
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "farabio_like service", "version": __version__},
        "paths": paths,
    }
    if with_token:
        found["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return found


def _get(what: str, media_type: str, security: list[Any], *refusals: str) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": what, "content": {media_type: {}}}}
    for status in (*refusals, *(["401"] if security else [])):
        responses[status] = _refusal(_REFUSED[status])
    return {"summary": what, "security": security, "responses": responses}


def _predict(security: list[Any]) -> dict[str, Any]:
    answers = {"application/json": {}, "application/x-npy": _BINARY, "image/png": _BINARY}
    responses: dict[str, Any] = {"200": {"description": "The answer, or one for each item.", "content": answers}}
    responses.update({status: _refusal(what) for status, what in _REFUSED.items()})
    inputs = {
        "multipart/form-data": {"schema": _FORM},
        "application/json": {"schema": _JSON_INPUT},
        "application/x-npy": _BINARY,
        "image/png": _BINARY,
        "image/jpeg": _BINARY,
    }
    return {
        "summary": "Predict for one item or several.",
        "security": security,
        "requestBody": {"required": True, "content": inputs},
        "responses": responses,
    }


def _refusal(what: str) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": _ERROR}}}
