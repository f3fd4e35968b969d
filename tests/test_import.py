"""Importing the package is quick: nothing optional is imported before it is used."""

import farabio_like


def test_import_brings_nothing_optional(python):
    script = """
import sys, torch
before = set(sys.modules)
import farabio_like
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted(new))
print(*sorted({"torchvision", "matplotlib", "visdom", "torchmetrics", "sklearn", "PIL"} & set(sys.modules)))
"""
    new, optional = python(script).split("\n")[:2]
    assert new == "farabio_like"
    assert optional == ""


def test_a_run_that_shows_and_draws_nothing_needs_neither_bar_nor_pictures(python):
    script = """
import sys
sys.modules["tqdm"] = sys.modules["tqdm.auto"] = sys.modules["matplotlib"] = sys.modules["torchmetrics"] = None
import torch
from tests.trainers import Still
trainer = Still({"_num_epochs": 1, "_logdir": "runs", "_verbose": True})
trainer.train()
trainer.test()
"""
    assert "no curves: " in (said := python(script)) and "pip install matplotlib" in said


def test_the_public_names_are_there():
    assert sorted(farabio_like.__all__) == farabio_like.__all__
    assert all(hasattr(farabio_like, name) for name in farabio_like.__all__)
    kinds = ["ConfigError", "HookError", "DataError", "CheckpointError", "NonFiniteError"]
    builtin = [ValueError, TypeError, ValueError, RuntimeError, ArithmeticError]
    for name, base in zip(kinds, builtin, strict=True):
        kind = getattr(farabio_like, name)
        assert issubclass(kind, farabio_like.FarabioError) and issubclass(kind, base)
