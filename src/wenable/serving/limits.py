"""What no handler sees: bodies that are too large or too slow, and paths that are not served."""

from __future__ import annotations

import asyncio
from typing import Any

from wenable.serving import metrics
from wenable.serving.asgi import BODY_PATIENCE_S, READ_ON, App, Receive, Send, begin_error


class Limits:
    """Answers with 413, 408 or 404 before a request reaches the server's handlers.

    - `most_bytes`: of a body. It is read as a whole before it is handed on; of a larger one nothing is
      kept.
    """

    def __init__(self, app: App, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one connection event, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].startswith(("/v2/repository", "/v1")):
            await _refuse(send, 404, "models are loaded by the server's own side; see SIGHUP")
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        too_large = f"the body is larger than {self._most} bytes (`--max-body-mb`)"
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        parts, size, more = [], 0, True
        while more:
            if size > READ_ON * self._most or len(declared) > 15:
                break
            try:
                async with asyncio.timeout(BODY_PATIENCE_S):
                    message = await receive()
            except TimeoutError:
                await _refuse(send, 408, f"the body did not come within {BODY_PATIENCE_S:.0f} s")
                return
            if message["type"] != "http.request":  # the client has gone
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size <= self._most:
                parts.append(message.get("body", b""))
            else:
                parts.clear()
        if size > self._most or len(declared) > 15:
            await _refuse(send, 413, too_large)
            return
        whole = {"type": "http.request", "body": b"".join(parts), "more_body": False}
        parts.clear()
        given = iter((whole,))

        async def body() -> dict[str, Any]:
            return next(given, None) or await receive()

        await self._app(scope, body, send)


async def _refuse(send: Send, status: int, reason: str) -> None:
    metrics.count("invalid")
    await begin_error(send, status, reason, close=True)
    await send({"type": "http.response.body"})
