"""Keeps a container registered with one front end: registers, beats, registers again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from .container import Batch, Container
from .datatypes import to_raw
from .errors import Refusal
from .messages import REGISTRY, Stub, message, set_duration
from .settings import Settings
from .worker import log

# Waits between tries while a front end is away, in seconds.
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 5.0

# The front end's test inference included, which may be a model's first and slowest.
_REGISTER_SECONDS = 60.0
_BEAT_SECONDS = 5.0

#: Where a front end names no lease.
_DEFAULT_LEASE = 10.0

# What no further try changes.
_FINAL = (
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
)

_CHANNEL = (
    # A proxy is for the outside, a front end is not.
    ("grpc.enable_http_proxy", 0),
    # The waits are this module's; gRPC's own grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True)
class Announcement:
    """What all front ends are told alike."""

    container: Container
    settings: Settings
    digest: str
    #: Sent only where the class has a probe: a front end makes zeros by itself.
    probe: Batch | None

    def request(self, address: str) -> Any:
        """The RegisterRequest."""
        settings, container = self.settings, self.container
        request = message("skysail.v1.RegisterRequest")(
            model=settings.name,
            version=settings.version,
            address=address,
            max_batch_rows=settings.max_batch_rows,
            device=settings.device,
            digest=self.digest,
            cacheable=container.cacheable,
            batch=settings.batch,
        )
        for field, specs in ((request.inputs, container.inputs), (request.outputs, container.outputs)):
            for spec in specs:
                field.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        datatypes = {spec.name: spec.datatype for spec in container.inputs}
        for name, array in (self.probe or {}).items():
            data = to_raw(datatypes[name], array)
            request.probe.add(name=name, datatype=datatypes[name], shape=array.shape, data=data)
        if settings.objective is not None:
            set_duration(request.objective, settings.objective)
        if settings.batch_wait is not None:
            set_duration(request.batch_wait, settings.batch_wait)
        return request


class Registration:
    """One front end. `run` never ends by itself unless the front end refuses at the first try."""

    def __init__(self, front_end: str, announcement: Announcement, address: Callable[[], str]) -> None:
        self.front_end = front_end
        #: Set once the front end has taken or refused the container for the first time.
        self.decided = asyncio.Event()
        #: Why the front end does not take this container, or "".
        self.refused = ""
        self._announcement = announcement
        self._address = address
        self._container_id = ""
        self._lease = _DEFAULT_LEASE
        self._trouble = ""
        self._ever = False
        self._channel = grpc.aio.insecure_channel(front_end, options=_CHANNEL)
        self._stub = Stub(self._channel, REGISTRY)

    async def run(self) -> None:
        """Registers and beats until it is cancelled."""
        wait = _FIRST_WAIT
        while True:
            try:
                if self._container_id:
                    await self._beat()
                else:
                    await self._register()
            except grpc.aio.AioRpcError as error:
                if self._is_final(error):
                    return
                self._say(f"{error.code().name}: {error.details()}")
            except (OSError, Refusal) as error:
                self._say(str(error))
            else:
                wait = _FIRST_WAIT
                if self._container_id:
                    await asyncio.sleep(self._lease / 3)
                continue
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    async def deregister(self, drain: float, within: float) -> None:
        """Tells the front end to send no more. That it cannot be told is no failure: the lease ends."""
        if self._container_id:
            request = message("skysail.v1.DeregisterRequest")(container_id=self._container_id)
            set_duration(request.drain, timedelta(seconds=drain))
            self._container_id = ""
            try:
                await self._stub.Deregister(request, timeout=within)
                log.info("deregistered from %s", self.front_end)
            except grpc.aio.AioRpcError as error:
                log.warning("cannot deregister from %s: %s", self.front_end, _said(error))

    async def close(self) -> None:
        """Gives the channel back."""
        await self._channel.close()

    async def _register(self) -> None:
        # A name server may take its time, and the event loop has others to serve.
        address = await asyncio.to_thread(self._address)
        request = self._announcement.request(address)
        response = await self._stub.Register(request, timeout=_REGISTER_SECONDS)
        self._container_id = response.container_id
        if not self._container_id:
            raise Refusal(grpc.StatusCode.INTERNAL, "the front end gave no container id")
        self._take_lease(response)
        again = " again" if self._ever else ""
        log.info(
            "registered%s with %s as %s (lease %g s), reached at %s",
            again, self.front_end, self._container_id, self._lease, address,
        )
        self._trouble, self.refused, self._ever = "", "", True
        self.decided.set()

    async def _beat(self) -> None:
        request = message("skysail.v1.HeartbeatRequest")(container_id=self._container_id)
        response = await self._stub.Heartbeat(request, timeout=min(_BEAT_SECONDS, self._lease))
        if not response.known:
            # Before it is registered again, so that no beat goes out in between.
            self._container_id = ""
            log.info("%s does not know this container any more; registering again", self.front_end)
            return
        self._take_lease(response)
        if self._trouble:
            self._trouble = ""
            log.info("%s answers again", self.front_end)

    def _take_lease(self, response: Any) -> None:
        if response.HasField("lease"):
            lease = response.lease.seconds + response.lease.nanos / 1e9
            self._lease = lease if lease > 0 else _DEFAULT_LEASE

    def _is_final(self, error: grpc.aio.AioRpcError) -> bool:
        """Whether to give up, which is only before the first success: later on, things may change."""
        if error.code() not in _FINAL or self._container_id:
            return False
        self.refused = _said(error)
        if self._ever:
            return False
        log.error("%s refuses this container: %s", self.front_end, self.refused)
        self.decided.set()
        return True

    def _say(self, trouble: str) -> None:
        """Once per change of state, not per try: details of one and the same outage differ."""
        if not self._trouble:
            what = "no answer from" if self._container_id else "cannot register with"
            log.warning("%s %s, trying on: %s", what, self.front_end, trouble)
        self._trouble = trouble


def _said(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"it has no {REGISTRY}; is it a Skysail front end? ({error.details()})"
    return f"{error.code().name}: {error.details()}"
