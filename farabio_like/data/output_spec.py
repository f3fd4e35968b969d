"""`OutputSpec`: what the outputs of a network mean, in plain data; `Description`: that and the input, as a file has it.

How a picture becomes an input is in `input_spec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..config.config import Config, to_dict
from ..errors import ConfigError, DataError, closest
from .input_spec import EXAMPLE, InputSpec

KINDS = ("classes", "masks", "images", "arrays")
TASKS = ("binary", "multiclass", "multilabel")
ACTIVATIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True)
class OutputSpec:
    """What comes out of a network for one input.

    Parameters
    ----------
    output : {"classes", "masks", "images", "arrays"}, optional
        A class for each input; a class for each pixel; pictures, channels x height x width from 0 to 1; numbers of
        which nothing is known. Default: classes where `classes` are given, else arrays.
    classes : sequence of str, optional
        Their names, in the order of the outputs. Two names for one output are those of no and yes.
    task : {"binary", "multiclass", "multilabel"}, optional
        One of two, one of several, or yes and no to each of several. Default: binary for one name, else multiclass.
    thresholds : float or sequence of float, optional
        Above which probability the answer is yes, where the task is binary or multilabel; default: 0.5. One number, or
        one for each class.
    activation : {"softmax", "sigmoid", "none"}, optional
        What makes the model's outputs probabilities. Default: the softmax for multiclass, else the sigmoid.

    Raises
    ------
    ConfigError
        For a value that is not allowed.

    Examples
    --------
    >>> OutputSpec(classes=["cat", "dog"]).answer(torch.tensor([0.25, 0.75]))["class"]
    'dog'
    """

    output: str | None = None
    classes: tuple[str, ...] | None = None
    task: str | None = None
    thresholds: tuple[float, ...] | None = None
    activation: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__  # a frozen dataclass takes its own values in the form that it keeps
        names = self.classes
        if names is not None:
            sequence = isinstance(names, Sequence) and not isinstance(names, str) and len(names) > 0
            if not sequence or not all(isinstance(name, str) and name for name in names):
                raise ConfigError(f'input_spec: classes={names!r}; expected their names: "classes": ["cat", "dog"].')
            if len(set(names)) < len(names):
                raise ConfigError(f"input_spec: classes={list(names)!r}; expected each name once.")
            put(self, "classes", tuple(names))
        put(self, "output", self.output or ("arrays" if names is None else "classes"))
        if self.task is None and self.output in ("classes", "masks"):
            put(self, "task", "binary" if names is not None and len(names) == 1 else "multiclass")
        if self.activation is None:
            of_task = {None: "none", "multiclass": "softmax"}
            put(self, "activation", of_task.get(self.task, "sigmoid"))
        for name, allowed in (("output", KINDS), ("task", (*TASKS, None)), ("activation", ACTIVATIONS)):
            value = getattr(self, name)
            if value not in allowed:
                named = ", ".join(map(str, filter(None, allowed)))
                hint = closest(str(value), filter(None, allowed))
                raise ConfigError(f"input_spec: {name}={value!r}; expected one of {named}.{hint}")
        put(self, "thresholds", self._checked_thresholds())

    def _checked_thresholds(self) -> tuple[float, ...] | None:
        given = self.thresholds
        if given is None:
            return None
        values = [given] if isinstance(given, (int, float)) else given
        listed = isinstance(values, Sequence) and not isinstance(values, str)
        if not listed or not all(_is_part_of_one(value) for value in values):
            raise ConfigError(f"input_spec: thresholds={given!r}; expected probabilities above 0 and below 1: 0.5.")
        if self.task not in ("binary", "multilabel"):
            raise ConfigError(
                f"input_spec: thresholds={given!r} and task={self.task!r}, which takes the most probable class. "
                'Leave thresholds out, or write "task": "multilabel".'
            )
        count = 1 if self.task == "binary" else len(self.classes or values)
        if len(values) not in (1, count):
            raise ConfigError(f"input_spec: {len(values)} thresholds for {count} classes; expected as many, or one.")
        return tuple(float(value) for value in values) * (count if len(values) == 1 else 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, by the names of the parameters."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items() if v is not None}

    # ---------------------------------------------------------------- answers

    def activated(self, outputs: Any) -> Any:
        """Return the outputs of a batch as predictions: of classes as probabilities; anything else as it is.

        Masks stay logits: which class is the largest, and whether one is above a threshold, is seen there too.
        """
        if self.output != "classes" or self.activation == "none" or not isinstance(outputs, Tensor):
            return outputs
        return outputs.softmax(1) if self.activation == "softmax" else outputs.reshape(len(outputs), -1).sigmoid()

    def names(self, count: int) -> list[str]:
        """Return the names of so many outputs: those of the classes, else numbers.

        Raises
        ------
        DataError
            For another number of outputs than there are classes.
        """
        if self.classes is None:
            return [str(number) for number in range(count)]
        if self.task == "binary" and count == 1:
            return [self.classes[-1]]
        if len(self.classes) != count:
            raise DataError(f"the model gives {count} numbers for {len(self.classes)} classes.")
        return list(self.classes)

    def answer(self, prediction: Any) -> Any:
        """Return what the prediction for one input says.

        Parameters
        ----------
        prediction : Tensor
            Of classes their probabilities; of masks logits, classes x height x width; of images channels x height x
            width.

        Returns
        -------
        dict, array or structure of arrays
            Of classes ``{"class": "cat", "probability": 0.9, "probabilities": {"cat": 0.9, "dog": 0.1}}``, of
            multilabel ``{"classes": ["a"], "probabilities": ...}``. Of masks an array of whole numbers, height x width;
            of multilabel one for each class. Of images float32 from 0 to 1, of arrays what came out.
        """
        if self.output == "classes":
            return self._class_of(prediction)
        if self.output == "masks":
            return self._mask_of(prediction)
        if self.output == "images":
            return _as_array(prediction.detach().float().clamp(0, 1))
        return as_arrays(prediction)

    def _class_of(self, prediction: Any) -> dict[str, Any]:
        if not isinstance(prediction, Tensor) or prediction.ndim > 1 or not prediction.is_floating_point():
            raise DataError(
                f"the prediction for one input is {_described(prediction)}; expected a probability for each class."
            )
        row = prediction.detach().reshape(-1).cpu()
        names = self.names(len(row))
        # In the shortest figures that are the same float32 again.
        values = [float(str(value)) for value in row.float().numpy()]
        probabilities = dict(zip(names, values, strict=True))
        if self.task == "multilabel":
            limits = self.thresholds or (0.5,) * len(values)
            chosen = [name for name, p, limit in zip(names, values, limits, strict=True) if p > limit]
            return {"classes": chosen, "probabilities": probabilities}
        if self.task == "binary" and len(values) == 1:
            no, yes = self.classes if self.classes is not None and len(self.classes) == 2 else ("no", names[0])
            says_yes = values[0] > (self.thresholds or (0.5,))[0]
            return {
                "class": yes if says_yes else no,
                "probability": values[0] if says_yes else 1 - values[0],
                "probabilities": probabilities,
            }
        best = int(row.argmax())
        return {"class": names[best], "probability": values[best], "probabilities": probabilities}

    def _mask_of(self, prediction: Any) -> Any:
        if not isinstance(prediction, Tensor) or prediction.ndim < 3:
            raise DataError(
                f"the prediction for one input is {_described(prediction)}; expected classes x height x width."
            )
        self.names(len(prediction))
        if self.task == "multiclass":
            mask = prediction.argmax(0)
        else:
            limits = [_logit(limit) for limit in self.thresholds or (0.5,) * len(prediction)]
            if self.activation == "none":
                limits = list(self.thresholds or (0.5,) * len(prediction))
            mask = prediction > torch.tensor(limits, device=prediction.device).reshape(-1, *[1] * (prediction.ndim - 1))
            mask = mask[0] if self.task == "binary" else mask
        return _as_array(mask.to(torch.uint8 if mask.max() < 256 else torch.int32))


@dataclass(frozen=True)
class Description:
    """What goes into a model, and what comes out of it.

    Attributes
    ----------
    input : InputSpec or None
        None where nothing says how a picture becomes an input.
    output : OutputSpec
    """

    input: InputSpec | None
    output: OutputSpec

    @classmethod
    def of(cls, spec: Any) -> Description:
        """Return what a user's ``self.input_spec`` says: a dict with the names of both, an `InputSpec`, or None.

        Raises
        ------
        ConfigError
            For a key that is not known, and for a value that is not allowed.
        """
        spec = to_dict(spec) if isinstance(spec, Config) else spec
        if isinstance(spec, InputSpec):
            return cls(spec, OutputSpec())
        if spec is None:
            return cls(None, OutputSpec())
        if not isinstance(spec, Mapping):
            InputSpec.from_dict(spec)
        own = [field.name for field in fields(OutputSpec)]
        known = [*own, *(field.name for field in fields(InputSpec))]
        for name in spec:
            if name not in known:
                raise ConfigError(
                    f"input_spec has {name!r}; expected some of {', '.join(known)}.{closest(str(name), known)}"
                )
        given = {name: value for name, value in spec.items() if name not in own}
        output = OutputSpec(**{name: spec[name] for name in own if name in spec})
        return cls(InputSpec.from_dict(given) if given else None, output)

    def prepare(self, image: Any, owner: str, most_pixels: int | None = None) -> Tensor:
        """Return a picture as an input, see `InputSpec.prepare`.

        Parameters
        ----------
        image : picture
        owner : str
            Whose description it is, for the message.
        most_pixels : int, optional

        Raises
        ------
        ConfigError
            Where nothing says how.
        """
        return self.needs_input(owner).prepare(image, most_pixels)

    def needs_input(self, owner: str) -> InputSpec:
        """Return how a picture becomes an input; where nothing says it, raise a ConfigError with the line to write."""
        if self.input is None:
            raise ConfigError(
                f"{owner} does not say how a picture becomes an input. Write in define_data_attr: "
                f"{EXAMPLE}; or write def prepare_input(self, image): return a tensor of channels x height x width."
            )
        return self.input

    @classmethod
    def from_dict(cls, values: Any) -> Description:
        """Return what a file says, as `to_dict` gave it; see `of` for the errors."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"a description is a {type(values).__name__}; expected a dict.")
        output = values.get("classes") or {}
        names = [field.name for field in fields(OutputSpec)]
        if not isinstance(output, Mapping) or not set(map(str, output)) <= {"names", *names}:
            raise ConfigError(f"classes: expected some of names, {', '.join(names[2:])}.")
        output = {"classes" if name == "names" else name: value for name, value in output.items()}
        given = values.get("input")
        read = None if given is None else InputSpec.from_dict(given)
        return cls(read, OutputSpec(output=values.get("output"), **output))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: ``input`` or None, ``output``, and ``classes``: names, task, thresholds, activation."""
        output = self.output.to_dict()
        kind = output.pop("output")
        classes = {"names" if name == "classes" else name: value for name, value in output.items()}
        return {"input": None if self.input is None else self.input.to_dict(), "output": kind, "classes": classes}


def as_arrays(value: Any) -> Any:
    """Return a structure of tensors as one of arrays, on the CPU; mappings become dicts, sequences lists."""
    if isinstance(value, Tensor):
        return _as_array(value)
    if isinstance(value, Mapping):
        return {name: as_arrays(part) for name, part in value.items()}
    return [as_arrays(part) for part in value] if isinstance(value, (list, tuple)) else value


def _as_array(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    # NumPy has no such type.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"of the shape {tuple(value.shape)} and {value.dtype}"
    return f"a {type(value).__name__}"


def _is_part_of_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
