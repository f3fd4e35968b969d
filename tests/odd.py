"""Objects that people hang on a trainer, and that answer to names which they do not have, or raise."""

import functools
import weakref
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn


class AnyCall:
    """Makes a function for every name, as wrappers of clients do."""

    def __init__(self):
        self.sent = []

    def __getattr__(self, name):
        def send(*arguments, **options):
            self.sent.append(name)
            return self

        return send


class Partial:
    """The same, by one method that is told the name."""

    def __init__(self):
        self.sent = []

    def _send(self, name, *arguments):
        self.sent.append(name)

    def __getattr__(self, name):
        return functools.partial(self._send, name)


class Itself:
    """Is its own answer to every name and every call, and has no end."""

    def __getattr__(self, name):
        return self

    def __call__(self, *arguments, **options):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self


class Zero:
    """Has a number under every name."""

    def __getattr__(self, name):
        return 0


class Lists:
    """Has a list of things that are no parameter groups under every name."""

    def __getattr__(self, name):
        return [name]


class Missing:
    """Raises the wrong error for a name that it does not have."""

    def __init__(self):
        self.values = {"size": 3}

    def __getattr__(self, name):
        return vars(self)["values"][name]


class Closed:
    """Raises for what it has."""

    def _closed(self, *arguments):
        raise RuntimeError("the connection is closed")

    state_dict = load_state_dict = param_groups = shape = inputs = property(_closed)


class NoClass:
    """Does not even say what it is."""

    @property
    def __class__(self):
        raise RuntimeError("the connection is closed")


class Impostor:
    """Says that it is a module."""

    @property
    def __class__(self):
        return nn.Linear


class Proxy:
    """As wrapt makes them: class, attributes and calls are those of what is inside."""

    def __init__(self, inside):
        object.__setattr__(self, "inside", inside)

    @property
    def __class__(self):
        return type(self.inside)

    @property
    def __dict__(self):
        return self.inside.__dict__

    def __getattr__(self, name):
        return getattr(self.inside, name)

    def __setattr__(self, name, value):
        setattr(self.inside, name, value)

    def __call__(self, *arguments):
        return self.inside(*arguments)


class Wrapper:
    """Hands on what it does not have to what is inside, as wrappers of optimizers do."""

    def __init__(self, inside):
        self.inside = inside

    def __getattr__(self, name):
        if name == "inside":
            raise AttributeError(name)
        return getattr(self.inside, name)


class Owned(nn.Module):
    """A module that holds the trainer."""

    def __init__(self, trainer):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.trainer = trainer


def dead_proxy(trainer):
    return weakref.proxy(AnyCall())


# What to make for a trainer, by name. None of it has a state, or is a part of the training.
ODD = {
    "a function for every name": lambda trainer: AnyCall(),
    "a partial for every name": lambda trainer: Partial(),
    "itself for every name": lambda trainer: Itself(),
    "zero for every name": lambda trainer: Zero(),
    "a list for every name": lambda trainer: Lists(),
    "KeyError": lambda trainer: Missing(),
    "RuntimeError": lambda trainer: Closed(),
    "no class": lambda trainer: NoClass(),
    "impostor": lambda trainer: Impostor(),
    "mock": lambda trainer: mock.Mock(),
    "magic mock": lambda trainer: mock.MagicMock(),
    "mock of a module": lambda trainer: mock.Mock(spec=nn.Linear(1, 1)),
    "mock of an optimizer": lambda trainer: mock.MagicMock(spec=torch.optim.SGD),
    "mock of a tensor": lambda trainer: mock.MagicMock(spec=torch.Tensor),
    "mock of a dict": lambda trainer: mock.MagicMock(spec=dict),
    "autospec": lambda trainer: mock.create_autospec(nn.Linear),
    "proxy of the trainer": weakref.proxy,
    "dead proxy": dead_proxy,
    "wrapt of the trainer": Proxy,
    "class of modules": lambda trainer: nn.Linear,
    "class of optimizers": lambda trainer: torch.optim.Adam,
    "own class": type,
    "module of Python": lambda trainer: nn.functional,
    "bound method": lambda trainer: trainer.stop_train,
    "list of odd things": lambda trainer: [AnyCall(), Itself(), Missing(), Closed(), NoClass(), mock.MagicMock()],
    "dict of odd things": lambda trainer: {
        "a": AnyCall(),
        "b": Impostor(),
        3: dead_proxy(trainer),
        "d": Proxy(trainer),
    },
    "record of odd things": lambda trainer: SimpleNamespace(a=AnyCall(), b=NoClass(), c=Closed(), d=mock.MagicMock()),
}
