"""What the service refuses, and how: requests that are too large, too many, or from one client alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.responses import JSONResponse

Message = MutableMapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """How much the service takes on.

    Attributes:
        body: bytes of a request.
        lines: lines of a request.
        beam: largest beam a request may ask for.
        work: pieces of a request times its beam.
        concurrency: requests translated at the same time.
        queue: further ones that wait; beyond them the answer is 503.
        per_client: requests of one address at the same time, waiting ones included; beyond them 429.
        keep_waiting: seconds a request waits at most before it is told 503.
        stop_seconds: how long requests may go on when the service is stopped; beyond them the answer is 503.
    """

    body: int = 256 * 1024
    lines: int = 500
    beam: int = 16
    work: int = 100_000
    concurrency: int = 2
    queue: int = 32
    per_client: int = 16
    keep_waiting: float = 60.0
    stop_seconds: float = 30.0


class RefusedError(Exception):
    """An answer that is not a translation.

    Args:
        status: HTTP status.
        code: what went wrong, for programs.
        message: the same, for people.
        details: further keys of the error object.
    """

    def __init__(self, status: int, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details

    def response(self) -> JSONResponse:
        """``{"error": {"code", "message", …}}``; whoever shall come again is told when."""
        headers = {"Retry-After": "1"} if self.status in (429, 503) else None
        body = {"error": {"code": self.code, "message": self.message, **self.details}}
        return JSONResponse(body, status_code=self.status, headers=headers)


class Gate:
    """Lets requests in, up to the limits. Used from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places = anyio.Semaphore(limits.concurrency)
        self._clients: Counter[str] = Counter()
        self.active = 0
        self.waiting = 0

    @asynccontextmanager
    async def enter(self, client: str) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Raises:
            RefusedError: 429 or 503.
        """
        if self._clients[client] >= self._limits.per_client:
            raise RefusedError(
                429, "too_many_requests", f"{self._clients[client]} requests of yours are being answered"
            )
        if self.active + self.waiting >= self._limits.concurrency + self._limits.queue:
            raise RefusedError(503, "busy", f"the service is busy: {self.waiting} requests are waiting")
        self._clients[client] += 1
        try:
            self.waiting += 1
            try:
                with anyio.fail_after(self._limits.keep_waiting):
                    await self._places.acquire()
            except TimeoutError:
                raise RefusedError(503, "busy", "the service is busy: no place became free in time") from None
            finally:
                self.waiting -= 1
            self.active += 1
            try:
                yield
            finally:
                self.active -= 1
                self._places.release()
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


class BodyLimit:
    """ASGI middleware: a request body beyond the limit is answered 413, whatever it says of its length."""

    def __init__(self, app: Any, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        refusal = RefusedError(
            413, "too_large", f"a request may have {self._limit:,} bytes", limit_bytes=self._limit
        )
        if not declared.isdigit() or int(declared) > self._limit:
            await refusal.response()(scope, receive, send)
            return
        # bodies are small by this very limit: read before anything is done, so that too much is told cleanly
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client went away
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                await refusal.response()(scope, receive, send)
                return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)
