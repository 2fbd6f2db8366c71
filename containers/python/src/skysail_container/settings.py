"""How a container is served, and the checks on that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from .errors import UsageError

MIB = 1 << 20

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BATCHES = ("", "aimd", "quantile", "none")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve a container. Every one has a default but, for a class without one, the name."""

    #: What front ends and clients call the model. Default: the container's `name`.
    name: str = ""
    #: Default: the container's `version`.
    version: str = ""
    #: Front ends, each `HOST:PORT` or `unix:/path`. None: serve and register nowhere.
    register: Sequence[str] = ()
    #: Where to listen: `HOST:PORT`, port 0 for a free one, or `unix:/path`.
    listen: str = "127.0.0.1:0"
    #: The address that front ends are told: `HOST:PORT`, or `HOST` for the port that is listened at.
    #: Default: `listen`; where that is every address of the machine, the one from which this machine
    #: reaches the front end.
    advertise: str = ""
    #: Threads that run user code, 1 or more. Above 1 `predict` must stand concurrent calls.
    threads: int = 1
    #: What front ends are told about where it runs; free text.
    device: str = "cpu"
    #: Rows that a call may have; above it is INVALID_ARGUMENT. 0: no limit.
    max_batch_rows: int = 0
    #: How front ends size batches: `aimd`, `quantile`, `none`, or a number of rows. "": their default.
    batch: str = ""
    #: How long front ends let a batch wait for company. None: their default, which is not at all.
    batch_wait: timedelta | None = None
    #: The latency within which front ends want an answer. None: that of the applications.
    objective: timedelta | None = None
    #: Seconds that a call may compute. Beyond, its caller gets DEADLINE_EXCEEDED and the container is
    #: not ready until the call ends: a thread cannot be killed. None: no limit.
    timeout: float | None = None
    #: Calls that may wait for a thread; more are refused with RESOURCE_EXHAUSTED.
    max_waiting: int = 64
    #: Their bytes; one call may always wait.
    max_waiting_bytes: int = 256 * MIB
    #: The largest message in either direction.
    max_message_bytes: int = 64 * MIB
    #: Seconds that a shutdown waits for what is in flight.
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("the model needs a name")
        if not self.version:
            raise UsageError("the model needs a version")
        if isinstance(self.register, str):
            raise UsageError("register is a list of addresses")
        for address in (self.listen, *self.register):
            check_address(address)
        if "0" in [split_address(address)[1] for address in self.register if not is_unix(address)]:
            raise UsageError("a front end to register with has no port 0")
        self._check_advertise()
        for name in ("threads", "max_waiting", "max_message_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more")
        for name in ("max_batch_rows", "drain_seconds", "max_waiting_bytes"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be 0 or more")
        if self.max_batch_rows >= 1 << 32:
            raise UsageError("max_batch_rows must be below 2**32")
        if self.timeout is not None and self.timeout <= 0:
            raise UsageError("timeout must be above 0")
        rows = self.batch.isascii() and self.batch.isdigit() and int(self.batch) > 0
        if self.batch not in _BATCHES and not rows:
            raise UsageError(f"batch is aimd, quantile, none, or a number of rows, not {self.batch!r}")

    def _check_advertise(self) -> None:
        if not self.advertise:
            return
        if is_unix(self.listen) and not is_unix(self.advertise):
            raise UsageError("advertise must be unix:/path where listen is")
        if has_port(self.advertise):
            check_address(self.advertise)


def is_unix(address: str) -> bool:
    """Whether it is a socket in the file system."""
    return address.startswith("unix:")


def check_address(address: str) -> None:
    """Raises `UsageError` unless it is `HOST:PORT` or `unix:/path`."""
    if is_unix(address):
        if len(address) == len("unix:"):
            raise UsageError("unix: needs a path behind it")
        return
    host, port = split_address(address)
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{address!r} is neither HOST:PORT nor unix:/path")


def has_port(address: str) -> bool:
    """Whether there is a port behind the host, which may be an IPv6 one in brackets."""
    return ":" in address.rpartition("]")[2]


def split_address(address: str) -> tuple[str, str]:
    """Host, without the brackets of an IPv6 one, and port."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    # An IPv6 address without brackets has no certain port.
    return ("", port) if ":" in host else (host, port)


def join_address(host: str, port: int) -> str:
    """`HOST:PORT`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def duration(text: str) -> timedelta:
    """From `20ms`, `1.5s` or `1m30s`; units us, ms, s, m, h. Raises `ValueError`."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 20ms or 1.5s")
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
