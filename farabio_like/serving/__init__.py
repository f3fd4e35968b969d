"""A trained model as a service: worker processes behind HTTP, or behind a queue.

`Predictor` and what it raises and returns need no server; `Server` and `QueueClient` are loaded when they are used,
for they need packages of their own. Nothing here trains.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..packages import needs
from .payloads import register_codec
from .predictor import Answer, Predictor, RequestError
from .settings import ServeSettings

if TYPE_CHECKING:
    from .client import QueueClient
    from .relay import RemoteError
    from .server import Server

_MODULES = {"QueueClient": "client", "RemoteError": "relay", "Server": "server"}

__all__ = [
    "Answer",
    "Predictor",
    "QueueClient",
    "RemoteError",
    "RequestError",
    "ServeSettings",
    "Server",
    "register_codec",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        if name == "Server":
            needs("litserve", "farabio_like.serving.Server", extra="serve")
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
