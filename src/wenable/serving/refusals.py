"""Requests that are refused, each with the status and the reason that the client gets."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is not answered.

    - `status`: of HTTP. 400: it makes no sense; 413: it is too large; 429: there is no room or no time
      for it now; 503: the server is stopping; 504: its deadline passed while it waited.
    - `outcome`: how it is counted.
    """

    def __init__(self, status: int, reason: str, outcome: str = "invalid") -> None:
        super().__init__(reason)
        self.status, self.reason, self.outcome = status, reason, outcome
