"""`summary`: a table of a trainer's layers, with output shapes, parameters and memory."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import html
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from . import components, data
from .checks.arguments import whole_number
from .errors import HookError
from .loop import batch as loop_batch
from .loop import evaluation
from .rng import preserved_rng
from .state.rollback import attributes_kept

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer

WIDTH = 80
MEBIBYTE = 1 << 20


@dataclasses.dataclass
class Row:
    """One module: its depth, name, class, the shape of its output, and its parameters with those of all inside it."""

    depth: int
    name: str
    kind: str
    shape: str
    trained: int
    frozen: int
    bytes: int  # of parameters and buffers


@dataclasses.dataclass
class Summary:
    """What `summarize` found; ``str()`` is a table of at most 80 columns.

    Attributes
    ----------
    rows : list of Row
    trained, frozen : int
        Parameters of all models together, shared ones counted once.
    bytes : int
        Of their parameters and buffers.
    output_bytes : int or None
        Of the outputs of all innermost layers for one sample.
    sample : str
        The shape of its inputs, or why there are no shapes.
    """

    rows: list[Row]
    trained: int
    frozen: int
    bytes: int
    output_bytes: int | None
    sample: str

    def __str__(self) -> str:
        heads = ("layer", "output shape", "trained", "frozen", "MiB")
        table = [
            ("  " * r.depth + f"{r.name} {r.kind}".strip(), r.shape, *map(_count, (r.trained, r.frozen)), _mib(r.bytes))
            for r in self.rows
        ]
        columns = [1, 2, 3, 4] if self.frozen else [1, 2, 4]
        widths = {c: min(max(len(row[c]) for row in [heads, *table]), 22) for c in columns}
        room = WIDTH - sum(width + 2 for width in widths.values())
        first = min(room, max(len(row[0]) for row in [heads, *table]))
        lines = [
            _cut(row[0], first).ljust(first) + "".join("  " + _cut(row[c], widths[c]).rjust(widths[c]) for c in columns)
            for row in [heads, *table]
        ]
        rule = "-" * len(lines[0])
        share = f", {self.frozen:,} frozen" if self.frozen else ""
        memory = f"{_mib(self.bytes)} MiB of parameters and buffers"
        if self.output_bytes is not None:
            memory += f", {_mib(self.output_bytes)} MiB of outputs for one sample"
        closing = [f"{self.trained:,} parameters trained{share}", memory, *_wrapped(self.sample)]
        return "\n".join([lines[0], rule, *lines[1:], rule, *closing])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def summarize(trainer: ConvnetTrainer, depth: int = 3) -> Summary:
    """Return a summary of the models, after one forward of a real sample, which leaves the trainer as it was.

    The sample is the first of the first batch of the train loader (or the valid or test loader); it goes through
    `ConvnetTrainer.forward`, or `ConvnetTrainer.compute_loss` where that is not for this trainer, in eval mode and
    without gradients. Flags, random numbers and the trainer's attributes are given back. A loader that can be read
    only once is left alone, and so are lazy modules, which a forward would build: then there are no shapes.

    Parameters
    ----------
    trainer : ConvnetTrainer
    depth : int
        How deep to go into modules within modules.

    Returns
    -------
    Summary

    Raises
    ------
    ConfigError
        For a depth below 1.
    """
    whole_number("summary(depth)", depth)
    model = components.model_of(trainer)
    named = list(model.items()) if isinstance(model, Mapping) else [("", model)] if model is not None else []
    modules = {str(name): components.unwrap(module) for name, module in named}
    outputs: dict[int, list[Any]] = {}
    sample = _forward(trainer, list(modules.values()), outputs)
    rows: list[Row] = []
    for name, module in modules.items():
        rows += _rows(module, name, 0, depth, outputs)
    trained, frozen, size = _numbers(list(modules.values()))
    inner = [id(part) for module in modules.values() for part in module.modules() if not list(part.children())]
    there = [output for part in dict.fromkeys(inner) for output in outputs.get(part, ())]
    held = sum(t.numel() * t.element_size() for output in there for t in _tensors(output)) if there else None
    return Summary(rows, trained, frozen, size, held, sample)


def _rows(module: nn.Module, name: str, depth: int, most: int, outputs: dict[int, list[Any]]) -> list[Row]:
    trained, frozen, size = _numbers([module])
    seen = outputs.get(id(module))
    shape = _shape(seen[-1]) if seen else "-"
    rows = [Row(depth, name, type(module).__name__, shape, trained, frozen, size)]
    if depth < most:
        for child, part in module.named_children():
            rows += _rows(part, child, depth + 1, most, outputs)
    return rows


def _numbers(modules: list[nn.Module]) -> tuple[int, int, int]:
    """Return the parameters that are trained, those that are frozen, and the bytes of all with the buffers."""
    parameters = {id(p): p for module in modules for p in module.parameters() if not components.is_lazy(p)}
    buffers = {id(b): b for module in modules for b in module.buffers() if not components.is_lazy(b)}
    trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
    tensors = [*parameters.values(), *buffers.values()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return trained, sum(p.numel() for p in parameters.values()) - trained, size


def _forward(trainer: ConvnetTrainer, modules: list[nn.Module], outputs: dict[int, list[Any]]) -> str:
    """Send one sample through the models, note every module's outputs, and return what the sample was."""
    parts = {id(part): part for module in modules for part in module.modules()}
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    if any(components.is_lazy(tensor) for tensor in tensors):
        return "no shapes: there are lazy modules, which the first batch builds"
    loader = next((x for x in (trainer.train_loader, trainer.valid_loader, trainer.test_loader) if x is not None), None)
    if loader is None or isinstance(loader, Iterator):
        return "no shapes: there is no loader" if loader is None else "no shapes: the loader can be read only once"

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.setdefault(id(module), []).append(output)

    handles = [part.register_forward_hook(note) for part in parts.values()]
    compiled = any(type(module).__name__ == "OptimizedModule" for module in components.modules_of(trainer))
    eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    try:
        with attributes_kept(trainer), preserved_rng(loader), eager:
            batch = _first_sample(next(iter(data.read_batches(_without_workers(loader))), None))
            with evaluation.evaluation(trainer), loop_batch.single_batch(trainer, batch), trainer.autocast():
                trainer.take_batch((0, batch))
                inputs = getattr(trainer, "inputs", batch)
                try:
                    trainer.forward()
                except HookError:  # several models, used in compute_loss
                    trainer.compute_loss()
            return f"one sample: {_shape(inputs)}"
    except Exception as error:  # the table is worth having without shapes
        return f"shapes are incomplete: {type(error).__name__}: {error}"
    finally:
        for handle in handles:
            handle.remove()


def _without_workers(loader: Any) -> Any:
    """Return a loader of the same batches that starts no process for one of them."""
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return loader
    loader = copy.copy(loader)
    loader.num_workers, loader.timeout = 0, 0
    return loader


def _first_sample(batch: Any) -> Any:
    """Return the batch with the first entry alone of every tensor that has one per sample."""
    samples = data.batch_size(batch)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:1] if value.ndim and len(value) == samples else value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {part.name: cut(getattr(value, part.name)) for part in dataclasses.fields(value) if part.init}
            return dataclasses.replace(value, **fields)
        if isinstance(value, Mapping) and type(value) is dict:
            return {key: cut(part) for key, part in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(cut, value))
        return type(value)(map(cut, value)) if type(value) in (list, tuple) else value

    return cut(batch)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _shape(output: Any) -> str:
    tensors = _tensors(output)
    if not tensors:
        return "-"
    return " x ".join(map(str, tensors[0].shape)) + (f" +{len(tensors) - 1}" if len(tensors) > 1 else "")


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _mib(size: int) -> str:
    return f"{size / MEBIBYTE:,.2f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH, max_lines=3)
