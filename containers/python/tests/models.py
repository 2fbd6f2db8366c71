"""Containers for the tests, served by `python3 models.py WHICH [flags of main]`."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from skysail_container import Container, InvalidInput, TensorSpec, main


class Echo(Container):
    """Gives back what it gets, one tensor per datatype asked for."""

    name = "echo"

    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--datatypes", required=True)

    @classmethod
    def from_arguments(cls, arguments):
        echo = cls()
        names = arguments.datatypes.split(",")
        echo.inputs = [TensorSpec(f"in_{name}", name, [-1, -1]) for name in names]
        echo.outputs = [TensorSpec(f"out_{name}", name, [-1, -1]) for name in names]
        return echo

    def predict(self, batch):
        for name, array in batch.items():
            if array.flags.writeable and array.dtype != object:
                raise RuntimeError(f"{name} can be written to")
        return {name.replace("in_", "out_"): array for name, array in batch.items()}


class OwnError(InvalidInput):
    """What a model may raise for bad data."""


def wrong(kind, x):
    """What a model may get wrong, by the number in its first row."""
    match kind:
        case 1:
            raise RuntimeError("the model\nis broken")
        case 2:
            return {"y": x[:-1, 0].copy(), "z": x}
        case 3:
            return {"y": x[:, 0]}
        case 4:
            return {"y": x[:, 0].astype(np.float64), "z": x}
        case 5:
            return {"y": x[:, 0], "z": np.zeros((len(x), 3), np.float32)}
        case 6:
            return None
        case 7:
            sys.exit(3)
        case 8:
            raise KeyboardInterrupt
        case 9:
            raise OwnError("row 0 is out of range")
        case 10:
            return {"y": x[:, 0], "z": x, "extra": x}
        case 11:
            return {"y": x[:, 0], "z": [["a", "b"]] * len(x)}
        case 12:
            raise MemoryError
        case 13:
            raise Unprintable
        case 14:
            raise ValueError("ü" * 100_000)
        case 15:
            # Safe casts and lists are fine.
            return {"y": x[:, 0].astype(np.float16), "z": [[1, 2]] * len(x)}
        case 16:
            return {"y": [[1.0], [1.0, 2.0]], "z": x}
    return {"y": x[:, 0], "z": x}


class Unprintable(Exception):
    """Cannot even say what it is."""

    def __str__(self):
        raise RuntimeError


class Wrong(Container):
    """Fails in the way that the first number asks for."""

    name = "wrong"
    inputs = [TensorSpec("x", "FP32", [-1, 2])]
    outputs = [TensorSpec("y", "FP32", [-1]), TensorSpec("z", "FP32", [-1, 2])]

    def predict(self, batch):
        return wrong(int(batch["x"][0, 0]), batch["x"])


class Gate(Container):
    """Writes down what it computes, and for the value 1 waits until a file is there."""

    name = "gate"
    inputs = [TensorSpec("x", "INT64", [-1])]
    outputs = [TensorSpec("y", "INT64", [-1])]

    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--folder", type=Path, required=True)

    @classmethod
    def from_arguments(cls, arguments):
        gate = cls()
        gate.folder = arguments.folder
        return gate

    def predict(self, batch):
        value = int(batch["x"][0])
        with open(self.folder / "computed", "a") as log:
            log.write(f"{value}\n")
        while value == 1 and not (self.folder / "open").exists():
            time.sleep(0.005)
        return {"y": batch["x"]}


class Hooks(Container):
    """Hooks, a probe, files for the digest, and a signature that `load` completes."""

    name = "hooks"
    version = "7"
    cacheable = False
    inputs = [TensorSpec("text", "BYTES", [-1]), TensorSpec("n", "INT32", [-1])]
    probe = {"text": ["ab", b"c\0"], "n": [2, 1]}

    def load(self):
        self.outputs = [TensorSpec("text", "BYTES", [-1]), TensorSpec("length", "INT64", [-1])]
        self.digest_files = [__file__]

    def preprocess(self, batch):
        if any(not text for text in batch["text"]):
            raise InvalidInput("an empty text")
        return [text * int(n) for text, n in zip(batch["text"], batch["n"])]

    def predict(self, texts):
        return {"text": texts}

    def postprocess(self, outputs):
        return {**outputs, "length": [len(text) for text in outputs["text"]]}


class BadLoad(Container):
    """Its file is missing."""

    name = "bad"
    inputs = outputs = [TensorSpec("x", "FP32", [-1])]

    def load(self):
        open("no-such-model.joblib", "rb")


class BadSignature(Container):
    """Declares one thing and returns another."""

    name = "bad"
    inputs = [TensorSpec("x", "FP32", [-1, 3])]
    outputs = [TensorSpec("y", "FP32", [-1, 5])]

    def predict(self, batch):
        return {"y": batch["x"]}


class BadPredict(BadSignature):
    """Has a mistake in it."""

    def predict(self, batch):
        return {"y": batch["z"]}


class Quits(BadSignature):
    """Leaves while it loads."""

    def load(self):
        sys.exit(0)


CONTAINERS = {
    "echo": Echo, "wrong": Wrong, "gate": Gate, "hooks": Hooks,
    "bad-load": BadLoad, "bad-signature": BadSignature, "bad-predict": BadPredict, "quits": Quits,
}

if __name__ == "__main__":
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("which", choices=CONTAINERS)
    known, rest = chosen.parse_known_args()
    main(CONTAINERS[known.which], rest)
