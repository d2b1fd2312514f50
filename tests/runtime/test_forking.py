"""Forked processes: a child computes or says in one line why it cannot, and always comes to its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import wenable as we
from tests.helpers.engines import NEEDS_KERNELS, SESSION_ENGINES
from tests.helpers.networks import converted, small_resnet

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
LIMIT_S = 120
BEGINNING = """
import multiprocessing, os, sys, threading, time
import numpy as np
from wenable.runtime import Session
path, engine, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.ones((1, 3, 6, 6), np.float32)
def tell(compute):
    try:
        print("child:", np.round(compute(), 3).tolist(), flush=True)
    except Exception as error:
        print("child:", type(error).__name__, error, flush=True)
def fork(child):
    pid = os.fork()
    if not pid:
        child()
        sys.exit(0)  # takes everything down, as gunicorn's workers do
    print("status", os.waitpid(pid, 0)[1], flush=True)
"""
EXPECTED = """
session = Session(path, engine="onnxruntime", threads=1)
print(np.round(session.run(x, mode="1/4"), 3).tolist())
"""
# What was prepared before is used in the child, and what was not; then the parent goes on.
PREPARED = """
session = Session(path, engine=engine, threads=threads)
session.run(x, mode="1/4")
fork(lambda: (tell(lambda: session.run(x, mode="1/4")), tell(lambda: session.run(x, mode="1"))))
print("parent:", np.round(session.run(x, mode="1/4"), 3).tolist())
"""
# As gunicorn with a preloaded application: a pool of children around a session of the parent's.
POOL = """
session = Session(path, engine=engine, threads=threads)
PREPARE
def answer(number):
    try:
        return np.round(session.run(x, mode="1/4"), 3).tolist()
    except Exception as error:
        return type(error).__name__ + " " + str(error)
with multiprocessing.get_context("fork").Pool(2) as pool:
    for found in pool.map(answer, range(4)):
        print("child:", found, flush=True)
process = multiprocessing.get_context("fork").Process(target=lambda: print("child:", answer(0), flush=True))
process.start()
process.join()
print("status", process.exitcode)
"""
OPENED_IN_CHILD = """
session = Session(path, engine=engine, threads=threads)
session.run(x)
fork(lambda: tell(lambda: Session(path, engine=engine, threads=threads).run(x, mode="1/4")))
"""
AUTO_IN_CHILD = """
Session(path, engine=engine, threads=threads).run(x)
fork(lambda: tell(lambda: Session(path, engine="auto", threads=threads).run(x, mode="1/4")))
"""
UNDER_A_DEADLINE = """
session = Session(path, engine=engine, threads=threads, memory_budget_mb=50)
session.run(x, deadline_ms=1000)
def child():
    tell(lambda: session.run(x, mode="1/4"))
    session.run(x, deadline_ms=1000)
    assert session.controller().counters.decisions == 1
    session.close()
fork(child)
session.close()
"""
# A fork in the midst of everything: other threads run, prepare and hold locks.
BUSY = """
session = Session(path, engine=engine, threads=threads, memory_budget_mb=0.001)
stop = []
def work(seed):
    while not stop:
        session.run(x, mode=session.modes[seed % 3])
workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
[each.start() for each in workers]
for _ in range(5):
    time.sleep(0.05)
    fork(lambda: tell(lambda: session.run(x, mode="1/4")))
stop.append(1)
[each.join() for each in workers]
"""
GRANDCHILD = """
session = Session(path, engine=engine, threads=threads)
session.run(x, mode="1/4")
def child():
    tell(lambda: session.run(x, mode="1/4"))
    fork(lambda: tell(lambda: session.run(x, mode="1/4")))
fork(child)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = converted(small_resnet()).eval()
    we.calibrate(net, ["1", "1/2", "1/4"], [torch.randn(8, 3, 6, 6)])
    return we.export(net, ["1", "1/2", "1/4"], tmp_path_factory.mktemp("fork") / "net.wen")


@pytest.fixture(scope="module")
def expected(bundle: Path) -> str:
    return lines(EXPECTED, bundle)[0]


def lines(code: str, bundle: Path, engine: str = "onnxruntime", threads: int = 1) -> list[str]:
    """Return what a process and its children print; a hang is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGINNING + code, str(bundle), engine, str(threads)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def children(said: list[str]) -> list[str]:
    """Return what children said, all of which came to a good end."""
    assert all(line == "status 0" for line in said if line.startswith("status"))
    assert any(line == "status 0" for line in said)
    return [line.removeprefix("child: ") for line in said if line.startswith("child: ")]


REFUSED = "EngineError openvino was used before this process was forked"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_a_child_computes_or_refuses_and_the_parent_goes_on(
    bundle: Path, expected: str, engine: str, threads: int
):
    said = lines(PREPARED, bundle, engine, threads)
    first, second = children(said)
    if engine != "openvino":
        assert first == expected
        assert second != expected
    else:
        assert first.startswith(REFUSED)
        assert second.startswith(REFUSED)
        assert "take engine='onnxruntime'" in first
    assert said[-1].startswith("parent: [[")


@pytest.mark.parametrize("prepare", ["", "session.run(x)"], ids=["opened", "used"])
@pytest.mark.parametrize("engine", SESSION_ENGINES)
def test_pools_around_a_session_that_was_loaded_before(
    bundle: Path, expected: str, engine: str, prepare: str
):
    found = children(lines(POOL.replace("PREPARE", prepare), bundle, engine, 2))
    assert len(found) == 5
    if engine == "openvino" and prepare:
        assert all(REFUSED in each for each in found)
    elif engine != "openvino":
        assert found == [expected] * 5
    else:  # nothing was compiled before, so the children can
        assert len(set(found)) == 1
        assert found[0].startswith("[[")


@NEEDS_KERNELS
@pytest.mark.parametrize("code", [OPENED_IN_CHILD, UNDER_A_DEADLINE, BUSY, GRANDCHILD])
def test_our_kernels_in_children(bundle: Path, expected: str, code: str):
    assert set(children(lines(code, bundle, "native", 2))) == {expected}


def test_sessions_opened_in_a_child(bundle: Path, expected: str):
    assert children(lines(OPENED_IN_CHILD, bundle, "onnxruntime", 2)) == [expected]
    assert children(lines(OPENED_IN_CHILD, bundle, "openvino", 2))[0].startswith(REFUSED)
    # Where the engine is left open it is one that works here.
    assert children(lines(AUTO_IN_CHILD, bundle, "openvino", 2)) == [expected]


def test_deadlines_budgets_and_closing_in_a_child(bundle: Path, expected: str):
    assert children(lines(UNDER_A_DEADLINE, bundle, "onnxruntime", 2)) == [expected]


def test_a_fork_while_other_threads_run_and_prepare(bundle: Path, expected: str):
    assert children(lines(BUSY, bundle, "onnxruntime", 2)) == [expected] * 5


def test_children_of_children(bundle: Path, expected: str):
    assert children(lines(GRANDCHILD, bundle, "onnxruntime", 2)) == [expected] * 2
