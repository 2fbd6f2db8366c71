"""From a ModelInfer request to a call of user code and back, checking both sides.

What can be checked without looking at the elements is checked on the event loop, so that a wrong
call is refused without waiting for the model. Arrays are made, and answers encoded, on the thread
of the user's code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from .container import Batch, Container, TensorSpec
from .datatypes import CONTENT_FIELDS, DATATYPES, conformed, fill_typed, from_raw, from_typed, to_raw, typed_values
from .errors import Refusal, internal, invalid
from .messages import message

_ModelInferResponse = message("inference.ModelInferResponse")


@dataclass(frozen=True)
class Model:
    """A container under the name and version that it is served as."""

    container: Container
    name: str
    version: str
    #: 0: no limit.
    max_batch_rows: int
    max_message_bytes: int

    def check_name(self, name: str, version: str) -> None:
        """NOT_FOUND unless it is this one; an empty version is any."""
        if name != self.name or version not in ("", self.version):
            asked = f"{name!r} version {version!r}" if version else repr(name)
            raise Refusal(
                grpc.StatusCode.NOT_FOUND,
                f"model {asked} is not here; this container serves {self.name!r} version {self.version!r}",
            )


class Call:
    """A request that is well-formed as far as its metadata says."""

    def __init__(self, model: Model, request: Any) -> None:
        model.check_name(request.model_name, request.model_version)
        self._model = model
        self._request = request
        self._raw = _representation(request)
        self._tensors = _by_name(request.inputs)
        self._requested = _requested(model.container.outputs, request.outputs)
        self.rows = self._check_inputs()
        if 0 < model.max_batch_rows < self.rows:
            raise invalid(f"{self.rows} rows in one call; this container takes at most {model.max_batch_rows}")

    def run(self) -> Any:
        """Computes the response. For the user code's thread."""
        answer = compute(self._model.container, self.batch(), self.rows)
        return self._encoded({spec.name: answer[spec.name] for spec in self._requested})

    def batch(self) -> Batch:
        """The inputs as arrays, in the order of the signature."""
        batch = {}
        for spec in self._model.container.inputs:
            position, tensor = self._tensors[spec.name]
            shape = tuple(tensor.shape)
            if self._raw:
                data = self._request.raw_input_contents[position]
                batch[spec.name] = from_raw(spec.name, spec.datatype, shape, data)
            else:
                values = typed_values(tensor.contents, spec.datatype)
                batch[spec.name] = from_typed(spec.name, spec.datatype, shape, values)
        return batch

    def _check_inputs(self) -> int:
        specs = self._model.container.inputs
        if set(self._tensors) != {spec.name for spec in specs}:
            got = ", ".join(self._tensors) or "none"
            raise invalid(f"expected the inputs {', '.join(spec.name for spec in specs)}; got {got}")
        rows: dict[str, int] = {}
        for spec in specs:
            position, tensor = self._tensors[spec.name]
            if tensor.datatype != spec.datatype:
                raise invalid(f"input {spec.name!r}: expected datatype {spec.datatype}, got {tensor.datatype!r}")
            if not spec.fits(tensor.shape) or any(size < 0 for size in tensor.shape):
                raise invalid(
                    f"input {spec.name!r}: expected shape {list(spec.shape)}, got {list(tensor.shape)}"
                )
            if tensor.shape[0] == 0:
                raise invalid(f"input {spec.name!r}: no rows")
            self._check_size(spec, position, tensor)
            rows[spec.name] = tensor.shape[0]
        if len(set(rows.values())) > 1:
            raise invalid(
                "inputs differ in rows: " + ", ".join(f"{name} has {count}" for name, count in rows.items())
            )
        return next(iter(rows.values()))

    def _check_size(self, spec: TensorSpec, position: int, tensor: Any) -> None:
        """That the contents are as long as the shape says."""
        count = math.prod(tensor.shape)
        if self._raw:
            got, expected = len(self._request.raw_input_contents[position]), count * DATATYPES[spec.datatype].size
            if spec.datatype != "BYTES" and got != expected:
                raise invalid(
                    f"input {spec.name!r}: {spec.datatype} of shape {list(tensor.shape)} takes {expected} bytes,"
                    f" got {got}"
                )
            return
        field = DATATYPES[spec.datatype].field
        if field is None:
            raise invalid(f"input {spec.name!r}: {spec.datatype} has no typed contents; send raw_input_contents")
        for other in CONTENT_FIELDS:
            if other != field and len(getattr(tensor.contents, other)):
                raise invalid(f"input {spec.name!r}: {spec.datatype} belongs into {field}, got {other}")
        got = len(getattr(tensor.contents, field))
        if got != count:
            raise invalid(
                f"input {spec.name!r}: shape {list(tensor.shape)} takes {count} elements, got {got} in {field}"
            )

    def _encoded(self, answer: Mapping[str, np.ndarray]) -> Any:
        request = self._request
        response = _ModelInferResponse(
            model_name=self._model.name, model_version=self._model.version, id=request.id
        )
        # Raw or typed is decided for the whole answer, and some datatypes have raw contents only.
        raw = self._raw or any(DATATYPES[spec.datatype].field is None for spec in self._requested)
        for spec in self._requested:
            array = answer[spec.name]
            tensor = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
            if raw:
                response.raw_output_contents.append(to_raw(spec.datatype, array))
            else:
                fill_typed(tensor.contents, spec.datatype, array)
        size = response.ByteSize()
        if size > self._model.max_message_bytes:
            raise internal(f"the answer has {size} bytes, above the limit of {self._model.max_message_bytes}")
        return response


def _representation(request: Any) -> bool:
    """Whether the contents are raw. Raw and typed exclude each other across the whole request."""
    raw, inputs = len(request.raw_input_contents), request.inputs
    if not raw:
        return False
    for tensor in inputs:
        if any(len(getattr(tensor.contents, field)) for field in CONTENT_FIELDS):
            raise invalid(f"input {tensor.name!r} has typed contents in a request with raw_input_contents")
    if raw != len(inputs):
        raise invalid(f"raw_input_contents has {raw} entries for {len(inputs)} inputs")
    return True


def _by_name(tensors: Iterable[Any]) -> dict[str, tuple[int, Any]]:
    found: dict[str, tuple[int, Any]] = {}
    for position, tensor in enumerate(tensors):
        if tensor.name in found:
            raise invalid(f"input {tensor.name!r} is there twice")
        found[tensor.name] = (position, tensor)
    return found


def _requested(specs: Sequence[TensorSpec], wanted: Sequence[Any]) -> list[TensorSpec]:
    """The outputs to answer with, in the order asked for; all where none is named."""
    if not wanted:
        return list(specs)
    known = {spec.name: spec for spec in specs}
    names = [each.name for each in wanted]
    for name in names:
        if name not in known:
            raise invalid(f"no output {name!r}; the outputs are {', '.join(known)}")
        if names.count(name) > 1:
            raise invalid(f"output {name!r} is asked for twice")
    return [known[name] for name in names]


def compute(container: Container, batch: Batch, rows: int) -> dict[str, np.ndarray]:
    """Runs user code and checks what it gives back against the signature."""
    outputs = container.postprocess(container.predict(container.preprocess(batch)))
    if not isinstance(outputs, Mapping):
        raise internal(f"predict returned {type(outputs).__name__}, expected a dict of arrays by output name")
    names = [spec.name for spec in container.outputs]
    if set(outputs) != set(names):
        got = ", ".join(map(str, outputs)) or "none"
        raise internal(f"predict returned the outputs {got}; expected {', '.join(names)}")
    return {spec.name: _checked(spec, outputs[spec.name], rows) for spec in container.outputs}


def _checked(spec: TensorSpec, value: Any, rows: int) -> np.ndarray:
    try:
        array = conformed(value, spec.datatype)
    except (ValueError, TypeError, OverflowError) as error:
        raise internal(f"output {spec.name!r}: {error}") from error
    expected = [rows if spec.shape[0] == -1 else spec.shape[0], *spec.shape[1:]]
    if not array.shape or array.shape[0] != expected[0] or not spec.fits(array.shape):
        raise internal(
            f"output {spec.name!r}: expected shape {expected} for {rows} {'row' if rows == 1 else 'rows'},"
            f" got {list(array.shape)}"
        )
    return array


def probe(container: Container) -> Batch:
    """The self-test's input: the class's own, or zeros with free dimensions as 1 and BYTES empty."""
    if container.probe is None:
        batch = {}
        for spec in container.inputs:
            shape = [1 if size == -1 else size for size in spec.shape]
            fill: Any = b"" if spec.datatype == "BYTES" else 0
            batch[spec.name] = np.full(shape, fill, dtype=DATATYPES[spec.datatype].dtype)
        return batch
    if set(container.probe) != {spec.name for spec in container.inputs}:
        raise ValueError(f"the probe has {', '.join(container.probe) or 'nothing'}, not the inputs")
    batch = {}
    for spec in container.inputs:
        try:
            batch[spec.name] = conformed(container.probe[spec.name], spec.datatype)
        except ValueError as error:
            raise ValueError(f"probe of {spec.name!r}: {error}") from error
        shape = batch[spec.name].shape
        if not spec.fits(shape) or 0 in shape:
            raise ValueError(f"probe of {spec.name!r}: expected shape {list(spec.shape)}, got {list(shape)}")
    if len({array.shape[0] for array in batch.values()}) > 1:
        raise ValueError("the probe's inputs differ in rows")
    return batch
