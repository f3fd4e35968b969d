"""`GanTrainer`: generators and discriminators that learn from each other.

The losses are in `losses.adversarial`; which networks are whose, and how a side is left alone, in `gan_sides`; the
values of options in `gan_options`; averages, pictures and the warning in `gan_callbacks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config.allowed import Allowed
from ..errors import ConfigError, HookError
from ..losses import AdversarialLoss, gradient_penalty, r1_penalty
from ..optim import steps
from . import gan_sides
from .gan_callbacks import Balance, GeneratorEMA, SampleImages
from .gan_options import OPTIONS
from .ready_made import ReadyMadeTrainer


class GanTrainer(ReadyMadeTrainer):
    """Trains generators against discriminators, each with an optimizer of its own.

    ``self.model`` and ``self.optimizer`` are dicts with the keys ``"generator"`` and ``"discriminator"``, or others for
    several of each: a key with a word like ``discriminator``, ``critic`` or ``d`` is a discriminator's
    (``discriminator_a``, ``D_A``), all others are generators'.

    A training batch is ``_d_steps`` times `discriminator_step`, then ``_g_steps`` times `generator_step`. A step is
    four methods, each of which may be overridden, as may all that they call:

    - ``discriminator_zero_grad``, ``discriminator_loss``, ``discriminator_backward``, ``discriminator_optim_step``;
    - ``generator_zero_grad``, ``generator_loss``, ``generator_backward``, ``generator_optim_step``.

    A loss method returns the loss, or sets one of its own, which then the backward method is to take. For other data
    override `generate` (what the generator makes of a batch), `real_images`, `discriminate`, or the loss methods.

    In a step of the discriminators their gradients are those of their loss alone, and what reaches the generators is
    dropped. In a step of the generators no weight, gradient or buffer (running statistics, vectors of spectral norm)
    of a discriminator moves, unless ``_d_statistics`` lets the buffers. Accumulation, clipping and precision work as
    for any trainer; accumulated are the steps of a side.

    The history has ``loss_d`` and ``loss_g`` of the last step of each batch, and ``penalty``. There is no ``loss``, and
    no epoch is best, unless ``_monitor`` names a metric of yours.

    Parameters
    ----------
    config : None, dict, argparse.Namespace, dataclass, or any object with attributes, optional
        Options may stand in it too, under their names.
    model : dict of modules, or of callables that return one; or a callable that returns such a dict
    train, valid, test : Dataset, DataLoader or iterable of batches, optional
        Of images, or of images and labels.
    loss : str or callable, optional
        ``"standard"``, ``"hinge"``, ``"wasserstein"``, ``"least_squares"`` or ``"relativistic"``, see
        `AdversarialLoss`; or an object with its methods.
    optimizer, scheduler : callable, or dict of callables by network, optional
        Takes the parameters of a network; an optimizer. Default: Adam with `lr` and the betas 0.5 and 0.999.
    callbacks
        See `ReadyMadeTrainer`.
    **options
        ``lr`` (0.0002; a dict for each network its own), ``batch_size`` (64, of all ranks together), ``num_workers``
        (0); ``latent_size`` (100, or the shape of a noise vector); ``conditional`` (both networks get the labels as a
        second argument); ``d_steps``, ``g_steps`` (1); ``d_statistics`` (False); ``smoothing`` (0, of the label of real
        images); ``image_noise`` (0, the standard deviation of noise on what a discriminator sees: Sonderby et al.,
        "Amortised MAP Inference for Image Super-resolution", ICLR 2017); ``gradient_penalty`` (None, ``"wgan-gp"`` or
        ``"r1"``) and ``penalty_weight`` (10); ``ema_decay`` (None; the averages of the generators' weights are
        evaluated, drawn and in ``model.pth``); ``samples`` (64, images of the grid of every epoch). In a subclass they
        are attributes with an underscore: ``self._d_steps = 5``. And every setting without its underscore:
        ``num_epochs=20``.

    Raises
    ------
    ConfigError
        For an option that is not there, or has a value that is not allowed.

    Examples
    --------
    ``GanTrainer(model={"generator": g, "discriminator": d}, train=images, loss="hinge", ema_decay=0.999).train()``
    """

    OPTIONS: ClassVar[dict[str, Allowed]] = OPTIONS
    SEVERAL_NETWORKS: ClassVar[bool] = True

    _lr: Any = 2e-4
    _betas = (0.5, 0.999)  # of Adam
    _batch_size: int = 64
    _loss: Any = "standard"
    _latent_size: Any = 100
    _conditional: bool = False
    _d_steps: int = 1
    _g_steps: int = 1
    _d_statistics: bool = False
    _image_noise: float = 0.0
    _gradient_penalty: str | None = None
    _penalty_weight: float = 10.0
    _ema_decay: float | None = None
    _samples: int = 64

    def __init__(self, config: Any = None, **parts: Any) -> None:
        super().__init__(config, **parts)
        problems = [allowed.problem(f"_{name}", getattr(self, f"_{name}")) for name, allowed in self.OPTIONS.items()]
        if any(problems):
            raise ConfigError(f"{type(self).__name__}: {next(filter(None, problems))}")
        self.check_networks()
        if self.criterion is None:
            self.criterion = self.build_criterion()

    def _take_options(self, config: Any, options: dict[str, Any]) -> dict[str, Any]:
        given = super()._take_options(config, options)
        self._loss = self._loss if given["loss"] is None else given["loss"]
        return given

    # ---------------------------------------------------------------- building

    def build_model(self) -> None:
        """Take the networks, and make criterion, optimizers and schedulers by the methods below."""
        model = self._parts["model"]
        model = model() if callable(model) and not isinstance(model, nn.Module) else model
        if not isinstance(model, Mapping):
            name = type(self).__name__
            raise HookError(
                f"{name} has no dict of networks. Write {name}(model={{'generator': ..., 'discriminator': ...}}, ...), "
                "or override build_model."
            )
        self.model = {key: part if isinstance(part, nn.Module) else part() for key, part in model.items()}
        self.criterion = self.build_criterion()
        self.optimizer = self.build_optimizer()
        self.scheduler = self.build_scheduler()

    def build_criterion(self) -> Any:
        """Return what gives the losses of both sides from logits."""
        given = self._loss
        return AdversarialLoss(given, self._smoothing) if isinstance(given, str) else given  # type: ignore[arg-type]

    def build_optimizer(self) -> Any:
        """Return an optimizer for each network."""
        found = {}
        makes = gan_sides.by_network(self, "optimizer", self._parts["optimizer"])
        rates = gan_sides.by_network(self, "lr", self._lr)
        for key, network in self.model.items():
            parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
            make, lr = makes[key], rates[key]
            found[key] = torch.optim.Adam(parameters, lr, self._betas) if make is None else make(parameters)
        return found

    def build_scheduler(self) -> Any:
        """Return a scheduler for each optimizer, or None."""
        makes = self._parts["scheduler"]
        if makes is None:
            return None
        makes = gan_sides.by_network(self, "scheduler", makes, all_of_them=False)
        return {key: make(self.optimizer[key]) for key, make in makes.items()}

    def build_callbacks(self) -> list[Any]:
        """Return what averages the generators, draws their images, and says when one side has won."""
        found: list[Any] = [SampleImages(self._samples), Balance()]
        if self._ema_decay is not None:
            found.append(GeneratorEMA(self._ema_decay, gan_sides.keys_of(self.model, judges=False)))
        return found

    def best_by(self) -> str | None:
        """Return None: the losses of a GAN do not tell which epoch is best."""
        return None

    def check_networks(self) -> None:
        """Raise a ConfigError where one side has no network or no optimizer. Called by the constructor."""
        gan_sides.check(self)

    # ---------------------------------------------------------------- one batch

    def training_step(self) -> None:
        """Learn from one batch: the discriminators first, then the generators."""
        steps.repeat(self, self.discriminator_step, self._d_steps)
        steps.repeat(self, self.generator_step, self._g_steps)
        self.loss = None  # that of one side is not that of the batch

    def discriminator_step(self) -> None:
        """Step the discriminators once. Called by `training_step`."""
        with gan_sides.discriminators_learn(self):
            self.discriminator_zero_grad()
            with self.autocast():
                _note(self, "loss_d", self.discriminator_loss())
            self.discriminator_backward()
            self.discriminator_optim_step()

    def discriminator_zero_grad(self) -> None:
        """Clear the discriminators' gradients, where a window of accumulated batches begins."""
        self.optimizer_zero_grad()

    def discriminator_loss(self) -> Any:
        """Return the loss of the discriminators; may fill ``self.batch_metrics``. Also called in evaluation."""
        real = self.real_images()
        with torch.no_grad():
            fake = self.generate()
        loss = self.criterion.discriminator(self.discriminate(real), self.discriminate(fake))
        if self._gradient_penalty is not None and torch.is_grad_enabled():
            penalty = self.batch_metrics["penalty"] = self.discriminator_penalty(real, fake)
            loss = loss + penalty
        return loss

    def discriminator_backward(self) -> None:
        """Backpropagate the discriminators' loss."""
        self.loss_backward()

    def discriminator_optim_step(self) -> None:
        """Step the discriminators' optimizers."""
        self.optimizer_step()

    def generator_step(self) -> None:
        """Step the generators once. Called by `training_step`."""
        with gan_sides.generators_learn(self, self._d_statistics):
            self.generator_zero_grad()
            with self.autocast():
                _note(self, "loss_g", self.generator_loss())
            self.generator_backward()
            self.generator_optim_step()

    def generator_zero_grad(self) -> None:
        """Clear the generators' gradients, where a window of accumulated batches begins."""
        self.optimizer_zero_grad()

    def generator_loss(self) -> Any:
        """Return the loss of the generators, and set ``self.outputs``. Also called in evaluation."""
        fake = self.outputs = self.generate()
        real = self.discriminate(self.real_images()) if getattr(self.criterion, "needs_real", False) else None
        return self.criterion.generator(self.discriminate(fake), real)

    def generator_backward(self) -> None:
        """Backpropagate the generators' loss."""
        self.loss_backward()

    def generator_optim_step(self) -> None:
        """Step the generators' optimizers."""
        self.optimizer_step()

    # ---------------------------------------------------------------- what the losses are made of

    def real_images(self) -> Any:
        """Return the real images of the batch: its inputs."""
        return self.inputs

    def sample_noise(self, count: int) -> Tensor:
        """Return noise for a generator, `count` x ``_latent_size``, normally distributed."""
        size = (self._latent_size,) if isinstance(self._latent_size, int) else self._latent_size
        return torch.randn(count, *size, device=self.device)

    def generate(self) -> Any:
        """Return generated images, as many as the batch has: of noise, and of the labels where ``_conditional``."""
        return self._generated(self.sample_noise(len(self.real_images())))

    def discriminate(self, images: Any) -> Any:
        """Return the discriminator's logits, with ``_image_noise`` added to the images before."""
        if self._image_noise:
            images = images + self._image_noise * torch.randn_like(images)
        return gan_sides.network(self, "discriminator", "discriminate")(images, *_labels(self))

    def discriminator_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the weighted penalty of the discriminator's gradient, computed in full precision."""
        with torch.autocast(self.device.type, enabled=False):
            if self._gradient_penalty == "r1":
                return self._penalty_weight * r1_penalty(self.discriminate, real.float())
            return self._penalty_weight * gradient_penalty(self.discriminate, real.float(), fake.float())

    def forward(self) -> Any:
        """Return what the generator makes of ``self.inputs``, noise say: what `predict` gives."""
        return self._generated(self.inputs)

    def _generated(self, inputs: Any) -> Any:
        """Return what the generator makes of its inputs: of several outputs the first."""
        outputs = gan_sides.network(self, "generator", "generate")(inputs, *_labels(self))
        return outputs[0] if isinstance(outputs, (list, tuple)) else outputs

    # ---------------------------------------------------------------- evaluation

    def evaluate_batch(self, item: Any) -> None:
        """Measure the losses of both sides."""
        with self.autocast():
            _note(self, "loss_d", self.discriminator_loss())
            _note(self, "loss_g", self.generator_loss())
        self.loss = None

    def test_step(self, item: Any) -> None:
        """Take the batch, and measure the losses of both sides."""
        self.take_batch(item)
        self.evaluate_batch(item)


def _labels(trainer: GanTrainer) -> tuple[Any, ...]:
    return (trainer.targets,) if trainer._conditional else ()


def _note(trainer: GanTrainer, name: str, loss: Any) -> None:
    """Make what a loss method has returned the loss to backpropagate, and record it."""
    if loss is not None:
        trainer.loss = loss
    if isinstance(loss, Tensor):
        trainer.batch_metrics[name] = loss
