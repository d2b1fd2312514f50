"""Signals reach the program that loads engines, whichever thread opens and drops them."""

import subprocess
import sys
from pathlib import Path

import pytest

import wenable as we
from tests.helpers.networks import converted, small_resnet

ROOT = Path(__file__).parents[2]
DROPPED_ELSEWHERE = """
import gc, os, signal, sys, threading
import numpy as np
from wenable.runtime import Session

sessions = []
def opened():
    session = Session(sys.argv[1], engine=sys.argv[2], threads=1)
    session.run(np.zeros((1, 3, 6, 6), np.float32))
    sessions.append(session)

def dropped():
    sessions.pop().close()
    gc.collect()

def in_a_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()

handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
for open_there, drop_there in ((False, True), (True, False), (True, True), (False, False)):
    in_a_thread(opened) if open_there else opened()
    in_a_thread(dropped) if drop_there else dropped()
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(handled))
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "SIGUSR1"), reason="needs POSIX signals")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_signal_is_handled_after_another_thread_dropped_a_session(tmp_path: Path, engine: str):
    """OpenVINO's plugin gives its thread a stack for signals, and frees it wherever it ends."""
    path = we.export(converted(small_resnet()), ["full"], tmp_path / "net.wen")
    done = subprocess.run(
        [sys.executable, "-c", DROPPED_ELSEWHERE, str(path), engine],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "4"
