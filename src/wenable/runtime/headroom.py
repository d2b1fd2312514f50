"""Keeps the share of late requests at what was asked, whatever the latencies are distributed like.

What is predicted rests on the recent past; a load that comes in bursts, or modes in between which there
is nothing, make the share of requests in time differ from the target all the same. So what was observed
of the deadlines themselves closes the loop: a late request widens the headroom by a step, one in time
narrows it by as much less as late ones may be rarer. That is adaptive conformal inference (Gibbs and
Candès, "Adaptive conformal inference under distribution shift", 2021), here on the logarithm of the
headroom: over n requests the share of late ones exceeds what is aimed at by at most
(range + step) / (n x step), if a mode exists that is in time at the widest headroom.
"""

from __future__ import annotations

import math

_STEP = 0.005
"""How far a late request widens the headroom, over the square root of p (1 - p) for a share p of late
ones that is allowed: 0.05 at a target of 0.99, about what one mode's latencies spread by. The rarer late
requests are to be, the more each has to count, as for a descent by gradients of that variance."""
_WIDEST = 1.0
"""The logarithm of the most: 2.7 times, which is beyond what any spread asks for."""
_AIM = 0.7
"""The share of the late requests that are allowed, which is aimed at: chance adds some."""


class Headroom:
    """What predictions are lengthened by, as a logarithm: `value`.

    - `target`: the share of requests that are to be in time.

    >>> headroom = Headroom(target=0.99)
    >>> headroom.seen(late=True)
    >>> round(headroom.value, 4)
    0.0499
    """

    def __init__(self, target: float) -> None:
        self._allowed = _AIM * (1 - target)
        self._step = _STEP / math.sqrt(target * (1 - target))
        self.value = 0.0

    def seen(self, *, late: bool, narrowest: float = 0.0) -> None:
        """Take in whether a request was late that was predicted to be in time.

        - `narrowest`: the least that the headroom may be; below 0 it takes back part of the spread.
        """
        changed = self.value + self._step * ((1.0 if late else 0.0) - self._allowed)
        self.value = min(max(changed, narrowest), _WIDEST)
