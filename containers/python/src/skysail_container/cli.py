"""The command line of a container: flags, each also in the environment."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from .container import Container
from .errors import StartError, UsageError, described, place
from .server import serve
from .settings import duration


def _duration(text: str) -> timedelta:
    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# Flag, its type, what it stands for in the help, what it does. The field of `Settings` and the
# variable are named after the flag.
_FLAGS: tuple[tuple[str, Callable[[str], Any], str, str], ...] = (
    ("name", str, "NAME", "what the model is called (default: the class's name for it)"),
    ("version", str, "VERSION", "its version (default: the class's, else 1)"),
    ("listen", str, "ADDR", "HOST:PORT, port 0 for a free one, or unix:/path (default 127.0.0.1:0)"),
    ("advertise", str, "ADDR", "the address told to front ends, HOST or HOST:PORT (default: listen)"),
    ("device", str, "DEVICE", "told to front ends (default cpu)"),
    ("threads", int, "K", "threads that run the model (default 1)"),
    ("max-batch-rows", int, "N", "rows that a call may have; 0: no limit (default 0)"),
    ("batch", str, "SIZING", "aimd, quantile, none, or a number of rows (default: the front end's)"),
    ("batch-wait", _duration, "TIME", "how long a batch waits for company, as in 2ms (default: not)"),
    ("objective", _duration, "TIME", "within what an answer is wanted, as in 50ms"),
    ("timeout", float, "SECONDS", "how long a call may compute; beyond, not ready (default: no limit)"),
    ("max-waiting", int, "N", "calls that may wait for the model (default 64)"),
    ("drain-seconds", float, "SECONDS", "how long a shutdown waits for calls (default 30)"),
)


def main(container: type[Container] | Container, arguments: Sequence[str] | None = None) -> NoReturn:
    """Serves a container as its command line says, and exits.

    Exit codes: 0 after a drain, 1 if it cannot start, 2 for wrong usage.
    """
    parser = _parser(container)
    parsed = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    try:
        serve(_made(container, parsed), **_settings(parsed, parser))
    except UsageError as error:
        parser.error(str(error))
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _made(container: type[Container] | Container, parsed: argparse.Namespace) -> Container:
    if isinstance(container, Container):
        return container
    try:
        return container.from_arguments(parsed)
    except (StartError, UsageError):
        raise
    except Exception as error:
        raise StartError(f"{container.__name__}: {described(error)}{place(error)}") from None


def _parser(container: type[Container] | Container) -> argparse.ArgumentParser:
    kind = type(container) if isinstance(container, Container) else container
    doc = kind.__doc__ if kind.__module__ != __package__ + ".container" else None
    parser = argparse.ArgumentParser(
        description=(doc or "Serves a model to Skysail front ends.").strip().splitlines()[0],
        epilog="Every flag can stand in the environment instead, as SKYSAIL_MAX_BATCH_ROWS; the flag wins.",
    )
    group = parser.add_argument_group("serving")
    group.add_argument(
        "--register",
        action="append",
        metavar="ADDR",
        help="a front end, HOST:PORT; may be given again (in the environment separated by commas)",
    )
    for flag, kind_of_value, metavar, text in _FLAGS:
        group.add_argument(f"--{flag}", type=kind_of_value, metavar=metavar, help=text)
    if isinstance(container, type):
        container.add_arguments(parser)
    return parser


def _settings(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What was given; everything else is left to the defaults of `Settings`."""
    given: dict[str, Any] = {}
    for flag, kind, _, _ in _FLAGS:
        field = flag.replace("-", "_")
        value = getattr(parsed, field)
        variable = "SKYSAIL_" + field.upper()
        if value is None and os.environ.get(variable):
            try:
                value = kind(os.environ[variable])
            except (ValueError, argparse.ArgumentTypeError) as error:
                parser.error(f"{variable}: {error}")
        if value is not None:
            given[field] = value
    front_ends = parsed.register or os.environ.get("SKYSAIL_REGISTER", "").split(",")
    given["register"] = [each.strip() for each in front_ends if each.strip()]
    return given
