"""Methods of a module that compute, called from outside of it: run as its forward is, by whatever wraps that."""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn


class Forwarded:
    """A method of a module, run in the place of its forward.

    Parameters
    ----------
    wrapper : nn.Module
        Is called. It holds the module, or is it.
    method : MethodType
    """

    def __init__(self, wrapper: nn.Module, method: MethodType) -> None:
        self.wrapper = wrapper
        self.method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method."""
        method, module = self.method, cast(nn.Module, self.method.__self__)
        own = module.__dict__.get("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            restore()
            return method(*args, **kwargs)

        def restore() -> None:
            module.__dict__.pop("forward", None)
            if own is not None:
                module.__dict__["forward"] = own

        module.__dict__["forward"] = forward
        try:
            return self.wrapper(*args, **kwargs)
        finally:
            if module.__dict__.get("forward") is forward:
                restore()


class FromOutside:
    """A method that runs as `Forwarded` where it gets a tensor and the module's forward is not under way.

    Parameters
    ----------
    method : MethodType
    depth : list of int
        How many calls of the module are under way.
    """

    def __init__(self, method: MethodType, depth: list[int]) -> None:
        self.method = method
        self.depth = depth

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method."""
        computes = any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        if self.depth[0] or not computes:
            return self.method(*args, **kwargs)
        return Forwarded(cast(nn.Module, self.method.__self__), self.method)(*args, **kwargs)


def forward_methods(module: nn.Module) -> None:
    """Let all methods that a module's own classes have run as its forward where they are called from outside."""
    depth = [0]

    def enters(*_: Any) -> None:
        depth[0] += 1

    def leaves(*_: Any) -> None:
        depth[0] -= 1

    module.register_forward_pre_hook(enters)
    module.register_forward_hook(leaves, always_call=True)
    for name, _ in inspect.getmembers(type(module), inspect.isfunction):
        if not name.startswith("_") and not hasattr(nn.Module, name):
            method = getattr(module, name)
            if isinstance(method, MethodType):  # not a static one
                module.__dict__[name] = FromOutside(method, depth)
