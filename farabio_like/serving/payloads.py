"""Items and answers on the wire: JSON, ``.npy``, pictures, and codecs for classes of one's own.

Knows neither HTTP nor the queue. Nothing here unpickles what a client sent.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError
from .predictor import Answer, RequestError

JSON = "application/json"
NPY = "application/x-npy"
CODEC = "application/x-codec"


@dataclass(frozen=True)
class Codec:
    """How objects of some class become bytes and come back, under a name; see `register_codec`."""

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


@dataclass(frozen=True)
class Coded:
    """Bytes of a request that the worker decodes with the codec of a name."""

    codec: str
    data: bytes


_CODECS: dict[str, Codec] = {}


def register_codec(name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> Codec:
    """Make a codec known by name, on the side of the client and, in the file of the `Predictor`, of the server.

    Parameters
    ----------
    name : str
        What clients write: ``Content-Type: application/x-codec; name=NAME``, or ``call(..., codec=NAME)``.
    encode : callable
        From an object to bytes.
    decode : callable
        From bytes to an object; it is given what strangers sent.

    Raises
    ------
    ConfigError
        Where the name is taken by other functions.
    """
    codec = Codec(name, encode, decode)
    if _CODECS.setdefault(name, codec) != codec:
        raise ConfigError(f"register_codec({name!r}, ...): another codec has this name. Choose another one.")
    return codec


def codec_named(name: str) -> Codec:
    """Return a codec that was registered, or raise a RequestError (422)."""
    if name not in _CODECS:
        raise RequestError(422, f"there is no codec {name!r} here")
    return _CODECS[name]


def forget_codec(name: str) -> None:
    """Undo `register_codec`."""
    _CODECS.pop(name, None)


def from_json(body: bytes) -> tuple[list[Any], bool]:
    """Return the items that a JSON request has, and whether they are several.

    Parameters
    ----------
    body : bytes
        ``{"image": BASE64}`` or ``{"inputs": [...]}``.

    Raises
    ------
    RequestError
        422, with what is wrong.
    """
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise RequestError(422, "the JSON is nested too deeply") from None
    except ValueError as error:
        raise RequestError(422, f"the body is no JSON: {str(error).partition(chr(10))[0][:200]}") from None
    if not isinstance(document, dict) or len(document) != 1 or not {"image", "inputs"} & set(document):
        raise RequestError(422, 'expected {"image": base64} or {"inputs": [...]}')
    if "image" in document:
        return [_from_base64(document["image"])], False
    if not isinstance(document["inputs"], list) or not document["inputs"]:
        raise RequestError(422, 'expected {"inputs": [...]} with at least one entry')
    return document["inputs"], True


def from_multipart(body: bytes, content_type: str) -> list[Any]:
    """Return the files of a form, each as its bytes; a ``.npy`` among them as its array.

    Parameters
    ----------
    body : bytes
    content_type : str
        The header, which names the boundary (RFC 7578 and 2046).

    Raises
    ------
    RequestError
        422 where the form is damaged, or has other fields than ``file``.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise RequestError(422, "the form's Content-Type names no boundary")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    if not parts or not parts.pop().startswith(b"--"):
        raise RequestError(422, "the form is cut short")
    return [_file_of(part) for part in parts] or _no_file()


def _no_file() -> list[Any]:
    raise RequestError(422, 'the form has no field "file"')


def _file_of(part: bytes) -> Any:
    head, found, data = part.partition(b"\r\n\r\n")
    headers = BytesParser().parsebytes(head.strip(b" \t\r\n") + b"\r\n\r\n", headersonly=True)
    name = headers.get_param("name", header="content-disposition")
    if not found or name != "file":
        raise RequestError(422, f'the form has a field {str(name)[:50]!r}; expected "file", once or several times')
    return from_npy(data) if data.startswith(b"\x93NUMPY") else data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise RequestError(422, f'"image" is {type(text).__name__}; expected the base64 of a file as a string')
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(422, '"image" is no base64') from None


def from_npy(body: bytes) -> np.ndarray:
    """Return the array of a ``.npy`` file; no pickle, no objects, and no more memory than the bytes that came.

    Raises
    ------
    RequestError
        422, with what is wrong.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except Exception:
        raise RequestError(422, "the body is no .npy file (written by numpy.save)") from None
    if dtype.hasobject or dtype.kind not in "biufc":
        raise RequestError(422, f"the array holds {dtype}; expected numbers")
    left = len(body) - stream.tell()
    if any(n < 1 for n in shape) or math.prod(shape) * dtype.itemsize != left:
        raise RequestError(422, f"the .npy says {shape} of {dtype}, and {left} bytes follow")
    array = np.frombuffer(body, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))  # a copy: what is decoded may be written to


def samples_of(array: np.ndarray, axes: int | None, takes_pixels: bool = False) -> tuple[list[Any], bool]:
    """Return the samples that an array holds, and whether it is a batch.

    Parameters
    ----------
    array : numpy.ndarray
    axes : int or None
        The number of axes of one sample; None where the first axis is that of a batch in any case.
    takes_pixels : bool
        Whether whole numbers of 8 or 16 bits are pictures, as `Predictor.takes_pixels` says.
    """
    if takes_pixels and array.dtype in (np.uint8, np.uint16, np.bool_):
        axes = 3 if array.ndim > 2 and array.shape[-1] in (1, 3, 4) else 2
    if axes is not None and array.ndim == axes:
        return [array], False
    if array.ndim == 0 or (axes is not None and array.ndim != axes + 1):
        expected = "an axis for the batch first" if axes is None else f"{axes} axes, or one more for a batch"
        raise RequestError(422, f"the array has the shape {array.shape}; expected {expected}")
    return list(array), True


def to_npy(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a ``.npy`` file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


Rendered = tuple[str, bytes]  # media type, body


def render(answer: Any, as_npy: bool = False) -> Rendered:
    """Return an answer of ``Predictor.encode`` as bytes with their media type.

    Parameters
    ----------
    answer : Any
        Plain data, an array, a tensor, a picture of PIL, bytes, or an `Answer`.
    as_npy : bool
        Whether the client wants arrays as ``.npy``, not JSON.

    Raises
    ------
    RequestError
        500 where the answer has no such form.
    """
    if isinstance(answer, Answer):
        return answer.media_type, answer.body
    if isinstance(answer, bytes):
        return "application/octet-stream", answer
    if isinstance(answer, torch.Tensor):
        answer = answer.detach().cpu()
        answer = (answer.float() if answer.dtype == torch.bfloat16 else answer).numpy()
    is_picture = hasattr(answer, "save") and hasattr(answer, "getbands")  # of PIL, which need not be there
    if as_npy and (is_picture or isinstance(answer, np.ndarray | np.generic)):
        return NPY, to_npy(np.asarray(answer))
    if is_picture:
        stream = io.BytesIO()
        answer.save(stream, "PNG")
        return "image/png", stream.getvalue()
    try:
        return JSON, json.dumps(answer, allow_nan=False, default=_plain, ensure_ascii=False).encode()
    except ValueError as error:
        if "Out of range float" not in str(error):
            raise
        hint = "; Accept: application/x-npy can carry them" if isinstance(answer, np.ndarray) else ""
        raise RequestError(500, f"the answer holds NaN or infinity, which JSON has no word for{hint}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"encode returned {type(value).__name__}; expected plain data, an array, a picture or an Answer")


def joined(answers: list[Rendered]) -> Rendered:
    """Return the answers of several items as one: a stacked ``.npy``, or JSON ``{"outputs": [...]}``."""
    if all(media_type == NPY for media_type, _ in answers):
        arrays = [from_npy(body) for _, body in answers]
        if len({(array.shape, array.dtype) for array in arrays}) == 1:
            return NPY, to_npy(np.stack(arrays))
        answers = [render(array) for array in arrays]
    return JSON, b'{"outputs": [' + b", ".join(map(_entry, answers)) + b"]}"


def _entry(answer: Rendered) -> bytes:
    media_type, body = answer
    if media_type == JSON:
        return body
    text = base64.b64encode(body).decode()
    return json.dumps({"media_type": media_type, "base64": text}).encode()


def error_body(text: str) -> bytes:
    """Return the one line of JSON that an error is answered with."""
    return json.dumps({"error": " ".join(text.split())}, ensure_ascii=False).encode()
