"""What the layers around the server's handlers have in common: kinds, patience, errors."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

BODY_PATIENCE_S = 30.0
"""For a part of a body that does not come."""
READ_ON = 8
"""Times the limit: so much is read and dropped; most clients read no answer before they have sent all."""


async def begin_error(send: Send, status: int, reason: str, *, close: bool) -> None:
    """Send a whole error in the form of the protocol; an empty part of the body has to end it.

    - `close`: whether the connection is closed after it.
    """
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if close:
        headers.append((b"connection", b"close"))
    if status in (429, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
