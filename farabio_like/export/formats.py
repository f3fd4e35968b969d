"""The formats of an exported model: written as bytes, read and run again without the code of the model.

That a file says the same as the model is seen in `compare`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, closest
from ..inference.model import leaves
from ..packages import needs
from .calls import Call, output_leaves, quiet

ABOUT = "farabio_like.json"  # the name under which a file holds what it is
SUFFIXES = {"jit": ".pth", "export": ".pt2", "onnx": ".onnx"}
_KEY = "farabio_like"  # of the properties of an ONNX file
LONGEST_REASON = 1500  # characters of what PyTorch says

Program = Callable[..., Any]


def check_format(name: Any) -> str:
    """Return a format, or raise a ConfigError that names those that there are."""
    if name not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise ConfigError(f"format={name!r}; expected one of {known}.{closest(str(name), SUFFIXES)}")
    if name == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            needs(package, "format='onnx'", extra="export")
    return name


def to_bytes(call: Call, form: str, about: Mapping[str, Any]) -> bytes:
    """Return a call as the content of a file.

    Parameters
    ----------
    call : Call
    form : {"jit", "export", "onnx"}
    about : dict
        Plain data that the file holds beside the model.

    Raises
    ------
    ConfigError
        For a model that cannot be exported in this format, with what PyTorch says.
    """
    text = json.dumps(about)
    try:
        with quiet():
            if form == "jit":
                return _jit(call, text)
            program = _exported(call)
            return _pt2(program, text) if form == "export" else _onnx(call, program, text)
    except Exception as error:  # tracing runs the user's code, and has no end of errors of its own
        reason = str(error).strip()[:LONGEST_REASON] or type(error).__name__
        other = " Another format may do: --format jit." if form != "jit" else ""
        raise ConfigError(
            f"{type(call.module).__name__}.{call.method} cannot be exported as {form}: {type(error).__name__}: "
            f"{reason}{other}"
        ) from error


def traced(call: Call) -> Any:
    """Return a module of TorchScript that does what the call does."""
    outputs = call.run(list(call.tensors.values()))
    parts = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, (list, tuple)) else []
    # TorchScript has no dicts and lists of different kinds.
    module = call.wrapped(flat_outputs=not all(isinstance(part, Tensor) for part in parts))
    buffers = {name: buffer.clone() for name, buffer in call.module.named_buffers()}
    # Its own check would trace again with one batch, and fears dropout: what counts is compared with other sizes.
    found = torch.jit.trace(module, tuple(call.tensors.values()), strict=False, check_trace=False)
    with torch.no_grad():
        for name, buffer in call.module.named_buffers():  # statistics of batch norm in train mode, which both share
            buffer.copy_(buffers[name])
    return found


def _jit(call: Call, about: str) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(traced(call), buffer, _extra_files={ABOUT: about})
    return buffer.getvalue()


def _exported(call: Call) -> Any:
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} if call.has_batch(tensor) else None for tensor in call.tensors.values())
    dynamic: Any = shapes if call.is_plain() else {"tensors": shapes}
    return torch.export.export(call.wrapped(), tuple(call.tensors.values()), dynamic_shapes=dynamic)


def _pt2(program: Any, about: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: about})
    return buffer.getvalue()


def _onnx(call: Call, program: Any, about: str) -> bytes:
    count = len(output_leaves(call.run(list(call.tensors.values())), call))
    names = ["output"] if count == 1 else [f"output_{number}" for number in range(count)]
    from tqdm.std import tqdm

    interval, tqdm.monitor_interval = tqdm.monitor_interval, 0  # a thread that watches bars would outlive the call
    try:
        found = torch.onnx.export(
            program, dynamo=True, input_names=call.names, output_names=names, optimize=True, verbose=False
        )
    finally:
        tqdm.monitor_interval = interval
    assert found is not None
    found.model.metadata_props[_KEY] = about
    return found.model_proto.SerializeToString()


# ---------------------------------------------------------------- reading


def load(path: Path, form: str | None = None) -> tuple[Program, dict[str, Any]]:
    """Return what runs an exported file, and what it says of itself.

    The program takes the tensors that go in, one after the other, and returns the outputs.

    Raises
    ------
    CheckpointError
        For a file that is no exported model, or damaged.
    FileNotFoundError
        If there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    form = form_of(path) if form is None else form
    if form is None:
        raise CheckpointError(
            f"{path} ends with {path.suffix or 'nothing'}; expected a file of farabio-like trace: "
            f"{', '.join(SUFFIXES.values())}."
        )
    if form == "onnx":
        needs("onnxruntime", f"{path.name}", extra="export")
    try:
        with quiet():
            program, text = {"jit": _load_jit, "export": _load_pt2, "onnx": _load_onnx}[form](path)
        about = json.loads(text) if text else {}
    except Exception as error:  # of a damaged file, whatever its bytes lead to
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        hint = " It may hold weights alone: give the folder of its run." if form == "jit" else ""
        raise CheckpointError(f"{path} cannot be read as a file of farabio-like trace: {said}.{hint}") from error
    return program, about if isinstance(about, dict) else {}


def form_of(path: Path) -> str | None:
    """Return the format of a file by what is in it, else by its suffix, None where neither tells."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any("/code/" in name for name in names):
            return "jit"
        if any("/models/" in name for name in names):
            return "export"
    return {suffix: name for name, suffix in SUFFIXES.items()}.get(path.suffix)


def _load_jit(path: Path) -> tuple[Program, Any]:
    extra = {ABOUT: ""}
    module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    return module, extra[ABOUT]


def _load_pt2(path: Path) -> tuple[Program, Any]:
    extra = {ABOUT: ""}
    return torch.export.load(path, extra_files=extra).module(), extra[ABOUT]


def _load_onnx(path: Path) -> tuple[Program, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def program(*tensors: Tensor) -> Any:
        given = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
        found = [torch.from_numpy(array) for array in session.run(None, given)]
        return found[0] if len(found) == 1 else found

    return program, session.get_modelmeta().custom_metadata_map.get(_KEY, "")


def run(program: Program, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that come out of a program, in their order."""
    with torch.no_grad(), quiet():
        return [value for value in leaves(program(*tensors)).values() if isinstance(value, Tensor)]


def is_module(program: Program) -> bool:
    """Return whether a program is a module, which has a device."""
    return isinstance(program, nn.Module)
