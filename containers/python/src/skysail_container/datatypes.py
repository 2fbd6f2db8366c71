"""The protocol's datatypes, and arrays from and into the bytes and the typed fields of messages."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np

from .errors import invalid


class Datatype(NamedTuple):
    """One datatype of the protocol."""

    #: Little-endian. BYTES: `object`. BF16: the bit patterns, since numpy has no such type.
    dtype: np.dtype
    #: Its field of `InferTensorContents`; None: the datatype travels raw only.
    field: str | None

    @property
    def size(self) -> int:
        """Bytes per element; of no meaning for BYTES."""
        return self.dtype.itemsize


DATATYPES: dict[str, Datatype] = {
    "BOOL": Datatype(np.dtype("?"), "bool_contents"),
    "UINT8": Datatype(np.dtype("<u1"), "uint_contents"),
    "UINT16": Datatype(np.dtype("<u2"), "uint_contents"),
    "UINT32": Datatype(np.dtype("<u4"), "uint_contents"),
    "UINT64": Datatype(np.dtype("<u8"), "uint64_contents"),
    "INT8": Datatype(np.dtype("<i1"), "int_contents"),
    "INT16": Datatype(np.dtype("<i2"), "int_contents"),
    "INT32": Datatype(np.dtype("<i4"), "int_contents"),
    "INT64": Datatype(np.dtype("<i8"), "int64_contents"),
    "FP16": Datatype(np.dtype("<f2"), None),
    "BF16": Datatype(np.dtype("<u2"), None),
    "FP32": Datatype(np.dtype("<f4"), "fp32_contents"),
    "FP64": Datatype(np.dtype("<f8"), "fp64_contents"),
    "BYTES": Datatype(np.dtype(object), "bytes_contents"),
}

CONTENT_FIELDS = sorted({each.field for each in DATATYPES.values() if each.field})


def from_raw(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> np.ndarray:
    """A read-only array that looks into `data`; BYTES are copied out.

    The caller has checked the size of every datatype but BYTES.
    """
    if datatype == "BYTES":
        return _frozen(_split(name, data, math.prod(shape))).reshape(shape)
    if datatype == "BOOL":
        # Any other byte than 0 and 1 in a bool array is undefined behaviour in numpy.
        array = np.frombuffer(data, dtype=np.uint8)
        if array.size and array.max() > 1:
            raise invalid(f"input {name!r}: BOOL has a byte of value {array.max()}, expected 0 or 1")
        return array.view(np.bool_).reshape(shape)
    return np.frombuffer(data, dtype=DATATYPES[datatype].dtype).reshape(shape)


def typed_values(contents: Any, datatype: str) -> Any:
    """The datatype's repeated field; None where it has none."""
    field = DATATYPES[datatype].field
    return None if field is None else getattr(contents, field)


def from_typed(name: str, datatype: str, shape: tuple[int, ...], values: Any) -> np.ndarray:
    """A read-only array of a repeated field's values. The caller has checked how many there are."""
    dtype = DATATYPES[datatype].dtype
    if datatype == "BYTES":
        array = np.empty(len(values), dtype=object)
        array[:] = list(values)
        return _frozen(array).reshape(shape)
    if dtype.kind in "iu" and dtype.itemsize < 4:
        wide = np.array(values, dtype=np.int64)
        limits = np.iinfo(dtype)
        if wide.size and not limits.min <= wide.min() <= wide.max() <= limits.max:
            worst = wide.max() if wide.max() > limits.max else wide.min()
            raise invalid(
                f"input {name!r}: {worst} is outside of {datatype}, which is {limits.min} to {limits.max}"
            )
        return _frozen(wide.astype(dtype)).reshape(shape)
    return _frozen(np.array(values, dtype=dtype)).reshape(shape)


def to_raw(datatype: str, array: np.ndarray) -> bytes:
    """The elements row by row: the one copy on the way out."""
    if datatype == "BYTES":
        pieces: list[bytes] = []
        for element in array.ravel():
            pieces += (struct.pack("<I", len(element)), element)
        return b"".join(pieces)
    return array.tobytes()


def fill_typed(contents: Any, datatype: str, array: np.ndarray) -> None:
    """Puts the elements into the datatype's field. FP16 and BF16 have none."""
    field = DATATYPES[datatype].field
    if field is None:
        raise ValueError(f"{datatype} has no typed contents")
    getattr(contents, field).extend(array.ravel().tolist())


def conformed(value: Any, datatype: str) -> np.ndarray:
    """What user code returned, as an array of the datatype.

    Raises `ValueError` with expected and got where that would lose something.
    """
    if datatype == "BYTES":
        return _bytes_array(value)
    dtype = DATATYPES[datatype].dtype
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if datatype == "BF16":
        # Without a registered type for it, only bit patterns are certain; ml_dtypes names its own.
        if array.dtype.name == "bfloat16":
            array = array.view(np.uint16)
        if array.dtype != np.uint16:
            raise ValueError(f"expected BF16 as uint16 bit patterns or ml_dtypes.bfloat16, got {array.dtype}")
        return array
    if array.dtype == dtype:
        return array
    # An empty list has no type of its own.
    loose = not isinstance(value, (np.ndarray, np.generic)) and array.dtype.kind in "biuf"
    if np.can_cast(array.dtype, dtype, "safe") or (loose and (array.size == 0 or _survives(array, dtype))):
        return array.astype(dtype)
    raise ValueError(
        f"expected {datatype} ({dtype.name}), got {array.dtype}, which does not convert without loss:"
        f" convert it in predict, as in array.astype(numpy.{dtype.name})"
    )


def _survives(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether a list's numbers may become `dtype`: floats may be rounded, nothing else may change."""
    if array.dtype.kind == "f":
        return dtype.kind == "f"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return int(array.min()) >= limits.min and int(array.max()) <= limits.max
    return dtype.kind == "f" and bool(np.array_equal(array.astype(dtype).astype(array.dtype), array))


def _bytes_array(value: Any) -> np.ndarray:
    array = value if isinstance(value, np.ndarray) else _nested(value)
    if array.dtype.kind not in "OSU":
        raise ValueError(f"expected BYTES (an object array of bytes), got {array.dtype}")
    result = np.empty(array.shape, dtype=object)
    flat = result.reshape(-1)
    for index, element in enumerate(array.ravel()):
        if isinstance(element, str):
            element = element.encode()
        elif not isinstance(element, (bytes, bytearray, memoryview)):
            raise ValueError(f"expected BYTES, got {type(element).__name__} at element {index}")
        flat[index] = bytes(element)
    return result


def _nested(value: Any) -> np.ndarray:
    """A list as an object array: numpy's own conversion to `S` would cut trailing zero bytes."""
    if not isinstance(value, (list, tuple)):
        return np.asarray(value, dtype=object)
    if any(isinstance(each, (list, tuple, np.ndarray)) for each in value):
        return np.array(value, dtype=object)
    array = np.empty(len(value), dtype=object)
    array[:] = value
    return array


def _split(name: str, data: bytes, count: int) -> np.ndarray:
    position, end = 0, len(data)
    if count * 4 > end:
        # Before the allocation: a shape costs the caller nothing.
        raise invalid(f"input {name!r}: {end} bytes of contents cannot hold {count} elements with a length each")
    array = np.empty(count, dtype=object)
    for index in range(count):
        if position + 4 > end:
            raise invalid(f"input {name!r}: the contents end after {index} of {count} elements")
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if position + length > end:
            raise invalid(
                f"input {name!r}: element {index} says {length} bytes, but {end - position} are left"
            )
        array[index] = data[position : position + length]
        position += length
    if position != end:
        raise invalid(f"input {name!r}: {end - position} bytes are left behind its {count} elements")
    return array


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
