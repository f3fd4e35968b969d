"""Predictors that the tests serve: each does one thing that a user's may do."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from farabio_like.serving import Answer, Predictor, RequestError


class Double(Predictor):
    """Doubles numbers; a batch that holds a word fails as a whole, and some words do worse."""

    def predict(self, inputs):
        if "kill" in map(str, inputs):
            os.kill(os.getpid(), signal.SIGKILL)
        if "exit" in map(str, inputs):
            raise SystemExit(3)
        if "sleep" in map(str, inputs):
            time.sleep(600)
        return [2 * value if isinstance(value, np.ndarray) else 2 * float(value) for value in inputs]


class Sizes(Predictor):
    """Answers with the size of the batch that an item was in, and the process."""

    def predict(self, inputs):
        return [{"batch": len(inputs), "process": os.getpid()} for _ in inputs]


class Gate(Predictor):
    """Says in a file that it works, and goes on when another file is there."""

    def predict(self, inputs):
        for value in inputs:
            if isinstance(value, str):
                Path(value + ".begun").touch()
                while not Path(value).exists():
                    time.sleep(0.001)
        return [len(inputs) for _ in inputs]


class Words(Predictor):
    """Refuses with words of its own, at each stage."""

    def decode(self, item):
        if item == "decode":
            raise RequestError(418, "decode says no")
        return item

    def predict(self, inputs):
        if "predict" in inputs:
            raise RequestError(409, "predict says no")
        if "short" in inputs and len(inputs) == 1:
            return []
        return [value for value in inputs if value != "short"]

    def encode(self, output):
        if output == "encode":
            raise RequestError(451, "encode says no")
        if output == "own":
            return Answer(b"\x00own", "application/x-own")
        if output == "nan":
            return {"value": float("nan")}
        if output == "object":
            return object()
        return output


class NoSetup(Predictor):
    def setup(self):
        raise FileNotFoundError("/a/secret/path/model.pth is not there")


class DiesInSetup(Predictor):
    def setup(self):
        os._exit(7)


class Mean(Predictor):
    """The mean of a picture."""

    def predict(self, inputs):
        return [{"mode": image.mode, "size": image.size, "mean": float(np.asarray(image).mean())} for image in inputs]
