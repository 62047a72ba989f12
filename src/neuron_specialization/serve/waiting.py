"""Whether anyone still waits for an answer: clients go away, and the service is stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from neuron_specialization.serve.limits import RefusedError

Result = TypeVar("Result")

# between two looks at whether the service stops
_LOOK_SECONDS = 0.1


class NotAwaitedError(Exception):
    """Nobody waits for what is being translated."""


class AwaitedAnswer:
    """What is done for one request, and whether its answer is still wanted."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._over = threading.Event()
        self._in_thread = False

    def look(self) -> None:
        """Called by the thread now and then.

        Raises:
            NotAwaitedError: the answer is not wanted any more.
        """
        if self._over.is_set():
            raise NotAwaitedError

    async def in_thread(self, work: Callable[[], Result], limiter: anyio.CapacityLimiter) -> Result:
        """Run ``work``, which is to `look`, in a thread."""
        self._in_thread = True
        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
        except NotAwaitedError:
            raise _refusal() from None

    async def _until_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._over.set()
        # a thread is not left behind: its place is free when it has looked, not before
        if not self._in_thread:
            self._scope.cancel()

    async def _until_stopped(self, stopping: Callable[[], bool], seconds: float) -> None:
        while not stopping():
            await anyio.sleep(_LOOK_SECONDS)
        await anyio.sleep(seconds)
        self._over.set()
        self._scope.cancel()

    @classmethod
    @asynccontextmanager
    async def of(
        cls, request: Request, stopping: Callable[[], bool], seconds: float
    ) -> AsyncIterator[AwaitedAnswer]:
        """Run the block for as long as its answer is wanted.

        Args:
            request: its body has been read.
            stopping: whether the service has been told to stop.
            seconds: how long the block may go on after that.

        Raises:
            RefusedError: 503, the time is over.
        """
        answer = cls()
        with answer._scope as scope:
            watchers = [
                asyncio.create_task(answer._until_gone(request)),
                asyncio.create_task(answer._until_stopped(stopping, seconds)),
            ]
            try:
                yield answer
            finally:
                for watcher in watchers:
                    watcher.cancel()
        if scope.cancelled_caught:
            raise _refusal()


def _refusal() -> RefusedError:
    return RefusedError(503, "stopping", "the service was stopped before the translation was done")
