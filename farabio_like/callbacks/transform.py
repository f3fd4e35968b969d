"""Functions that batches go through on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .. import data
from ..errors import ConfigError, DataError, HookError, closest
from .base import LOADER_OF, Callback, CallbackOrder

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

LOADERS = ("train", "valid", "test")


def check_loaders(owner: str, loaders: Any, allowed: tuple[str, ...] = LOADERS) -> tuple[str, ...]:
    """Return the names of loaders as a tuple.

    Raises
    ------
    ConfigError
        For anything but names out of `allowed`.
    """
    if isinstance(loaders, str) or not isinstance(loaders, Iterable):
        raise ConfigError(f"{owner}(loaders={loaders!r}): expected names of loaders, loaders=('{allowed[0]}',) say.")
    names = tuple(loaders)
    for name in names or ("",):
        if name not in allowed:
            raise ConfigError(
                f"{owner}(loaders={names!r}): there is no loader {name!r} for it.{closest(str(name), allowed)} "
                f"There are: {', '.join(allowed)}."
            )
    return names


class BatchTransform(Callback):
    """Send the inputs of every batch through a function, on the device.

    It comes after the hook that takes the batch, and changes ``trainer.inputs`` (and ``trainer.targets``);
    ``trainer.batch`` stays as it came. The test loop takes its batches inside ``test_step``: there the items of
    ``test_loop_iter`` are moved and changed before, which needs pairs, mappings with ``inputs``, or tensors.
    ``predict``, ``train_step`` and ``val_step`` call no callbacks.

    Parameters
    ----------
    function : callable
        ``function(inputs) -> inputs``, or with `targets` ``function(inputs, targets) -> (inputs, targets)``.
        Evaluation and test call it without gradients.
    loaders : tuple of str
        For which loaders: ``"train"``, ``"valid"``, ``"test"``.
    targets : bool
        Whether the function takes and returns the targets too.

    Raises
    ------
    ConfigError
        For something that cannot be called, and for a loader that does not exist.
    HookError
        For a function that returns None, or no pair.

    Examples
    --------
    >>> BatchTransform(lambda images: images.float() / 255, loaders=("train", "valid", "test")).loaders
    ('train', 'valid', 'test')
    """

    order = CallbackOrder.Internal

    def __init__(
        self, function: Callable[..., Any], loaders: Iterable[str] = ("train",), targets: bool = False
    ) -> None:
        if not callable(function):
            raise ConfigError(f"BatchTransform({function!r}): expected a function of the inputs.")
        self.function = function
        self.loaders = check_loaders("BatchTransform", loaders)
        self.targets = targets

    def listens_to(self, event: str) -> bool:
        """Leave out the events of other loaders."""
        return LOADER_OF.get(event) in (None, *self.loaders)

    def on_start_training_batch(self, trainer: ConvnetTrainer) -> None:
        """Change a training batch."""
        self._change(trainer)

    def on_evaluate_batch_start(self, trainer: ConvnetTrainer) -> None:
        """Change a valid batch."""
        self._change(trainer)

    def on_test_start(self, trainer: ConvnetTrainer) -> None:
        """Let the test loop read changed items."""
        trainer.test_loop_iter = _Changed(trainer.test_loop_iter, self, trainer)

    def on_test_end(self, trainer: ConvnetTrainer) -> None:
        """Let go of the trainer."""
        if isinstance(trainer.test_loop_iter, _Changed):
            trainer.test_loop_iter = trainer.test_loop_iter.items

    def _change(self, trainer: ConvnetTrainer) -> None:
        if self.targets:
            trainer.inputs, trainer.targets = self.apply(trainer.inputs, trainer.targets)
        else:
            trainer.inputs, _ = self.apply(trainer.inputs, None)

    def apply(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return inputs and targets as the function makes them."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        if not self.targets:
            changed = self.function(inputs)
            if changed is None:
                raise HookError(f"BatchTransform({name}): the function returned None; expected the new inputs.")
            return changed, targets
        pair = self.function(inputs, targets)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise HookError(
                f"BatchTransform({name}, targets=True): the function returned a {type(pair).__name__}; expected "
                "(inputs, targets)."
            )
        return pair[0], pair[1]


class _Changed:
    """The items of a test loop with changed batches; as lazy and as long as what it wraps."""

    def __init__(self, items: Any, transform: BatchTransform, trainer: ConvnetTrainer) -> None:
        self.items, self.transform, self.trainer = items, transform, trainer

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            batch = self.trainer.to_device(data.batch_of(item))
            changed = self._changed(batch)
            yield (item[0], changed) if isinstance(item, tuple) and data.batch_of(item) is not item else changed

    def _changed(self, batch: Any) -> Any:
        found = data.inputs_and_targets(batch)
        if "inputs" not in found:
            raise DataError(
                f"BatchTransform cannot find the inputs of a test batch, {data.describe_batch(batch)}; expected a "
                "pair, a tensor, or the key 'inputs'. Leave 'test' out of its loaders."
            )
        inputs, targets = self.transform.apply(found["inputs"], found.get("targets"))
        if isinstance(batch, Mapping):
            changed = {**batch, "inputs": inputs}
            return {**changed, "targets": targets} if "targets" in found else changed
        return inputs if batch is found["inputs"] else (inputs, targets)
