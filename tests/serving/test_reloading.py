"""How a server makes a file ready, and what becomes of one that cannot be taken and of an early SIGHUP."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from wenable.serving.server import ServeOptions, _reload_when_told, _warmed_up

ASKED_WHILE_IT_OPENS = """
import os, signal, sys
from wenable.serving.server import ServeOptions, serve

def open_session():
    os.kill(os.getpid(), signal.SIGHUP)
    sys.exit(7)  # what nothing else ends with

serve("net", open_session, ServeOptions(port=0), print)
"""


class Unready:
    """A session of a file that has no memory to be warmed up."""

    bundle = SimpleNamespace(answers_row_by_row=True)
    image_sizes = ("",)
    closed = False

    def __enter__(self) -> Unready:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def warm_up(self, batches: Any, image_size: str) -> None:
        raise MemoryError("no room for it")


def test_a_session_that_is_not_taken_is_closed() -> None:
    session, told = Unready(), []
    reload, ended = threading.Event(), threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        ended.set()
        reload.set()

    reload.set()
    _reload_when_told(reload, ended, lambda: session, ServeOptions(), None, tell)  # pyright: ignore
    assert session.closed
    assert told == ["the bundle was not loaded anew, the one before goes on: no room for it"]


def test_every_size_of_images_is_ready_before_requests_come() -> None:
    warm = []

    def warm_up(batches: Any, image_size: str) -> None:
        warm.append((batches, image_size))

    session: Any = SimpleNamespace(
        image_sizes=("16x16", "8x8"), bundle=Unready.bundle, warm_up=warm_up
    )
    batches = _warmed_up(session, ServeOptions(max_batch=2))
    assert warm == [(batches, "16x16"), (batches, "8x8")]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_signal_before_the_server_is_ready_does_not_end_it() -> None:
    pytest.importorskip("kserve")
    done = subprocess.run(
        [sys.executable, "-c", ASKED_WHILE_IT_OPENS], timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 7, done.stderr
