"""Who hears an event: the methods of the callbacks, in their order, and their call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import distributed
from ..errors import ConfigError, HookError
from .base import EVENTS, Callback, FunctionCallback, Logger

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def listeners(callbacks: Any) -> dict[str, list[Callable[[ConvnetTrainer], Any]]]:
    """Return for each event that anything listens to the methods to call, in their order.

    Raises
    ------
    HookError
        For something that is no callback.
    ConfigError
        For a callback that is there twice.
    """
    if isinstance(callbacks, dict):
        callbacks = list(callbacks.values())
    if not isinstance(callbacks, (list, tuple)):
        raise HookError(f"self.callbacks is a {type(callbacks).__name__}; expected a list of callbacks.")
    for index, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            hint = f" Write {callback.__name__}()." if isinstance(callback, type) else ""
            raise HookError(f"self.callbacks[{index}] is {callback!r}; expected a farabio_like.Callback.{hint}")
        if any(innermost(callback) is innermost(other) for other in callbacks[:index]):
            raise ConfigError(
                f"self.callbacks holds the same {type(callback).__name__} twice, the second at [{index}]."
            )
    if not distributed.is_main():  # one rank records
        callbacks = [callback for callback in callbacks if not isinstance(callback, Logger)]
    found: dict[str, list[Callable[[ConvnetTrainer], Any]]] = {}
    for event in EVENTS:
        last = "_end" in event or event == "on_exception"
        ordered = sorted(callbacks, key=lambda c: (isinstance(c, Logger) == last, c.order))
        methods = [_listener(callback, event) for callback in ordered]
        if any(methods):
            found[event] = [method for method in methods if method is not None]
    return found


def innermost(callback: Any) -> Any:
    """Return the callback inside any wrappers."""
    while getattr(type(callback), "is_wrapper", False):
        callback = callback.callback
    return callback


def is_ours(listener: Callable[..., Any]) -> bool:
    """Return whether a listener is the method of a callback that ships."""
    if isinstance(listener, partial):  # of a wrapper, which passes an event on to the method
        listener = listener.args[-1]
    owner = getattr(listener, "__self__", None)
    return type(owner).__module__.startswith(__name__.split(".")[0] + ".")


def _listener(callback: Callback, event: str) -> Callable[[ConvnetTrainer], Any] | None:
    """Return the method of a callback for an event, None where it has none of its own."""
    if isinstance(callback, FunctionCallback):
        return callback.function if callback.event == event else None
    method = getattr(callback, event)
    is_default = getattr(method, "__func__", None) is getattr(Callback, event)
    return None if is_default or not callback.listens_to(event) else method


def fire(trainer: ConvnetTrainer, event: str) -> None:
    """Call the callbacks that listen to an event."""
    try:
        for listener in trainer._run_state.listeners.get(event, ()):
            listener(trainer)
    except BaseException:
        trainer._run_state.failed_event = event
        raise
