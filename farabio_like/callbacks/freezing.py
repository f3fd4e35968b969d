"""Parts of the model that do not learn in some epochs, chosen by the names of their parameters."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import components
from ..errors import ConfigError, closest
from .base import Callback

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def named_parameters(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every parameter of one module or a dict of them with its plain name.

    Names in a dict begin with the key: ``generator.0.weight``. A shared parameter comes under each of its names.
    """
    for prefix, module in _modules(model):
        for key, parameter in module.named_parameters(remove_duplicate=False):
            yield prefix + components.plain_key(module, key), parameter


def _modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(model, Mapping):
        yield from ((f"{key}.", module) for key, module in model.items())
    elif model is not None:
        yield "", model


_OWN_FLAG = "_flag_without_callbacks"  # an attribute of a parameter or layer while its flag is changed


class _Selection(Callback):
    """Gives the chosen parameters another ``requires_grad`` while the training batches of its epochs run."""

    _learns: bool

    def __init__(self, names: str | list[str], until_epoch: int | None = None, from_epoch: int | None = None) -> None:
        own = type(self).__name__
        self.names = [names] if isinstance(names, str) else names
        if not isinstance(self.names, (list, tuple)) or not self.names or not all(type(n) is str for n in self.names):
            raise ConfigError(f"{own}({names!r}): expected a pattern or a list of them, {own}('encoder.*') say.")
        for name, epoch in (("until_epoch", until_epoch), ("from_epoch", from_epoch)):
            if epoch is not None and (type(epoch) is not int or epoch < 1):
                raise ConfigError(f"{own}({names!r}, {name}={epoch!r}): expected the number of an epoch, 1 or more.")
        if until_epoch is not None and from_epoch is not None and until_epoch < from_epoch:
            raise ConfigError(
                f"{own}({names!r}, until_epoch={until_epoch}, from_epoch={from_epoch}) holds in no epoch; "
                f"write until_epoch={from_epoch}, from_epoch={until_epoch}."
            )
        self.until_epoch = until_epoch
        self.from_epoch = from_epoch
        self._changed: list[nn.Parameter | nn.Module] = []  # parameters, and batch norm layers among them

    def on_train_start(self, trainer: ConvnetTrainer) -> None:
        """Check that there are such parameters."""
        self._chosen(trainer)

    def on_train_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Set the flags, in the epochs asked for."""
        first, last = self.from_epoch or 1, self.until_epoch
        if trainer.epoch < first or (last is not None and trainer.epoch > last):
            return
        for _, parameter in self._chosen(trainer):
            self._note(parameter, parameter.requires_grad)
            parameter.requires_grad_(self._learns)
            if not self._learns:
                # An optimizer moves what has a gradient, also one that is old or zero.
                parameter.grad = None
        for prefix, module in _modules(components.model_of(trainer)):
            for key, part in module.named_modules():
                name = prefix + components.plain_key(module, f"{key}.running_mean" if key else "running_mean")
                if isinstance(part, _BatchNorm) and self._matches(name):
                    self._note(part, part.training)
                    part.train(self._learns)

    def on_train_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Give every flag back; the evaluation needs none of them."""
        for part in self._changed:
            flag = vars(part).pop(_OWN_FLAG, None)
            if flag is None:  # given back by another one
                continue
            if isinstance(part, nn.Module):
                part.training = flag
            else:
                part.requires_grad_(flag)
        self._changed = []

    def on_exception(self, trainer: ConvnetTrainer) -> None:
        """Give every flag back."""
        self.on_train_epoch_end(trainer)

    def _note(self, part: nn.Parameter | nn.Module, flag: bool) -> None:
        """Remember a flag where all of these callbacks find it: the first one that changes it knows what it was."""
        vars(part).setdefault(_OWN_FLAG, flag)
        self._changed.append(part)

    def _matches(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)

    def _chosen(self, trainer: ConvnetTrainer) -> list[tuple[str, nn.Parameter]]:
        there = list(named_parameters(components.model_of(trainer)))
        names = [name for name, _ in there]
        for pattern in self.names:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                parts = {name[:end] + ".*" for name in names for end, sign in enumerate(name) if sign == "."}
                raise ConfigError(
                    f"{type(self).__name__}({pattern!r}) matches none of the model's {len(names)} parameters."
                    f"{closest(pattern, [*names, *sorted(parts)], 0.5)} The first are: {', '.join(names[:5])}."
                )
        return [(name, parameter) for name, parameter in there if self._matches(name)]


class Freeze(_Selection):
    """Keep parameters as they are in some epochs.

    They have ``requires_grad=False`` and no gradient from the start of an epoch's training batches to their
    end; batch norm layers among them are in eval mode, so that their statistics stay too. Before the
    evaluation, and however the run ends, everything gets back what it had when the epoch began. Of several
    such callbacks the later one in ``self.callbacks`` wins:
    ``[Freeze("*"), Unfreeze("head.*")]`` trains the head alone.

    Parameters
    ----------
    names : str or list of str
        Patterns (`fnmatch`) for names of parameters: ``"encoder.*"``. For a dict of models, or models that are
        attributes of the trainer, a name begins with the key: ``"generator.*"``. A batch norm layer belongs to
        the part when its ``running_mean`` matches.
    until_epoch : int, optional
        The last epoch, included; None: to the end.
    from_epoch : int, optional
        The first epoch; None: from the beginning.

    Raises
    ------
    ConfigError
        When the run starts, for a pattern that matches nothing, with the nearest name.

    Examples
    --------
    >>> Freeze("encoder.*", until_epoch=3).until_epoch
    3
    """

    _learns = False


class Unfreeze(_Selection):
    """Let parameters learn in some epochs that do not learn otherwise.

    They have ``requires_grad=True`` from the start of an epoch's training batches to their end, batch norm
    layers among them are in train mode; then everything gets back what it had when the epoch began. The
    optimizer must hold them from the beginning.

    Parameters
    ----------
    names : str or list of str
        As for `Freeze`.
    until_epoch : int, optional
        The last epoch, included; None: to the end.
    from_epoch : int, optional
        The first epoch; None: from the beginning.

    Raises
    ------
    ConfigError
        When the run starts, for a pattern that matches nothing, with the nearest name.

    Examples
    --------
    >>> Unfreeze(["encoder.4.*", "encoder.5.*"], from_epoch=4).from_epoch
    4
    """

    _learns = True
