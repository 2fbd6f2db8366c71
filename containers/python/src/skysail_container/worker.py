"""Runs user code on threads of its own, one call at a time each, behind a bounded queue.

The event loop never runs user code, so health checks and heartbeats go on during a slow call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from .errors import InvalidInput, Refusal, described, internal, invalid, late, place, shortened

log = logging.getLogger("skysail_container")


class _Job:
    """A call that waits for a thread, or is being computed on one."""

    def __init__(self, task: Callable[[], Any], deadline: float | None, size: int) -> None:
        self.task = task
        #: On `time.monotonic`.
        self.deadline = deadline
        self.size = size
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        #: Nobody waits for the answer any more. Written by the loop, read by the thread.
        self.abandoned = False

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Answers, from any thread."""

        def set_it() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(set_it)
        except RuntimeError:
            # The loop has closed: the process ended its drain while user code was still busy.
            pass


class Worker:
    """`threads` threads. `run` may be called from the event loop only."""

    def __init__(self, threads: int, max_waiting: int, max_waiting_bytes: int, timeout: float | None) -> None:
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._timeout = timeout
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._waiting_bytes = 0
        #: When each thread began the call that it is at.
        self._began: dict[int, float] = {}
        # Daemons: a thread stuck in user code cannot be ended, and must not keep the process.
        for index in range(threads):
            threading.Thread(target=self._serve, name=f"skysail-{index}", args=(index,), daemon=True).start()

    async def run(self, task: Callable[[], Any], deadline: float | None = None, size: int = 0) -> Any:
        """Waits for a free thread, runs `task` there, and gives its result or raises its `Refusal`.

        A task is not begun when the deadline has passed or this coroutine was cancelled before. Once
        begun it runs to its end, whoever still waits.
        """
        job = _Job(task, deadline, size)
        self._enqueue(job)
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return await asyncio.wait_for(job.future, remaining)
        except TimeoutError:
            raise late("the deadline passed before the answer was there") from None
        finally:
            job.abandoned = True
            self._withdraw(job)

    def overdue(self) -> float | None:
        """For how many seconds a call has been running that is beyond the `timeout`, if one is."""
        if self._timeout is None:
            return None
        with self._changed:
            longest = time.monotonic() - min(self._began.values(), default=float("inf"))
        return longest if longest > self._timeout else None

    def busy(self) -> int:
        """How many calls are being computed."""
        with self._changed:
            return len(self._began)

    def _enqueue(self, job: _Job) -> None:
        with self._changed:
            waiting = len(self._waiting)
            if waiting >= self._max_waiting or (
                waiting and self._waiting_bytes + job.size > self._max_waiting_bytes
            ):
                raise Refusal(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{waiting} calls with {self._waiting_bytes} bytes wait for the model already; at most"
                    f" {self._max_waiting} calls and {self._max_waiting_bytes} bytes may",
                )
            self._waiting.append(job)
            self._waiting_bytes += job.size
            self._changed.notify()

    def _withdraw(self, job: _Job) -> None:
        with self._changed:
            try:
                self._waiting.remove(job)
            except ValueError:
                return
            self._waiting_bytes -= job.size

    def _serve(self, index: int) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._waiting.popleft()
                self._waiting_bytes -= job.size
                now = time.monotonic()
                if job.abandoned or (job.deadline is not None and now >= job.deadline):
                    job.settle(None, late("the deadline passed while the call waited for the model"))
                    continue
                self._began[index] = now
            self._watch(job)
            try:
                result, error = _guarded(job.task)
            finally:
                with self._changed:
                    del self._began[index]
            job.settle(result, error)
            # Or the last call's tensors stay in memory until the next one.
            del job, result, error

    def _watch(self, job: _Job) -> None:
        """Answers DEADLINE_EXCEEDED once the call has been running for the `timeout`."""
        timeout = self._timeout
        if timeout is None:
            return

        def overdue() -> None:
            if not job.future.done():
                log.error("a call is running for more than %g s: not ready until it ends", timeout)
                job.future.set_exception(late(f"the model has not answered within its timeout of {timeout:g} s"))

        def begin() -> None:
            handle = job.loop.call_later(timeout, overdue)
            job.future.add_done_callback(lambda _: handle.cancel())

        try:
            job.loop.call_soon_threadsafe(begin)
        except RuntimeError:
            pass


class _Failures:
    """Logs failures of the model, one a second at most: a broken one may fail at every call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0
        self._left_out = 0

    def log(self, text: str, error: BaseException | None) -> None:
        """With the traceback of `error`."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                self._left_out += 1
                return
            self._next, left_out, self._left_out = now + 1, self._left_out, 0
        more = f" (after {left_out} more failures)" if left_out else ""
        log.error("the model failed: %s%s", text, more, exc_info=error)


_failures = _Failures()


def _guarded(task: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The result, or what to answer instead. Nothing that user code raises gets past it."""
    try:
        return task(), None
    except Refusal as refusal:
        if refusal.code is grpc.StatusCode.INTERNAL:
            _failures.log(refusal.message, None)
        return None, refusal
    except InvalidInput as error:
        return None, invalid(shortened(str(error)) or described(error))
    except BaseException as error:  # SystemExit and KeyboardInterrupt, too, would end the thread
        _failures.log(described(error), error)
        return None, internal(described(error) + place(error))
