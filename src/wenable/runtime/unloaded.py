"""Times modes while nothing else runs, and tells when something did.

What a mode takes beside other requests, or beside another program on the same cores, is not what it
takes on an unloaded device. So a block of calls counts only where no request of the session ran
meanwhile, and the threads of this process did not wait for a core (which Linux tells).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_BLOCKS, _CALLS = 4, 6
_MOST_WAITING = 0.1
"""Of the time of a block: how long its threads may have waited for a core."""
_PAUSE_S = 0.002
_MOST_BESIDE_S = 60.0
MOST_WAITING_S = 0.02
"""For a core, while two ways to run a mode are timed: beyond that another program took part."""


class Load:
    """The requests of a session: those that run now, and how many have ended.

    Both are changed without a lock, in steps that cannot be divided, since every request does so.
    """

    __slots__ = ("_measuring", "running", "served")

    def __init__(self) -> None:
        self.running: list[None] = []
        self.served = 0
        self._measuring = threading.Lock()

    def forget(self) -> None:
        """Begin anew in a forked process, which those who ran or measured did not come along to."""
        self.running.clear()
        self._measuring = threading.Lock()

    @contextmanager
    def alone(self, is_closed: Callable[[], bool]) -> Iterator[None]:
        """Let nobody else who shares the cores time modes meanwhile: each would time the other's.

        - `is_closed`: whether nobody waits for what would be measured any more. Nor is it waited for longer
          than a minute: whoever asks may hold what the other one waits for.
        """
        lock, until = self._measuring, time.monotonic() + _MOST_BESIDE_S
        while not (held := lock.acquire(timeout=0.05)):
            if is_closed() or time.monotonic() > until:
                break
        try:
            yield
        finally:
            if held:
                lock.release()


def waited_s() -> float | None:
    """Return how long the threads of this process have waited for a core; None where none tells."""
    total = 0
    try:
        for thread in Path("/proc/self/task").iterdir():
            total += int((thread / "schedstat").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):  # not Linux, or a thread that ended meanwhile
        return None
    return total / 1e9


@dataclass(frozen=True)
class Watch:
    """What tells the time and the load; replaced in tests.

    - `clock`: seconds; `sleep`: waits for some; `waited`: see `waited_s`.
    """

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    waited: Callable[[], float | None] = waited_s


@dataclass
class Timed:
    """The times of one mode in ms: of blocks in which nothing disturbed it, and of all others."""

    quiet: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)


def time_unloaded(
    calls: Mapping[int, Callable[[], object]],
    load: Load,
    *,
    patience_s: float,
    watch: Watch | None = None,
) -> dict[int, Timed]:
    """Return what calls took, in four rounds of a block each in random order, as far as patience goes.

    A block is given up as soon as a request of the session begins, so that it holds up no more than
    one of its calls does; it is tried again later. Patience is for what is disturbed: the first round
    takes as long as it takes, which is long where modes are slow.
    """
    watch = Watch() if watch is None else watch
    until, disturbed_s = watch.clock() + patience_s, 0.0
    found = {key: Timed() for key in calls}
    left, draw = list[int](), random.Random(0)
    for _ in range(_BLOCKS):
        left += draw.sample(list(calls), len(calls))
    while left:
        begun = watch.clock()
        times, quiet = _block(calls[left[0]], load, watch)
        (found[left[0]].quiet if quiet else found[left[0]].loaded).extend(times)
        if quiet:
            left.pop(0)
        else:
            left.append(left.pop(0))
            disturbed_s += watch.clock() - begun + _PAUSE_S
        once = all(each.quiet for each in found.values())
        if disturbed_s > patience_s or (once and watch.clock() > until):
            break
        watch.sleep(_PAUSE_S)
    return found


def _block(call: Callable[[], object], load: Load, watch: Watch) -> tuple[list[float], bool]:
    served, waited, begun = load.served, watch.waited(), watch.clock()
    times: list[float] = []
    for number in range(_CALLS + 1):
        if load.running or load.served != served:
            return times, False
        start = watch.clock()
        call()
        if number:  # the first one after a pause wakes threads and fills caches
            times.append(1e3 * (watch.clock() - start))
    if load.running or load.served != served:
        return times, False
    after = watch.waited()
    if waited is None or after is None:
        return times, True
    return times, after - waited <= _MOST_WAITING * (watch.clock() - begun)
