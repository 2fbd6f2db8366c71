"""Addresses: whether one is free, and which one another machine reaches this one by."""

from __future__ import annotations

import os
import socket
import stat

from .errors import StartError
from .settings import has_port, is_unix, join_address, split_address

# `sockaddr_un` has 108 bytes for a path and the byte that ends it.
_LONGEST_PATH = 107


def check_free(listen: str) -> None:
    """Raises `StartError` with the system's reason where nothing can listen there.

    gRPC itself tells no reason, and takes a socket in the file system away from whoever serves it.
    """
    if is_unix(listen):
        _check_path(listen.removeprefix("unix:"))
        return
    host, port = split_address(listen)
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise StartError(f"cannot listen at {listen}: {_reason(error)}") from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        # As gRPC does it: what lingers of an ended server's connections is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise StartError(f"cannot listen at {listen}: {_reason(error)}") from None


def _check_path(path: str) -> None:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise StartError(f"cannot listen at unix:{path}: the path is longer than {_LONGEST_PATH} bytes")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise StartError(f"cannot listen at unix:{path}: its folder does not exist") from None
        return
    except OSError as error:
        raise StartError(f"cannot listen at unix:{path}: {_reason(error)}") from None
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot listen at unix:{path}: a file that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # left behind by a server that is gone; gRPC replaces it
        except OSError as error:
            raise StartError(f"cannot listen at unix:{path}: {_reason(error)}") from None
    raise StartError(f"cannot listen at unix:{path}: another server listens there")


def advertised(listen: str, port: int, advertise: str, front_end: str) -> str:
    """The address to tell a front end. Raises `OSError` where the front end's name is unknown."""
    if is_unix(listen):
        return advertise or "unix:" + os.path.abspath(listen.removeprefix("unix:"))
    if advertise:
        whole = is_unix(advertise) or has_port(advertise)
        return advertise if whole else join_address(advertise.strip("[]"), port)
    host = split_address(listen)[0]
    if host not in ("0.0.0.0", "::"):
        return join_address(host, port)
    if is_unix(front_end):
        return join_address("127.0.0.1", port)
    return join_address(_route_to(*split_address(front_end)), port)


def only_local(listen: str, advertise: str, front_end: str) -> bool:
    """Whether a front end on another machine would be told an address that means itself there."""
    if advertise or is_unix(listen) or is_unix(front_end):
        return False
    return _is_loopback(split_address(listen)[0]) and not _is_loopback(split_address(front_end)[0])


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _route_to(host: str, port: str) -> str:
    """The local address of the route there. A datagram socket's `connect` sends nothing."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
