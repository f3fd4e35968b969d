"""`SuperResolutionTrainer`: images made larger, by pixels first, then against a discriminator.

Networks, losses, metrics and data stand in packages of their own; a batch of a GAN in `gan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import components, distributed
from ..callbacks import PSNR, SSIM
from ..callbacks.image_quality import ImageQuality
from ..config.allowed import Allowed, anything, whole
from ..config.stages import Stage
from ..errors import ConfigError, HookError
from ..inference import upscale
from ..losses import ContentLoss, PerceptualLoss
from ..models.superresolution import VGGDiscriminator
from ..optim import steps
from ..trainer import ConvnetTrainer
from . import gan_sides
from .comparison import ComparisonImages
from .gan import GanTrainer
from .gan_callbacks import Balance, GeneratorEMA
from .ready_made import measured, told

PRETRAIN, GAN = "pretrain", "gan"  # the stages


def _weight(example: float) -> Allowed:
    return Allowed("a weight, a number from 0 up", lambda w: type(w) in (int, float) and 0 <= w < float("inf"), example)


class SuperResolutionLoss(nn.Module):
    """The losses of super-resolution: of the pixels, of the features of another network, and of a discriminator.

    Parameters
    ----------
    adversarial : callable
        An `AdversarialLoss`, or an object with its methods.
    content, perceptual : callable or None
        Take outputs and targets.
    weights : mapping of str to float
        Of ``"content"``, ``"perceptual"`` and ``"adversarial"``.
    """

    def __init__(self, adversarial: Any, content: Any, perceptual: Any, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.adversarial = adversarial
        self.content = content
        self.perceptual = perceptual
        self.weights = dict(weights)

    @property
    def needs_real(self) -> bool:
        """Whether the generator's loss compares with real images."""
        return self.adversarial.needs_real

    @property
    def kind(self) -> Any:
        """What the adversarial loss is."""
        return getattr(self.adversarial, "kind", None)

    @property
    def least(self) -> float | None:
        """The discriminator's loss when it tells everything apart."""
        return getattr(self.adversarial, "least", None)

    def discriminator(self, real: Any, fake: Any) -> Tensor:
        """Return the loss of the discriminator, from logits."""
        return self.adversarial.discriminator(real, fake)

    def generator(self, fake: Any, real: Any = None) -> Tensor:
        """Return the adversarial loss of the generator, from logits."""
        return self.adversarial.generator(fake, real)

    def parts(self, outputs: Tensor, targets: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of a generator by name."""
        found = {"adversarial": adversarial}
        for name, loss in (("content", self.content), ("perceptual", self.perceptual)):
            if loss is not None and self.weights[name]:
                found[name] = loss(outputs, targets)
        return {name: self.weights[name] * value for name, value in found.items()}


class SuperResolutionTrainer(GanTrainer):
    """Trains a network that makes images larger, in two stages of one run (Ledig et al. 2017; Wang et al. 2018).

    In the stage ``"pretrain"`` it learns by the content loss alone, in the stage ``"gan"`` by the weighted sum of
    content, perceptual and adversarial loss; in a run with ``_stages`` of your own those whose name begins with
    ``pretrain`` are of the first kind. Evaluated are whole images, in tiles where they are large: PSNR and SSIM of all
    channels, and of the luma as papers report them, ``psnr_y`` and ``ssim_y``. The epoch with the best PSNR of each
    stage is best. After each evaluation there is a picture of low resolution, bicubic, ours and high resolution.

    Parameters
    ----------
    config : None, dict, argparse.Namespace, dataclass, or any object with attributes, optional
        Options may stand in it too, under their names.
    model : module, dict of modules, or callable that returns one
        The generator, or a dict with ``"generator"`` and ``"discriminator"``. Default of the discriminator, where there
        are epochs against one: `VGGDiscriminator`.
    train, valid, test : Dataset, DataLoader or iterable of batches, optional
        Of pairs, the low resolution first: `PairedImages`.
    loss : str or callable, optional
        That of the discriminator, as for `GanTrainer`; default ``"relativistic"``.
    optimizer, scheduler, callbacks
        See `GanTrainer`. Default: Adam with the betas 0.9 and 0.999.
    **options
        ``pretrain_epochs`` (10) and ``gan_epochs`` (10), either may be 0; ``content`` (``"l1"``, ``"mse"``,
        ``"charbonnier"`` or a loss), ``perceptual`` (a loss, a file of VGG-19's weights; default: `PerceptualLoss` with
        torchvision's weights); ``content_weight`` (0.01), ``perceptual_weight`` (1), ``adversarial_weight`` (0.005);
        ``tile`` (512, of the low resolution, in evaluation; None for whole images) and ``overlap`` (32); ``scale`` (for
        the border that ``psnr_y`` leaves out; default: that of `PairedImages` or of the network); ``samples`` (4, rows
        of the picture). And those of `GanTrainer`: ``lr`` (0.0002), ``batch_size`` (16), ``ema_decay``, ...

    Raises
    ------
    ConfigError
        For an option that is not there, or has a value that is not allowed; for data of another scale than the network.
    CheckpointError
        If the weights of VGG-19 cannot be fetched or read.

    Examples
    --------
    ``SuperResolutionTrainer(model=RRDBNet(4), train=train, valid=valid, pretrain_epochs=50, gan_epochs=50).train()``
    """

    OPTIONS: ClassVar[dict[str, Allowed]] = {
        **GanTrainer.OPTIONS,
        "pretrain_epochs": whole(0, example=10),
        "gan_epochs": whole(0, example=10),
        "content": Allowed("'l1', 'mse', 'charbonnier' or a loss", lambda v: isinstance(v, str) or callable(v), "l1"),
        "perceptual": anything(),
        "content_weight": _weight(0.01),
        "perceptual_weight": _weight(1.0),
        "adversarial_weight": _weight(0.005),
        "tile": whole(1, optional=True, example=512),
        "overlap": whole(0, example=32),
        "scale": whole(1, optional=True, example=4),
    }

    _lr: Any = 2e-4
    _betas = (0.9, 0.999)
    _batch_size = 16
    _loss: Any = "relativistic"
    _samples = 4
    _pretrain_epochs: int = 10
    _gan_epochs: int = 10
    _content: Any = "l1"
    _perceptual: Any = None
    _content_weight: float = 0.01
    _perceptual_weight: float = 1.0
    _adversarial_weight: float = 0.005
    _tile: int | None = 512
    _overlap: int = 32
    _scale: int | None = None

    def __init__(self, config: Any = None, **parts: Any) -> None:
        super().__init__(config, **parts)
        if self._stages is None:
            lengths = {PRETRAIN: self._pretrain_epochs, GAN: self._gan_epochs}
            self._stages = [Stage(name, epochs) for name, epochs in lengths.items() if epochs]
            if not self._stages:
                raise ConfigError(f"{type(self).__name__} has no epochs. Write pretrain_epochs=10, gan_epochs=10.")

    def _take_options(self, config: Any, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("num_epochs") is not None or "num_epochs" in config:
            raise ConfigError(
                f"{type(self).__name__} got num_epochs=; it has two stages. Write pretrain_epochs=10, gan_epochs=10."
            )
        return super()._take_options(config, options)

    # ---------------------------------------------------------------- building

    def build_model(self) -> None:
        """Take the networks, and make criterion, optimizers and schedulers by the methods below."""
        model = self._parts["model"]
        model = model() if callable(model) and not isinstance(model, nn.Module) else model
        if isinstance(model, nn.Module):
            model = {"generator": model}
        if isinstance(model, Mapping) and self._is_adversarial_ever() and not gan_sides.keys_of(model, judges=True):
            channels = getattr(model.get("generator"), "channels", 3)
            model = {**model, "discriminator": VGGDiscriminator(channels)}
        self._parts["model"] = model
        super().build_model()
        self._check_scale()

    def check_networks(self) -> None:
        """Raise a ConfigError where a network or an optimizer is missing; without a GAN there is no discriminator."""
        if self._is_adversarial_ever():
            super().check_networks()

    def build_criterion(self) -> Any:
        """Return the losses of both sides."""
        weights = {name: getattr(self, f"_{name}_weight") for name in ("content", "perceptual", "adversarial")}
        content = ContentLoss(self._content) if isinstance(self._content, str) else self._content  # type: ignore
        perceptual = None
        if self._perceptual_weight and self._is_adversarial_ever():
            perceptual = self._perceptual if callable(self._perceptual) else PerceptualLoss(weights=self._perceptual)
        return SuperResolutionLoss(super().build_criterion(), content, perceptual, weights)

    def build_callbacks(self) -> list[Any]:
        """Return the metrics, the picture, the average of the generator, and what says that one side has won."""
        options: dict[str, Any] = {"loaders": ("valid", "test"), "prediction": clamped}
        found: list[Any] = [PSNR(**options), SSIM(**options)]
        if self._scale is not None:
            found += [PSNR("y", crop=self._scale, **options), SSIM("y", crop=self._scale, **options)]
        found += [ComparisonImages(self._samples), Balance()]
        if self._ema_decay is not None:
            found.append(GeneratorEMA(self._ema_decay, gan_sides.keys_of(self.model, judges=False)))
        return found

    def best_by(self) -> str | None:
        """Return the name of the first PSNR that is measured."""
        for callback in components.each(self.callbacks, list, tuple):
            if isinstance(callback, ImageQuality) and measured([callback], PSNR, "valid"):
                return next(iter(callback.announces() or {}), None)
        return None

    def output_spec(self) -> dict[str, Any]:
        """Return that outputs are images."""
        return {"output": "images"}

    def loader_batch_size(self, name: str) -> int:
        """Return the batch size; in evaluation each process gets one image, for they may have different sizes."""
        return self._batch_size if name == "train" else distributed.world_size()

    def _is_adversarial_ever(self) -> bool:
        if self._stages is not None:
            return any(not stage.name.startswith(PRETRAIN) for stage in self._stages)
        return self._gan_epochs > 0

    def _check_scale(self) -> None:
        """Take the scale of the data or of the network, and raise a ConfigError where they differ."""
        network = self.model.get("generator") if isinstance(self.model, Mapping) else None
        of_network, of_data = getattr(network, "scale", None), told(self._parts, "scale", int)
        if of_data is not None and isinstance(of_network, int) and of_data != of_network:
            raise ConfigError(
                f"{type(self).__name__}: the data have scale={of_data}, the generator has scale={of_network}. Write "
                f"PairedImages(..., scale={of_network})."
            )
        if self._scale is None:
            self._scale = of_data if of_data is not None else of_network if isinstance(of_network, int) else None

    # ---------------------------------------------------------------- one batch

    @property
    def adversarial(self) -> bool:
        """Whether the stage under way has a discriminator."""
        return self._is_adversarial_ever() if self.stage is None else not self.stage.name.startswith(PRETRAIN)

    def training_step(self) -> None:
        """Learn from one batch: by its pixels, or the discriminator first, then the generator."""
        if self.adversarial:
            super().training_step()
        else:
            steps.repeat(self, self.generator_step, 1)
            self.loss = None  # as in the other stage: there it is that of one side

    def generator_loss(self) -> Any:
        """Return the loss of the generator, and set ``self.outputs``; its weighted parts are recorded."""
        fake = self.outputs = self.generate()
        self.check_outputs()
        if not self.adversarial:
            return self.criterion.content(fake, self.targets)
        real = self.discriminate(self.real_images()) if self.criterion.needs_real else None
        adversarial = self.criterion.generator(self.discriminate(fake), real)
        parts = self.criterion.parts(fake, self.targets, adversarial)
        self.batch_metrics.update({f"loss_{name}": value.detach() for name, value in parts.items()})
        return torch.stack(list(parts.values())).sum()

    def real_images(self) -> Any:
        """Return the images of high resolution."""
        return self.targets

    def generate(self) -> Any:
        """Return what the generator makes of the images of low resolution."""
        return self.forward()

    def check_outputs(self) -> None:
        """Raise a HookError where outputs and images of high resolution differ in size."""
        if not isinstance(self.targets, Tensor) or self.outputs.shape != self.targets.shape:
            got = tuple(self.targets.shape) if isinstance(self.targets, Tensor) else type(self.targets).__name__
            raise HookError(
                f"{type(self).__name__}: the generator makes {tuple(self.outputs.shape)} of "
                f"{tuple(self.inputs.shape)}, and the targets are {got}; expected the same. Is the scale of the data "
                "that of the network?"
            )

    # ---------------------------------------------------------------- evaluation

    def evaluate_batch(self, item: Any) -> None:
        """Make whole images larger, and measure the content loss; the metrics are callbacks."""
        with self.autocast():
            self.outputs = self.predict_whole(self.inputs)
        self.check_outputs()
        self.batch_metrics["loss_content"] = self.criterion.content(self.outputs, self.targets)
        self.loss = None

    def predict_whole(self, images: Tensor) -> Tensor:
        """Return what the generator makes of whole images, in tiles where they are large."""
        network = components.unwrap(gan_sides.network(self, "generator", "predict_whole"))
        if self._tile is None or max(images.shape[-2:]) <= self._tile:
            return network(images)
        return upscale(network, images, self._tile, self._overlap, channels=images.shape[1])


def clamped(trainer: ConvnetTrainer) -> Tensor:
    """Return the outputs as a file of them would hold them: from 0 to 1."""
    return trainer.outputs.float().clamp(0, 1)
