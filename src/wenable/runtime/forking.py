"""What becomes of engines and sessions in a process that was forked.

Threads do not come along into a child, so a pool of threads that an engine made before waits there for
ever: when it is asked to compute, and when it is taken down. A child therefore abandons what was
prepared before, without taking it down, and prepares anew. An engine that cannot even do that (OpenVINO
once it has compiled something) is refused there by name.

Nothing is forked while an engine prepares a model, since a lock that it holds would stay locked in the
child: `os.fork` waits until that is done.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_LONGEST_WAIT_S = 60.0
"""For models that are being prepared; a fork is not held up for longer."""


class Heir(Protocol):
    """What has to be told that it is in a child now."""

    def after_fork(self) -> None:
        """Abandon what the child cannot use; called in it before anything else runs."""
        ...


_gate = threading.Condition()
_busy: list[int] = []  # the threads that prepare a model
_heirs: weakref.WeakSet[Any] = weakref.WeakSet()
_started: set[str] = set()
_lost: set[str] = set()


def tell_after_fork(heir: Heir) -> None:
    """Tell an object in each child of this process, for as long as it lives."""
    with _gate:
        _heirs.add(heir)


def lost_by_a_fork(engine: str) -> bool:
    """Say whether an engine cannot be used because of what was done before this process was forked."""
    return engine in _lost


def started(engine: str) -> None:
    """Note that an engine has begun what keeps it from being used in a child."""
    _started.add(engine)


@contextmanager
def no_fork_meanwhile() -> Iterator[None]:
    """Hold forks up while this runs."""
    own = threading.get_ident()
    with _gate:
        _busy.append(own)
    try:
        yield
    finally:
        with _gate:
            _busy.remove(own)
            _gate.notify_all()


def abandon(thing: object) -> None:
    """Keep an object for ever, so that it is never taken down: that would wait for lost threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _before() -> None:
    _gate.acquire()
    own, until = threading.get_ident(), time.monotonic() + _LONGEST_WAIT_S
    while any(each != own for each in _busy) and time.monotonic() < until:
        _gate.wait(1.0)


def _in_parent() -> None:
    _gate.release()


def _in_child() -> None:
    global _gate
    _gate = threading.Condition()
    own = threading.get_ident()
    _busy[:] = [each for each in _busy if each == own]
    _lost.update(_started)
    for heir in list(_heirs):
        heir.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
