"""`export`: a model, or that of a trainer, as a file that runs without its code.

How a format is written is in `formats`, how file and model are compared in `compare`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint.files import write_bytes
from ..data.output_spec import Description
from ..duck_typing import is_a
from ..errors import ConfigError
from ..trainer import ConvnetTrainer
from ..version import __version__
from . import formats
from .calls import Call, of_module, of_trainer, output_leaves, structure_of
from .compare import SIZES, Differences, compare

TOLERANCE = 1e-4


@dataclass
class Exported:
    """A file that was written, and how much it differs from its model.

    Attributes
    ----------
    path : pathlib.Path
        The file; past the tolerance its name ends with ``.differs`` before the suffix.
    differences : Differences
    tolerance : float
    """

    path: Path
    differences: Differences
    tolerance: float

    @property
    def is_same(self) -> bool:
        """Whether the differences are within the tolerance."""
        return self.differences.largest <= self.tolerance


def export(
    what: ConvnetTrainer | nn.Module,
    path: str | Path,
    batch: Any = None,
    *,
    format: str = "jit",
    method: str = "forward",
    mode: str = "eval",
    with_grad: bool = False,
    tolerance: float = TOLERANCE,
    sizes: Sequence[int] = SIZES,
) -> Exported:
    """Write a model into a file that runs without its code, for batches of any size.

    What is exported is a copy on the CPU, out of its wrappers, in the precision of its weights; of a trainer with
    averaged weights, those. The file gets its name when it was read again and compared with the model.

    Parameters
    ----------
    what : ConvnetTrainer or nn.Module
        Of a trainer, its model is exported, with the inputs that ``forward()`` gives it; several models as
        ``forward()`` puts them together.
    path : path
        The file to write.
    batch : batch, optional
        2 samples or more. For a module a tensor, or a tuple of arguments; a dict is one argument. For a trainer what
        its loaders give; default: the first batch of them.
    format : {"jit", "export", "onnx"}
        TorchScript, for ``torch.jit.load`` and C++; a program of ``torch.export``; ONNX, for any runtime of it.
    method : str
        The method of the model that the file runs.
    mode : {"eval", "train"}
        In train mode dropout draws, and batch norm takes the statistics of the batch. Not for ONNX.
    with_grad : bool
        Keep the parameters trainable in the file. Not for ONNX.
    tolerance : float
        The largest difference, relative to the largest number of an output, that counts as none.
    sizes : sequence of int
        Of the batches to compare, beside that of `batch`.

    Returns
    -------
    Exported

    Raises
    ------
    ConfigError
        For an argument that is not allowed, a method that is not there, and a model that cannot be exported.
    DataError
        For a batch of fewer than 2 samples, or without tensors.

    Examples
    --------
    ``export(trainer, "digits.onnx", format="onnx").differences.largest``
    """
    form = formats.check_format(format)
    if form == "onnx" and (mode == "train" or with_grad):
        said = "mode='train'" if mode == "train" else "with_grad=True"
        raise ConfigError(f"format='onnx' and {said}: an ONNX file is for inference. Take format='jit' or 'export'.")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance >= 0:
        raise ConfigError(f"tolerance={tolerance!r}; expected a number from 0 on: 1e-4.")
    call, about = called(what, batch, method, mode)
    for parameter in call.module.parameters():
        parameter.requires_grad_(with_grad and (parameter.is_floating_point() or parameter.is_complex()))
    content = formats.to_bytes(call, form, {**about, "format": form, "mode": mode, "with_grad": with_grad})
    return written(content, Path(path), form, call, tolerance, sizes)


def called(what: Any, batch: Any, method: str, mode: str) -> tuple[Call, dict[str, Any]]:
    """Return the call that is exported, and what its file says of it."""
    if is_a(what, ConvnetTrainer):
        call, owner, spec = of_trainer(what, batch, method, mode), type(what).__name__, what.input_spec
    elif is_a(what, nn.Module):
        if batch is None:
            raise ConfigError(f"export({type(what).__name__}, ...) needs a batch of 2 samples or more: batch=images.")
        call, owner, spec = of_module(what, batch, method, mode), type(what).__name__, None
    else:
        raise ConfigError(f"export got a {type(what).__name__}; expected a trainer or a module.")
    try:
        outputs = call.run(list(call.tensors.values()))
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{type(call.module).__name__}.{method} does not take the batch: {type(error).__name__}: {said}"
        ) from error
    output_leaves(outputs, call)
    shapes = [list(t.shape[1:]) if call.has_batch(t) else list(t.shape) for t in call.tensors.values()]
    return call, {
        "farabio_like": __version__,
        "class": owner,
        "model": type(call.module).__name__,
        "method": method,
        "inputs": call.names,
        "shapes": shapes,
        "outputs": structure_of(outputs),
        "types": [str(tensor.dtype).removeprefix("torch.") for tensor in call.tensors.values()],
        "description": Description.of(spec).to_dict(),
    }


def written(
    content: bytes, path: Path, form: str, call: Call, tolerance: float, sizes: Sequence[int] = SIZES
) -> Exported:
    """Write a file under another name, read and compare it, and give it its name."""
    unnamed = path.with_name(f".{path.stem}.{os.getpid()}.unnamed{path.suffix}")
    try:
        write_bytes(unnamed, content)
        program, _ = formats.load(unnamed, form)
        found = Exported(path, compare(call, program, sizes), tolerance)
        if not found.is_same:
            found.path = path.with_name(f"{path.stem}.differs{path.suffix}")
        os.replace(unnamed, found.path)
    finally:
        unnamed.unlink(missing_ok=True)
    return found
