"""What answers requests: a class that decodes, predicts and encodes, and the error by which it refuses one request.

Plain Python, without a server. How items and answers look on the wire is in `payloads`; which model is behind a run
folder or a file is in `sources`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, FarabioError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000


class RequestError(FarabioError):
    """One request is refused with a status and a text of one's own; the others of its batch do not notice.

    Raise it in `Predictor.decode`, `Predictor.predict` or `Predictor.encode`. (In ``predict`` the batch is tried
    again one by one first, so that the error reaches the right client.)

    Parameters
    ----------
    status : int
        An HTTP status from 400 to 599.
    text : str
        Sent to this client as ``{"error": text}``.
    """

    def __init__(self, status: int, text: str) -> None:
        if not (isinstance(status, int) and 400 <= status <= 599):
            raise ConfigError(f"RequestError({status!r}, ...): the status is one from 400 to 599, as 422.")
        super().__init__(status, text)
        self.status = status
        self.text = str(text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Answer:
    """An answer in a form of one's own, returned by `Predictor.encode`.

    Parameters
    ----------
    body : bytes
    media_type : str
        As ``"image/webp"``.
    """

    body: bytes
    media_type: str


class Predictor:
    """Base of what is served: override what your model needs, `predict` at least.

    It is a class like any other and can be called without a server: ``Predictor()([item, item])``. The server makes
    one in every worker process.

    Attributes
    ----------
    device : str
        ``"cpu"``, ``"cuda:0"``, ... Set before `setup`; where to put the model.
    max_pixels : int
        Pictures with more pixels are refused before they are decoded.
    array_axes : int or None
        The number of axes of the array of one sample, as 3 for (C, H, W). A ``.npy`` with one axis more is a batch.
        None: its first axis always is that of a batch.
    takes_pixels : bool
        Whether arrays of whole numbers of 8 or 16 bits are pictures: height x width, with 1, 3 or 4 channels last.
    """

    device: str = "cpu"
    max_pixels: int = MAX_PIXELS
    array_axes: int | None = None
    takes_pixels: bool = False
    _is_set_up = False

    def setup(self) -> None:
        """Load the model. Called once in every worker, before the first request; ``/ready`` waits for it."""

    def decode(self, item: Any) -> Any:
        """Turn one item of a request into one input of `predict`. Called for each item, alone.

        Parameters
        ----------
        item : bytes, numpy.ndarray, or plain data
            The bytes of a file (``multipart/form-data``, or base64 in JSON), an array (``.npy``), one entry of
            ``"inputs"`` in JSON, or what a codec has decoded.

        Returns
        -------
        Any
            By default the picture that the bytes are, as a ``PIL.Image.Image``; anything else as it came.

        Raises
        ------
        RequestError
            To refuse this request alone.
        """
        return self.read_image(item) if isinstance(item, bytes) else item

    def predict(self, inputs: list[Any]) -> Sequence[Any]:
        """Return one output for each input, in their order. Called with at most ``--max-batch`` inputs.

        When it raises, or returns another number of outputs, each request of the batch is decoded and predicted
        again alone, and only the one that fails gets an error.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no predict. Write def predict(self, inputs): return [...]"
        )

    def encode(self, output: Any) -> Any:
        """Turn one output into an answer. Called for each output, alone.

        Returns
        -------
        Any
            Plain data (sent as JSON), an array or tensor (JSON, or ``.npy`` where the client asked for it), a
            ``PIL.Image.Image`` (PNG), bytes, or an `Answer`.
        """
        return output

    def close(self) -> None:
        """Called when the worker ends."""

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        """Decode, predict and encode some items, without a server."""
        if not self._is_set_up:
            self.setup()
            self._is_set_up = True
        inputs = [self.decode(item) for item in items]
        return [self.encode(output) for output in checked_outputs(self, self.predict(inputs), len(inputs))]

    def read_image(self, data: bytes) -> Image:
        """Return the picture that some bytes are, decoded whole.

        Raises
        ------
        RequestError
            422 for what is no picture, or is damaged or truncated; 413 for more than `max_pixels` pixels.
        """
        image = self.opened_image(data)
        try:
            image.load()
        # Damaged files raise whatever their decoder stumbles over.
        except Exception as error:
            raise RequestError(422, f"the picture is damaged or truncated ({type(error).__name__})") from None
        return image

    def opened_image(self, data: bytes) -> Image:
        """Return the picture that some bytes are with its size known and its pixels not yet decoded.

        Raises
        ------
        RequestError
            422 for what is no picture; 413 for more than `max_pixels` pixels.
        """
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(data))
        except Image.DecompressionBombError:
            raise RequestError(413, f"the picture has more than {self.max_pixels} pixels") from None
        except Image.UnidentifiedImageError:
            raise RequestError(422, f"these {len(data)} bytes are no picture of a known format") from None
        except Exception as error:
            raise RequestError(422, f"the picture is damaged or truncated ({type(error).__name__})") from None
        if (pixels := image.width * image.height) > self.max_pixels:
            raise RequestError(413, f"the picture has {pixels} pixels; {self.max_pixels} are allowed")
        return image


def checked_outputs(predictor: Predictor, outputs: Any, count: int) -> list[Any]:
    """Return the outputs of ``predict`` as a list, or raise a ConfigError where they are not one for each input."""
    name = type(predictor).__name__
    if isinstance(outputs, str | bytes | dict) or not hasattr(outputs, "__len__"):
        raise ConfigError(f"{name}.predict returned {type(outputs).__name__}; expected a list, one output per input.")
    if len(outputs) != count:
        raise ConfigError(f"{name}.predict returned {len(outputs)} outputs for {count} inputs; expected one for each.")
    return list(outputs)
