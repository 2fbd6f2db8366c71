"""Starts a container, keeps it registered, and ends it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from .container import Container, TensorSpec, digest
from .errors import Refusal, StartError, described, place
from .inference import Model, compute, probe
from .registration import Announcement, Registration
from .service import Service
from .settings import Settings, is_unix, join_address, split_address
from .sockets import advertised, check_free, only_local
from .worker import Worker, log

# Of the drain time, what a front end may take to acknowledge that this container goes.
_DEREGISTER_SHARE = 0.5


class Server:
    """One container being served. `start`, then `registered`, then, at the end, `drain`.

    To be made in the event loop that it is to run in.
    """

    def __init__(self, container: Container, settings: Settings) -> None:
        _check_signature(container)
        self._container = container
        self._settings = settings
        self._worker = Worker(
            settings.threads, settings.max_waiting, settings.max_waiting_bytes, settings.timeout
        )
        self._model = Model(
            container, settings.name, settings.version, settings.max_batch_rows, settings.max_message_bytes
        )
        self._service = Service(self._model, self._worker)
        limit = settings.max_message_bytes
        self._server = grpc.aio.server(
            options=[
                # On by default, and then a second server on the same port takes half of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
            ]
        )
        self._server.add_generic_rpc_handlers(self._service.handlers())
        self._port = 0
        self._registrations: list[Registration] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def address(self) -> str:
        """Where it listens, with the port that it got."""
        if is_unix(self._settings.listen):
            return self._settings.listen
        return join_address(split_address(self._settings.listen)[0], self._port)

    async def start(self) -> None:
        """Listens, loads, tests itself, begins to register. Raises `StartError`.

        It listens before it loads: a taken port shows at once, and liveness is answered meanwhile.
        """
        await self._listen()
        try:
            await self._load()
            announcement = await self._test()
        except BaseException:
            await self._server.stop(None)
            raise
        self._service.starting = ""
        for front_end in dict.fromkeys(self._settings.register):
            if only_local(self._settings.listen, self._settings.advertise, front_end):
                log.warning(
                    "%s is told the address %s, which means another machine there; --listen 0.0.0.0:0 is"
                    " reached from everywhere",
                    front_end,
                    self.address,
                )
            registration = Registration(front_end, announcement, partial(self._advertised, front_end))
            self._registrations.append(registration)
            self._tasks.append(asyncio.create_task(registration.run()))

    async def registered(self) -> None:
        """Returns at the first registration; at once where there is none to make.

        Raises `StartError` when every front end has refused the container for good.
        """
        waiting = {asyncio.create_task(each.decided.wait()): each for each in self._registrations}
        try:
            pending = set(waiting)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if not all(waiting[task].refused for task in done):
                    return
        finally:
            for task in waiting:
                task.cancel()
        if self._registrations:
            reasons = "; ".join(f"{each.front_end}: {each.refused}" for each in self._registrations)
            raise StartError(f"no front end takes this container: {reasons}")

    async def drain(self) -> None:
        """Leaves the front ends, then answers what is in flight, all within the drain time."""
        drain_seconds = self._settings.drain_seconds
        end = time.monotonic() + drain_seconds
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Ready as long as front ends may still send: they must not take this for a failure.
        within = max(0.1, drain_seconds * _DEREGISTER_SHARE)
        await asyncio.gather(*(each.deregister(drain_seconds, within) for each in self._registrations))
        self._service.draining = True
        if self._service.in_flight:
            log.info("waiting for %d calls in flight", self._service.in_flight)
        await self._server.stop(max(0.0, end - time.monotonic()))
        if busy := self._worker.busy():
            log.warning("gave up %d calls that were not done after %g s", busy, drain_seconds)
        for registration in self._registrations:
            await registration.close()

    async def _listen(self) -> None:
        listen = self._settings.listen
        check_free(listen)
        try:
            self._port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise StartError(f"cannot listen at {listen}: {error}") from None
        await self._server.start()

    async def _load(self) -> None:
        begun = time.monotonic()

        def load() -> None:
            try:
                self._container.load()
            except BaseException as error:
                raise StartError(f"load failed: {described(error)}{place(error)}") from None

        await self._run(load)
        log.info("loaded in %.1f s", time.monotonic() - begun)

    async def _test(self) -> Announcement:
        """The self-test, and what front ends are told about the container."""

        def test() -> Announcement:
            container = self._container
            try:
                _check_signature(container, loaded=True)
                batch = probe(container)
                rows = next(iter(batch.values())).shape[0]
                for array in batch.values():
                    array.flags.writeable = False
                compute(container, batch, rows)
                sum_of_files = digest(container.digest_files)
            except Refusal as refusal:
                raise StartError(f"the self-test failed: {refusal.message}") from None
            except StartError:
                raise
            except BaseException as error:
                raise StartError(f"the self-test failed: {described(error)}{place(error)}") from None
            return Announcement(
                container, self._settings, sum_of_files, None if container.probe is None else batch
            )

        announcement: Announcement = await self._run(test)
        return announcement

    async def _run(self, task: Callable[[], Any]) -> Any:
        """On the user code's thread. A `StartError` comes back as a value, since it is no failed call."""

        def caught() -> Any:
            try:
                return task()
            except StartError as error:
                return error

        result = await self._worker.run(caught)
        if isinstance(result, StartError):
            raise result
        return result

    def _advertised(self, front_end: str) -> str:
        return advertised(self._settings.listen, self._port, self._settings.advertise, front_end)


def _check_signature(container: Container, loaded: bool = False) -> None:
    """Checked before `load`, since that may take long, and after it, since that may set them."""
    for kind in ("inputs", "outputs"):
        specs = getattr(container, kind)
        wrong = [spec for spec in specs if not isinstance(spec, TensorSpec)]
        if wrong:
            raise StartError(f"{type(container).__name__}.{kind} has {wrong[0]!r}, which is no TensorSpec")
        names = [spec.name for spec in specs]
        if loaded and not names:
            raise StartError(f"{type(container).__name__} names no {kind}")
        for name in names:
            if names.count(name) > 1:
                raise StartError(f"{type(container).__name__} has two {kind} called {name!r}")


async def serve_async(
    container: Container,
    *,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[str], None] | None = None,
    **settings: Any,
) -> None:
    """Serves until `stop` is set or the task is cancelled, then drains.

    `settings` are those of `Settings`. `on_ready` gets the address that is listened at, after the
    first registration, or after listening where there is none to make. Signals are the caller's.
    Raises `StartError` or `UsageError`.
    """
    await _serve(container, _settings(container, settings), stop or asyncio.Event(), on_ready)


def serve(container: Container, **settings: Any) -> None:
    """Serves until SIGTERM or SIGINT, then drains and returns; a second signal ends the process.

    `settings` are those of `Settings`: `serve(Model(), name="digits", register=["127.0.0.1:7400"])`.
    Prints `ready grpc=HOST:PORT` on standard output once it is of use. For the main thread. Raises
    `StartError` or `UsageError`.
    """
    checked = _settings(container, settings)
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    asyncio.run(_until_signal(container, checked))


async def _until_signal(container: Container, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("%s: draining", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    await _serve(container, settings, stop, lambda address: print(f"ready grpc={address}", flush=True))


async def _serve(
    container: Container, settings: Settings, stop: asyncio.Event, on_ready: Callable[[str], None] | None
) -> None:
    server = Server(container, settings)
    stopping = asyncio.create_task(stop.wait())
    try:
        if not await _unless(stopping, server.start()):
            return
        try:
            if await _unless(stopping, server.registered()):
                if on_ready is not None:
                    on_ready(server.address)
                await stopping
        finally:
            await server.drain()
    finally:
        stopping.cancel()


async def _unless(stopping: asyncio.Task[Any], work: Any) -> bool:
    """Whether `work` was done before it was time to stop."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        task.cancel()
        # A cancelled start still gives its port back.
        await asyncio.gather(task, return_exceptions=True)


def _settings(container: Container, given: dict[str, Any]) -> Settings:
    """With the container's own name and version as defaults."""
    given = {**given}
    given["name"] = given.get("name") or container.name
    given["version"] = given.get("version") or container.version
    return Settings(**given)
