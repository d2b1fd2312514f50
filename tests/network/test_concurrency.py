"""Several threads with one network: right answers or a refusal, never another thread's mode."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import wenable as we
from tests.helpers.networks import small_resnet

MODES = ("full", "1/2", "1/4")
LIMIT_S = 30


@pytest.fixture(name="net")
def fixture_net() -> we.DynamicNetwork:
    torch.manual_seed(0)
    net = we.convert(small_resnet(), torch.randn(1, 3, 8, 8))
    we.calibrate(net, MODES, [torch.randn(8, 3, 8, 8)])
    return net


def in_thread(call: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(LIMIT_S)


@torch.no_grad()
def test_threads_that_use_their_modes_get_the_answers_of_their_modes(net):
    x = torch.randn(2, 3, 8, 8)
    expected = {}
    for mode in MODES:
        with net.using(mode):
            expected[mode] = net(x)

    @torch.no_grad()
    def ask(mode: str) -> bool:
        answers = []
        for _ in range(50):
            with net.using(mode):
                answers.append(net(x))
        return all(torch.equal(answer, expected[mode]) for answer in answers)

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(ask, MODES[i % 3]) for i in range(8)]
        assert all(result.result(LIMIT_S) for result in results)


@torch.no_grad()
def test_threads_that_set_modes_get_right_answers_or_a_refusal(net):
    x = torch.randn(2, 3, 8, 8)
    expected = {}
    for mode in MODES:
        with net.using(mode):
            expected[mode] = net(x)
    start = threading.Barrier(4)

    @torch.no_grad()
    def ask(mode: str) -> tuple[int, int]:
        right = refused = 0
        start.wait(LIMIT_S)
        for _ in range(100):
            try:
                net.set_mode(mode)
                answer = net(x)
            except RuntimeError as error:
                refused += "copy.deepcopy" in str(error) or "net.using" in str(error)
            else:
                assert torch.equal(answer, expected[mode])
                right += 1
        return right, refused

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(ask, MODES[i % 2]) for i in range(4)]
        counts = [result.result(LIMIT_S) for result in results]
    assert sum(right + refused for right, refused in counts) == 400
    assert sum(right for right, _ in counts) > 0


def test_a_thread_does_not_run_in_the_mode_that_another_has_set_since(net):
    net.set_mode("1/2")
    in_thread(lambda: net.set_mode("1/4"))
    with pytest.raises(RuntimeError, match=r"this thread set mode 1/2, and another has set 1/4"):
        net(torch.randn(1, 3, 8, 8))
    net.set_mode("1/2")
    net(torch.randn(1, 3, 8, 8))


def test_a_thread_that_never_set_a_mode_runs_in_the_present_one(net):
    x = torch.randn(1, 3, 8, 8)
    net.set_mode("1/4")
    assert torch.equal(in_thread(lambda: net(x)), net(x))  # pyright: ignore[reportArgumentType]


def test_a_forward_pass_beside_another_threads_block_is_refused(net):
    with net.using("1/4"), pytest.raises(RuntimeError, match="another thread is inside `using`"):
        in_thread(lambda: net(torch.randn(1, 3, 8, 8)))
    in_thread(lambda: net(torch.randn(1, 3, 8, 8)))


def test_the_mode_is_not_changed_in_the_middle_of_a_pass(net):
    def switch(*_: object) -> None:
        net.set_mode("1/4")

    handle = net.get_submodule("block1").register_forward_hook(switch)
    with pytest.raises(RuntimeError, match="while a forward pass of this network runs"):
        net(torch.randn(1, 3, 8, 8))
    handle.remove()
    assert net.mode == net.space.full
    net.set_mode("1/4")  # the failed pass has been counted out
    net(torch.randn(1, 3, 8, 8))


def test_behind_a_block_a_thread_expects_what_it_did_before(net):
    net.set_mode("1/2")
    with net.using("1/4"):
        net(torch.randn(1, 3, 8, 8))
    in_thread(lambda: net.set_mode("full"))
    with pytest.raises(RuntimeError, match="this thread set mode 1/2"):
        net(torch.randn(1, 3, 8, 8))


def test_a_copy_is_free_of_the_threads_of_the_original(net):
    net.set_mode("1/2")
    with net.using("1/4"):
        other = copy.deepcopy(net)
        other.set_mode("full")
        in_thread(lambda: other(torch.randn(1, 3, 8, 8)))
    assert other.mode == other.space.full
    assert net.mode == net.space.mode("1/2")


def test_forward_passes_in_one_mode_run_side_by_side(net):
    """Two threads meet inside the network: each waits there for the other."""
    meeting = threading.Barrier(2)

    def meet(*_: object) -> None:
        meeting.wait(LIMIT_S)

    handle = net.get_submodule("block1").register_forward_hook(meet)
    try:
        with ThreadPoolExecutor(2) as pool:
            passes = [pool.submit(net, torch.randn(1, 3, 8, 8)) for _ in range(2)]
            assert [each.result(LIMIT_S).shape[0] for each in passes] == [1, 1]
    finally:
        handle.remove()
