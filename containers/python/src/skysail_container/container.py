"""What a user writes: a model and its signature."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from .datatypes import DATATYPES

#: Input by name. Arrays are read-only and have rows first; BYTES is an object array of `bytes`,
#: BF16 a `uint16` array of bit patterns.
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    `shape` starts with the rows' dimension, -1 wherever a caller may choose the number of rows. Any
    other -1 is a dimension that may differ from call to call.
    """

    name: str
    datatype: str
    shape: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if not self.name:
            raise ValueError("a tensor needs a name")
        if self.datatype not in DATATYPES:
            raise ValueError(f"{self.name}: datatype {self.datatype!r} is not one of {', '.join(DATATYPES)}")
        if not self.shape:
            raise ValueError(f"{self.name}: the shape needs at least the rows' dimension, as in [-1]")
        if any(size < -1 or size == 0 for size in self.shape):
            raise ValueError(f"{self.name}: shape {list(self.shape)} has a size other than -1 or a positive number")

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an actual shape is one of those that this stands for."""
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(want in (-1, got) for want, got in pairs)


class Container:
    """A model to serve. Subclass it, name inputs and outputs, and write `predict`.

    No method is ever called on the event loop, and none concurrently unless the setting `threads`
    is above 1. Whatever a method raises, the process stays up and answers the next call.
    """

    #: What callers must send, and what they get.
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    #: Defaults of the settings `name` and `version`.
    name: str = ""
    version: str = "1"

    #: Input of the self-test at start and of the front ends' test inference. None: zeros, a free
    #: dimension as 1, BYTES empty. Set it where a model cannot take that.
    probe: Mapping[str, Any] | None = None

    #: Files that the model was read from; their sha256 tells a front end when the "same" version is
    #: in fact another build. It is computed after `load`, so `load` may set it.
    digest_files: Iterable[str | Path] = ()

    #: False for a model that may answer the same input differently each time.
    cacheable: bool = True

    def load(self) -> None:
        """Reads the model. Called once, before anything else and before registration."""

    def preprocess(self, batch: Batch) -> Any:
        """Turns the input into what `predict` takes. The default passes it on."""
        return batch

    def predict(self, batch: Any) -> Mapping[str, Any]:
        """Answers every row of the batch: one array per output, by name, rows first.

        Arrays must have the declared datatype or one that converts to it without loss in every case
        (`numpy.can_cast(…, "safe")`): FP64 into FP32 is refused, INT32 into INT64 is not. Lists are
        converted if their values survive it. BYTES takes `bytes` and `str` (as UTF-8).

        Raise `InvalidInput` where the data is at fault: the caller sees INVALID_ARGUMENT. Any other
        exception is logged with its traceback and answered as INTERNAL.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict method")

    def postprocess(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Turns what `predict` returned into the outputs. The default passes it on."""
        return outputs

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Adds flags of its own to the command line of `main`."""

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        """Makes the container that the command line asks for. The default takes no argument."""
        return cls()

    @staticmethod
    def from_function(
        function: Callable[[Batch], Mapping[str, Any]],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        **attributes: Any,
    ) -> Container:
        """Serves a plain function; `attributes` are those above, `probe=…` for example."""
        return _Function(function, inputs, outputs, attributes)


class _Function(Container):
    def __init__(
        self,
        function: Callable[[Batch], Mapping[str, Any]],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        attributes: dict[str, Any],
    ) -> None:
        allowed = ("name", "version", "probe", "digest_files", "cacheable")
        for name, value in attributes.items():
            if name not in allowed:
                raise TypeError(f"{name!r} is not one of {', '.join(allowed)}")
            setattr(self, name, value)
        self.name = self.name or getattr(function, "__name__", "")
        self.inputs, self.outputs, self._function = inputs, outputs, function

    def predict(self, batch: Any) -> Mapping[str, Any]:
        return self._function(batch)


def digest(files: Iterable[str | Path]) -> str:
    """The sha256 of the files' contents, in the order given, in hexadecimal; "" without files.

    A single file has the sum that `sha256sum` prints.
    """
    whole, count = hashlib.sha256(), 0
    for count, file in enumerate(files, start=1):
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                whole.update(block)
    return whole.hexdigest() if count else ""
