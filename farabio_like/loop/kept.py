"""What callbacks and a subclass have gathered in a pass, given back after a pass of the same kind within it.

They begin anew when a pass starts, so one within another would leave its own numbers in the place of theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import components
from ..callbacks.base import Logger
from ..callbacks.dispatch import innermost
from ..config.settings import SETTINGS
from ..duck_typing import own_attributes
from ..resume.attributes import _NOT_COMPONENTS

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

LARGEST = 1 << 22  # elements of a tensor or an array whose content is given back
DEEPEST = 3  # objects within objects


@contextlib.contextmanager
def running_values_kept(trainer: ConvnetTrainer) -> Iterator[None]:
    """Give back what the attributes of the callbacks and of the subclass were.

    What was only added to a list, a dict or a set stays: that is a record of what was measured, no value on its way.
    """
    own = {name: value for name, value in vars(trainer).items() if name not in {*SETTINGS, *_NOT_COMPONENTS}}
    packages = {"__main__", type(trainer).__module__.partition(".")[0]}  # whose objects are records of the user's
    backs = [_attributes_back(vars(trainer), own, packages)]
    for callback in components.each(trainer.callbacks, list, tuple):
        for each in {id(part): part for part in (callback, innermost(callback))}.values():
            if not isinstance(each, Logger):
                backs.append(_attributes_back(vars(each), dict(vars(each)), packages))
    try:
        yield
    finally:
        for back in backs:
            back()


def _attributes_back(
    table: dict[str, Any], before: dict[str, Any], packages: set[str], depth: int = 1
) -> Callable[[], None]:
    found = [_content_back(value, packages, depth) for value in before.values()]
    contents = [content for content in found if content is not None]

    def back() -> None:
        for content in contents:
            content()
        table.update({name: value for name, value in before.items() if table.get(name) is not value})

    return back


def _content_back(value: Any, packages: set[str], depth: int) -> Callable[[], None] | None:
    if isinstance(value, (nn.Module, type)) or depth > DEEPEST:
        return None
    if isinstance(value, Tensor):
        return _tensor_back(value) if value.numel() <= LARGEST and not value.requires_grad else None
    if isinstance(value, np.ndarray):
        return _array_back(value) if value.size <= LARGEST else None
    if type(value) is list:
        return _list_back(value)
    if type(value) in (dict, set):
        return _table_back(value)
    table = own_attributes(value)
    if table is None or "_run_state" in table or type(value).__module__.partition(".")[0] not in packages:
        return None
    return _attributes_back(table, dict(table), packages, depth + 1)


def _tensor_back(tensor: Tensor) -> Callable[[], None]:
    content = tensor.detach().clone()

    def back() -> None:
        if not torch.equal(tensor, content):
            with torch.no_grad():
                tensor.copy_(content)

    return back


def _array_back(array: np.ndarray) -> Callable[[], None]:
    content = array.copy()

    def back() -> None:
        array[...] = content

    return back


def _list_back(values: list[Any]) -> Callable[[], None]:
    content = list(values)

    def back() -> None:
        added = len(values) >= len(content) and all(a is b for a, b in zip(values, content, strict=False))
        if not added:
            values[:] = content

    return back


def _table_back(table: Any) -> Callable[[], None]:
    content = table.copy()

    def back() -> None:
        if isinstance(table, set):
            added = content <= table
        else:
            added = all(table.get(name, content) is value for name, value in content.items())
        if not added:
            table.clear()
            table.update(content)

    return back
