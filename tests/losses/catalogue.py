"""Every loss in every mode that it takes, and batches for them."""

from typing import NamedTuple

import pytest
import torch

from farabio_like import losses

MODES = ("binary", "multiclass", "multilabel")
# The loss's function, the modes that it takes, further arguments that make it interesting.
PARTS = [
    ("dice", MODES, {}),
    ("jaccard", MODES, {}),
    ("tversky", MODES, {"alpha": 0.3, "beta": 0.6}),
    ("focal_tversky", MODES, {"gamma": 0.75}),
    ("generalized_dice", MODES, {}),
    ("lovasz", MODES, {}),
    ("mcc", MODES, {}),
    ("cldice", MODES, {"iterations": 2}),
    ("dice_ce", ("multiclass",), {"smoothing": 0.1}),
    ("dice_bce", ("binary", "multilabel"), {"smoothing": 0.1}),
    ("focal", MODES, {"gamma": 1.5, "alpha": 0.3}),
    ("soft_bce", ("binary", "multilabel"), {"smoothing": 0.1}),
    ("soft_ce", ("multiclass",), {"smoothing": 0.1}),
]
POINTWISE = {"focal", "soft_bce", "soft_ce"}  # have no `absent`
HARD_ONLY = {"lovasz", "cldice"}
ONE_MODE = {"soft_ce", "dice_ce"}  # have no `mode`


class Case(NamedTuple):
    name: str
    mode: str
    arguments: dict

    def __call__(self, logits, target, **more):
        """Call the function."""
        mode = () if self.name in ONE_MODE else (self.mode,)
        return getattr(losses, f"{self.name}_loss")(logits, target, *mode, **{**self.arguments, **more})

    def module(self, **more):
        """Return the module."""
        mode = () if self.name in ONE_MODE else (self.mode,)
        names = {name.lower(): name for name in losses.__all__ if name.endswith("Loss")}
        return getattr(losses, names[self.name.replace("_", "") + "loss"])(*mode, **{**self.arguments, **more})

    @property
    def weights(self):
        """Return class weights where the loss takes them."""
        taken = self.mode != "binary" and (self.name, self.mode) != ("lovasz", "multilabel")
        return {"class_weights": [1.0, 0.5, 2.0]} if taken else {}


CASES = [Case(name, mode, arguments) for name, modes, arguments in PARTS for mode in modes]
REGION = [case for case in CASES if case.name not in POINTWISE]
SOFT = [case for case in CASES if case.name not in HARD_ONLY]


def modes_of(*cases):
    """Parametrize a test by loss, with all modes of it in a list: a test for each mode would cost more than it runs."""
    groups = {}
    for case in cases:
        groups.setdefault(case.name, []).append(case)
    return pytest.mark.parametrize("cases", groups.values(), ids=groups)


def batch(mode, space=(3, 4), soft=False, images=2, seed=0):
    """Return logits in float64 and targets of a mode; no class is without a true pixel."""
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if mode == "binary" else 3
    logits = torch.randn(images, channels, *space, generator=generator, dtype=torch.float64) * 2
    if soft:
        target = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
        return logits, target / target.sum(1, keepdim=True) if mode == "multiclass" else target
    if mode == "multiclass":
        flat = logits[:, 0]
        numbers = torch.arange(flat.numel())[torch.randperm(flat.numel(), generator=generator)]
        return logits, (numbers % channels).view(flat.shape)
    target = torch.rand(logits.shape, generator=generator) < 0.4
    target.view(images, channels, -1)[0, :, 0] = True
    return logits, target.long()
