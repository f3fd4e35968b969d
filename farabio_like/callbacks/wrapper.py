"""Any callback for some loaders, epochs or conditions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .base import EVENTS, LOADER_OF, Callback
from .dispatch import _listener
from .transform import check_loaders

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

# The event that an event is followed by.
_PAIRS = {
    "on_train_epoch_start": "on_train_epoch_end",
    "on_start_training_batch": "on_end_training_batch",
    "on_evaluate_epoch_start": "on_evaluate_epoch_end",
    "on_evaluate_batch_start": "on_evaluate_batch_end",
    "on_test_start": "on_test_end",
    "on_start_test_batch": "on_end_test_batch",
}


class Only(Callback):
    """Enable a callback for some loaders, some epochs, or while a condition holds.

    Each of them filters the events between the start and the end of the run's epochs, and of a test;
    `epochs` does not filter a test, `loaders` not ``on_epoch_end``. Events of the whole run (``on_train_start``,
    ``on_stage_start``, ``on_exception``, ``on_train_end``, ``close``) always come through, so that a callback can
    set up and clean up. An end event follows its start event: a callback that was let in is let out, whatever the
    condition says by then. Only the events that the callback overrides are listened to; its state and its other
    attributes are there as if it had not been wrapped. A `Logger` comes by its ``order``, as other callbacks.

    Parameters
    ----------
    callback : Callback
    loaders : tuple of str, optional
        ``"train"``, ``"valid"``, ``"test"``.
    epochs : int, range, set or list of int, optional
        Numbers of epochs, from 1.
    when : callable, optional
        ``when(trainer) -> bool``, asked at every event that is not an end event.

    Raises
    ------
    ConfigError
        Without any of the three, and for what none of them can be.

    Examples
    --------
    >>> from farabio_like.callbacks.mixing import Mixup
    >>> Only(Mixup(num_classes=10), epochs=range(1, 9)).epochs
    range(1, 9)
    """

    is_wrapper = True

    def __init__(
        self,
        callback: Callback,
        loaders: Iterable[str] | None = None,
        epochs: Any = None,
        when: Callable[[ConvnetTrainer], Any] | None = None,
    ) -> None:
        if not isinstance(callback, Callback):
            raise ConfigError(f"Only({callback!r}): expected a Callback.")
        own = f"Only({type(callback).__name__}(...)"
        if loaders is None and epochs is None and when is None:
            raise ConfigError(f"{own}) filters nothing; write {own}, epochs=range(1, 6)), loaders= or when=.")
        if type(epochs) is int:
            epochs = (epochs,)
        if epochs is not None and not (
            isinstance(epochs, (range, set, frozenset, list, tuple)) and all(type(epoch) is int for epoch in epochs)
        ):
            raise ConfigError(f"{own}, epochs={epochs!r}): expected a number, a range or a set of numbers.")
        if when is not None and not callable(when):
            raise ConfigError(f"{own}, when={when!r}): expected a function of the trainer.")
        self.callback = callback
        self.loaders = None if loaders is None else check_loaders("Only", loaders)
        self.epochs = epochs
        self.when = when
        self.order = callback.order
        self._let_in: dict[str, bool] = {}  # by end event: what its start event was told
        # Methods of the instance: an event that the callback does not override must not look overridden here.
        for event in EVENTS:
            method = _listener(callback, event)
            left_out = self.loaders is not None and LOADER_OF.get(event, self.loaders[0]) not in self.loaders
            if method is not None and not left_out:
                setattr(self, event, partial(self._pass, event, method) if self._filters(event) else method)

    def announces(self) -> dict[str, bool | None] | None:
        """Return what the callback says; it may come in any epoch."""
        return self.callback.announces()

    def close(self) -> None:
        """Close the callback."""
        self.callback.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the callback's state."""
        return self.callback.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.callback.load_state_dict(state)

    def __getattr__(self, name: str) -> Any:
        if name == "callback":  # not there yet: being copied
            raise AttributeError(name)
        return getattr(self.callback, name)

    @staticmethod
    def _filters(event: str) -> bool:
        return event in LOADER_OF or event == "on_epoch_end"

    def _pass(self, event: str, method: Callable[[ConvnetTrainer], Any], trainer: ConvnetTrainer) -> None:
        enabled = self._let_in.pop(event, None)
        if enabled is None:
            enabled = self._enabled(event, trainer)
        if event in _PAIRS and _PAIRS[event] in vars(self):
            self._let_in[_PAIRS[event]] = enabled
        if enabled:
            method(trainer)

    def _enabled(self, event: str, trainer: ConvnetTrainer) -> bool:
        if self.epochs is not None and LOADER_OF.get(event) != "test" and trainer.epoch not in self.epochs:
            return False
        return self.when is None or bool(self.when(trainer))
