"""`quantize`: an exported file whose large weights are 8-bit integers, and how much it differs from the model.

Weights are rounded once; what they are multiplied with is rounded anew in each call ("dynamic"), so no data are needed.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..packages import needs
from ..trainer import ConvnetTrainer
from . import formats
from .exported import Exported, called, written

TOLERANCE = 0.1
_KINDS = (nn.Linear, nn.LSTM, nn.GRU)
FORMATS = ("jit", "onnx")


@dataclass
class Quantized(Exported):
    """A file of integers.

    Attributes
    ----------
    size, size_before : int
        Bytes of the file, and of the same model exported without rounding.
    """

    size: int = 0
    size_before: int = 0


def quantize(
    what: ConvnetTrainer | nn.Module,
    path: str | Path,
    batch: Any = None,
    *,
    format: str = "jit",
    method: str = "forward",
    tolerance: float = TOLERANCE,
) -> Quantized:
    """Write a model with weights of 8 bits into a file that runs without its code, on a CPU.

    As ``"jit"`` the weights of linear and recurrent layers are integers; as ``"onnx"`` also those of convolutions, by
    ``onnxruntime.quantization``.

    Parameters
    ----------
    what, path, batch, method
        As for `export`.
    format : {"jit", "onnx"}
    tolerance : float
        The largest difference that keeps the file's name, relative to the largest number of an output.

    Returns
    -------
    Quantized

    Raises
    ------
    ConfigError
        For a model without a layer that can be rounded, and as in `export`.
    """
    form = formats.check_format(format)
    if form not in FORMATS:
        raise ConfigError(f"format={format!r}; quantized are: {', '.join(FORMATS)}.")
    call, about = called(what, batch, method, "eval")
    for parameter in call.module.parameters():
        parameter.requires_grad_(False)
    about = {**about, "format": form, "mode": "eval", "with_grad": False}
    before = formats.to_bytes(call, form, about)
    if form == "onnx":
        content = _onnx(before)
    else:
        content = _jit(call, about)
    found = written(content, Path(path), form, call, tolerance)
    return Quantized(found.path, found.differences, tolerance, size=found.path.stat().st_size, size_before=len(before))


def _jit(call: Any, about: dict[str, Any]) -> bytes:
    if not any(isinstance(part, _KINDS) for part in call.module.modules()):
        raise ConfigError(
            f"{type(call.module).__name__} has no linear and no recurrent layer, whose weights are rounded for "
            "format='jit'. Those of convolutions are with format='onnx'."
        )
    whole = call.module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao hands its functions on to a package of their own
        call.module = torch.ao.quantization.quantize_dynamic(whole, set(_KINDS), dtype=torch.qint8)
        try:
            return formats.to_bytes(call, "jit", about)
        finally:
            call.module = whole


def _onnx(content: bytes) -> bytes:
    needs("onnxruntime", "format='onnx'", extra="export")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "whole.onnx", Path(folder) / "rounded.onnx"
        source.write_bytes(content)
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        return target.read_bytes()
