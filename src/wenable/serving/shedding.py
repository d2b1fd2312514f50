"""Refuses requests by their headers, before their bodies are read, if there is no room or no time for them.

To read the body of an image and make arrays of it takes the server longer than a small network does, and
under a burst that is what it has least time for.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from wenable.serving import metrics
from wenable.serving.arrival import VISIT, Visit
from wenable.serving.asgi import BODY_PATIENCE_S, READ_ON, App, Receive, Send, begin_error
from wenable.serving.batcher import Batcher
from wenable.serving.deadlines import DEADLINE_HEADER, deadline_of
from wenable.serving.refusals import RefusedError

_PROBE_S = 0.002


class Shedding:
    """Announces each request to the queue, and answers for the queue if that refuses it.

    The answer leaves at once. The body is then read and dropped, so that the connection can go on, up to
    some times `most_bytes`; a client that waits to be told to send its body (`Expect: 100-continue`) never
    sends it, and its connection is closed.
    """

    def __init__(self, app: App, batcher: Batcher, most_bytes: int) -> None:
        self._app, self._batcher, self._most = app, batcher, most_bytes

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one connection event, as ASGI has it."""
        asked = scope["type"] == "http" and scope["method"] == "POST"
        if not (asked and scope["path"].endswith("/infer")):
            await self._app(scope, receive, send)
            return
        visit, headers = Visit(), dict(scope["headers"])
        try:
            visit.coming = self._batcher.announce(deadline_ms=_deadline_in(headers))
        except RefusedError as error:
            metrics.count(error.outcome)
            metrics.unread()
            await self._refuse(error, headers, receive, send)
            return
        VISIT.set(visit)
        _probe(visit)
        try:
            await self._app(scope, receive, send)
        finally:
            visit.coming.end()
        if visit.answer is not None:
            total_ms = 1e3 * (time.perf_counter() - visit.came_s)
            self._batcher.ways.note(visit.seen_late_ms + total_ms - visit.answer.total_ms)
            metrics.answered(visit.answer, total_ms, visit.deadline_ms)

    async def _refuse(
        self, error: RefusedError, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        unsent = headers.get(b"expect", b"").lower() == b"100-continue"
        await begin_error(send, error.status, error.reason, close=unsent)
        if not unsent:
            await _drop_body(receive, READ_ON * self._most)
        await send({"type": "http.response.body"})


def _probe(visit: Visit) -> None:
    """Note how late the thread that answers all comes to a thing now, as it comes to new requests.

    How long a request was there before it was seen, nothing tells.
    """
    due_s = time.perf_counter() + _PROBE_S

    def came() -> None:
        visit.seen_late_ms = 1e3 * (time.perf_counter() - due_s)

    asyncio.get_running_loop().call_later(_PROBE_S, came)


async def _drop_body(receive: Receive, most_bytes: int) -> None:
    """Read a body to its end and keep nothing, up to so many bytes and for no longer than patience."""
    size, more = 0, True
    try:
        async with asyncio.timeout(BODY_PATIENCE_S):
            while more and size <= most_bytes:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        pass


def _deadline_in(headers: dict[bytes, bytes]) -> float | None:
    """Return the deadline that headers name; None without one, or one that is refused later on."""
    try:
        return deadline_of(headers.get(DEADLINE_HEADER.encode(), b"").decode("latin-1") or None)
    except RefusedError:
        return None
