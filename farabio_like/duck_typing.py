"""What an object of the user's can do, asked of its class first, so that no object can lead astray or raise.

Some objects answer to every name (clients that send any call to a server, mocks), some raise for a name that they do
not have, some give themselves out for another one (proxies).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from types import BuiltinMethodType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType
from typing import Any

_BOUND = (MethodType, BuiltinMethodType)
_FUNCTIONS = (FunctionType, *_BOUND)
_SLOTS = (GetSetDescriptorType, MemberDescriptorType)  # as Python makes them for ``__dict__``


def is_a(value: Any, classes: type | tuple[type, ...]) -> bool:
    """Return whether an object is an instance of a class, whatever its ``__class__`` says, which `isinstance` asks."""
    return issubclass(type(value), classes)


def are_same(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether two lists hold the very same objects, in the same order."""
    return len(values) == len(others) and all(map(operator.is_, values, others))


def attribute(value: Any, name: str, default: Any = None) -> Any:
    """Return an attribute, `default` where reading it raises anything. Check what comes before you believe it."""
    try:
        return getattr(value, name, default)
    except Exception:  # of a property, or of a __getattr__: a KeyError say
        return default


def own_attributes(value: Any) -> dict[str, Any] | None:
    """Return the ``__dict__`` of an object, None where it has none, or where its class shows that of another one."""
    for cls in type(value).__mro__:
        slot = cls.__dict__.get("__dict__")
        if slot is not None:
            own = slot.__get__(value) if type(slot) in _SLOTS else None
            return own if type(own) is dict else None
    return None


def method(value: Any, name: str) -> Callable[..., Any] | None:
    """Return a method of an object, None where it has none; a class, which has some for its instances, has none.

    One is what the class has, or the object's own ``__dict__``. What ``__getattr__`` gives is believed where it is a
    function of that very name: a wrapper hands on the method of what is inside, a client makes a function for any name.
    """
    kind = type(value)
    if issubclass(kind, type):
        return None
    found = attribute(value, name)
    if not callable(found):
        return None
    if attribute(kind, name) is not None or name in (own_attributes(value) or ()):
        return found
    return found if type(found) in _FUNCTIONS and found.__name__ == name else None


def has_methods(value: Any, *names: str) -> bool:
    """Return whether an object has all of these methods, see `method`."""
    return all(method(value, name) is not None for name in names)


def has_state(value: Any) -> bool:
    """Return whether an object gives its state and takes it back, as torch's objects do.

    By methods that are bound to an object, whose state it is: a mock has others.
    """
    return all(type(method(value, name)) in _BOUND for name in ("state_dict", "load_state_dict"))


def is_method(cls: type, name: str) -> bool:
    """Return whether a class has a method of this name: an attribute of it that a file sets would hide that."""
    return isinstance(getattr(cls, name, None), _FUNCTIONS)
