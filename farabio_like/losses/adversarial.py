"""Losses of generative adversarial networks, and what keeps a discriminator's gradient small.

They take the logits of a discriminator. Whose gradients move which weights is up to a trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, DataError, closest

Kind = Literal["standard", "hinge", "wasserstein", "least_squares", "relativistic"]
Logits = Tensor | Sequence[Tensor]


class AdversarialLoss(nn.Module):
    """The two losses of a GAN, from the logits ``r`` of real and ``f`` of generated samples.

    With ``s(x) = log(1 + exp(x))``, and ``E`` the mean over all logits:

    ================= ================================ ================================
    kind              discriminator                    generator
    ================= ================================ ================================
    ``standard``      ``(E s(-r) + E s(f)) / 2``       ``E s(-f)``
    ``hinge``         ``E max(0,1-r) + E max(0,1+f)``  ``-E f``
    ``wasserstein``   ``E f - E r``                    ``-E f``
    ``least_squares`` ``(E (r-1)^2 + E f^2) / 2``      ``E (f-1)^2 / 2``
    ``relativistic``  ``(E s(Ef-r) + E s(f-Er)) / 2``  ``(E s(r-Ef) + E s(Er-f)) / 2``
    ================= ================================ ================================

    Standard: Goodfellow et al., "Generative Adversarial Nets", NIPS 2014, the generator's as it does not saturate.
    Hinge: Lim and Ye, "Geometric GAN", 2017. Wasserstein: Arjovsky et al., "Wasserstein GAN", ICML 2017. Least squares:
    Mao et al., ICCV 2017, with the labels 0 and 1. Relativistic average: Jolicoeur-Martineau, ICLR 2019, as the
    mean of both halves.

    A discriminator of several outputs, at several scales say, gives a list of logits: the loss is the mean over them.

    Parameters
    ----------
    kind : {"standard", "hinge", "wasserstein", "least_squares", "relativistic"}
    smoothing : float
        From 0 to below 1: real samples have the label ``1 - smoothing`` for the discriminator (Salimans et al.,
        "Improved Techniques for Training GANs", NIPS 2016). Not for hinge and Wasserstein, which have no labels.

    Raises
    ------
    ConfigError
        For another kind or smoothing.

    Examples
    --------
    >>> loss = AdversarialLoss("standard")
    >>> real, fake = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    >>> round(loss.generator(fake).item(), 6), round(loss.discriminator(real, fake).item(), 6)
    (0.893669, 0.431882)
    """

    def __init__(self, kind: Kind = "standard", smoothing: float = 0.0) -> None:
        super().__init__()
        kinds = get_args(Kind)
        if kind not in kinds:
            raise ConfigError(f"kind={kind!r}, expected one of {kinds}.{closest(str(kind), kinds)}")
        if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)) or not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing={smoothing!r}, expected a number from 0 to below 1.")
        if smoothing and kind in ("hinge", "wasserstein"):
            raise ConfigError(f"smoothing={smoothing!r}: the loss {kind!r} has no labels. Leave smoothing out.")
        self.kind = kind
        self.smoothing = smoothing

    @property
    def needs_real(self) -> bool:
        """Whether the generator's loss compares with real samples."""
        return self.kind == "relativistic"

    @property
    def least(self) -> float | None:
        """The discriminator's loss when it tells everything apart, None where there is no limit."""
        label = 1 - self.smoothing
        if self.kind == "wasserstein":
            return None
        if self.kind in ("hinge", "least_squares") or not self.smoothing:
            return 0.0
        return -(label * math.log(label) + self.smoothing * math.log(self.smoothing)) / 2

    def discriminator(self, real: Logits, fake: Logits) -> Tensor:
        """Return the loss of the discriminator.

        Parameters
        ----------
        real, fake : Tensor, or list of Tensor
            Logits of real and generated samples, of any shape; each a list of as many.

        Raises
        ------
        DataError
            For what are no logits, or lists of different lengths.
        """
        losses = [self._discriminator(r, f) for r, f in zip(*_paired(real, fake), strict=True)]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def generator(self, fake: Logits, real: Logits | None = None) -> Tensor:
        """Return the loss of the generator.

        Parameters
        ----------
        fake : Tensor, or list of Tensor
            Logits of generated samples.
        real : Tensor, or list of Tensor, optional
            Those of real ones, where `needs_real`.

        Raises
        ------
        DataError
            For what are no logits, or where `real` is missing.
        """
        if self.needs_real and real is None:
            raise DataError("the relativistic loss of a generator compares with real samples: generator(fake, real).")
        losses = [self._generator(f, r) for f, r in zip(*_paired(fake, fake if real is None else real), strict=True)]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.kind == "hinge":
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        if self.kind == "wasserstein":
            return fake.mean() - real.mean()
        if self.kind == "least_squares":
            return ((real - (1 - self.smoothing)).square().mean() + fake.square().mean()) / 2
        if self.kind == "relativistic":
            real, fake = real - fake.mean(), fake - real.mean()
        half = F.softplus(-real).mean()
        if self.smoothing:
            half = half + self.smoothing * real.mean()  # as softplus(x) is softplus(-x) + x
        return (half + F.softplus(fake).mean()) / 2

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        if self.kind in ("hinge", "wasserstein"):
            return -fake.mean()
        if self.kind == "least_squares":
            return (fake - 1).square().mean() / 2
        if self.kind == "relativistic":
            return (F.softplus(real - fake.mean()).mean() + F.softplus(real.mean() - fake).mean()) / 2
        return F.softplus(-fake).mean()

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{self.kind!r}" + (f", smoothing={self.smoothing}" if self.smoothing else "")


def gradient_penalty(critic: Callable[[Tensor], Any], real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean of ``(|gradient| - 1) ** 2``, at points between real and generated samples.

    The gradient is that of the critic by its input; each sample has its own point, drawn evenly (Gulrajani et al.,
    "Improved Training of Wasserstein GANs", NIPS 2017). Usual weight: 10. Batch norm in the critic mixes the samples;
    use another norm.

    Parameters
    ----------
    critic : callable
        Returns logits, or a list of them, each of all scales.
    real, fake : Tensor
        N x any shape, the same of both; neither gets a gradient.

    Raises
    ------
    DataError
        For different shapes.
    """
    if real.shape != fake.shape:
        raise DataError(
            f"real samples of the shape {tuple(real.shape)} and generated ones of {tuple(fake.shape)}; the gradient "
            "penalty needs points between them. Generate as many as the batch has, or use 'r1'."
        )
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device, dtype=real.dtype)
    norms = _input_gradients(critic, torch.lerp(fake.detach(), real.detach(), share)).norm(dim=1)
    return (norms - 1).square().mean()


def r1_penalty(critic: Callable[[Tensor], Any], real: Tensor) -> Tensor:
    """Return half the mean of ``|gradient| ** 2``, at real samples.

    The gradient is that of the discriminator by its input (Mescheder et al., "Which Training Methods for GANs do
    actually Converge?", ICML 2018). Usual weight: 10.

    Parameters
    ----------
    critic : callable
        Returns logits, or a list of them.
    real : Tensor
        N x any shape; gets no gradient.
    """
    return _input_gradients(critic, real.detach()).square().sum(1).mean() / 2


def _input_gradients(critic: Callable[[Tensor], Any], points: Tensor) -> Tensor:
    """Return the gradient of the critic at each point, N x numbers, of which a loss can be made."""
    points.requires_grad_(True)
    total = torch.stack([output.sum() for output in _as_list(critic(points), "the critic's outputs")]).sum()
    (gradients,) = torch.autograd.grad(total, points, create_graph=True)
    return gradients.flatten(1)


def _paired(one: Logits, other: Logits) -> tuple[list[Tensor], list[Tensor]]:
    first, second = _as_list(one, "the logits"), _as_list(other, "the logits")
    if len(first) != len(second):
        raise DataError(
            f"{len(first)} outputs for real samples and {len(second)} for generated ones; expected as many."
        )
    return first, second


def _as_list(logits: Any, what: str) -> list[Tensor]:
    found = list(logits) if isinstance(logits, (list, tuple)) else [logits]
    if not found or not all(isinstance(each, Tensor) and each.is_floating_point() and each.numel() for each in found):
        shown = [type(each).__name__ for each in found]
        raise DataError(f"{what} are {shown}; expected a tensor of floating point numbers, or a list of them.")
    return found
