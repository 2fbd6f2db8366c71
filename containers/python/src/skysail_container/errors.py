"""What a container says when something is not right."""

from __future__ import annotations

import os
import sysconfig
import traceback
from dataclasses import dataclass

import grpc

# Details travel in an HTTP/2 header, and clients take 8 KiB of headers.
_MOST_CHARACTERS = 1024


class InvalidInput(Exception):
    """Raise it, or a subclass, from a hook or from `predict` when the caller's data is at fault.

    The caller gets INVALID_ARGUMENT with the message. Any other exception is the container's own
    failure and becomes INTERNAL.
    """


class StartError(Exception):
    """Why the container cannot start, in one line. The command line prints it and exits with 1."""


class UsageError(Exception):
    """A setting that makes no sense. The command line prints it and exits with 2."""


@dataclass
class Refusal(Exception):
    """An answer other than a result: a gRPC status."""

    code: grpc.StatusCode
    message: str

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> Refusal:
    """INVALID_ARGUMENT."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


def internal(message: str) -> Refusal:
    """INTERNAL."""
    return Refusal(grpc.StatusCode.INTERNAL, message)


def late(message: str) -> Refusal:
    """DEADLINE_EXCEEDED."""
    return Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, message)


def described(error: BaseException) -> str:
    """Type and message in one line of bounded length."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own `__str__` is broken
        text = "(its message cannot be read)"
    name = type(error).__name__
    return shortened(f"{name}: {text}" if text else name)


def shortened(text: str) -> str:
    """At most what fits into a status."""
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def place(error: BaseException) -> str:
    """Where in the user's own code an exception came from, as ` (file, line N)`, or nothing.

    The deepest frame outside of this package, of Python's library and of installed packages: a
    mistake in a model mostly surfaces deep inside a framework.
    """
    foreign = [os.path.dirname(os.path.abspath(__file__)), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = os.path.abspath(frame.filename)
        if not frame.filename.startswith("<") and not file.startswith(tuple(path + os.sep for path in foreign)):
            return f" ({os.path.basename(file)}, line {frame.lineno})"
    return ""
