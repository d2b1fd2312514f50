"""What is held ready stays within its budget: lent while it is used, dropped when others need room."""

import threading
import time
from typing import Any

import numpy as np
import pytest

from wenable.runtime.prepared import ClosedError, Held, PreparedModes

MODEL = {number: b"x" * 10 * (number + 1) for number in range(4)}  # 10, 20, 30, 40 bytes


class World:
    """Counts what lives: every runner that was made and not taken down yet, with its bytes."""

    def __init__(self, *, per_batch: bool = False, budget: int | None = None) -> None:
        self.alive: dict[int, int] = {}
        self.most_alive = 0
        self.made: list[tuple[int, int]] = []
        self.lock = threading.Lock()
        self.modes = PreparedModes(
            MODEL.__getitem__, lambda _, *each: self.prepare(*each),
            lambda _, *each: self.count(*each), largest=40,
            per_batch=per_batch, budget=budget,
        )  # fmt: skip

    def count(self, model: int, batch: int) -> int:
        return model + batch

    def prepare(self, model: bytes, batch: int) -> Any:
        return Runner(self, len(model), batch)


class Runner:
    def __init__(self, world: World, model: int, batch: int) -> None:
        self.world, self.shrunk = world, 0
        with world.lock:
            world.made.append((model, batch))
            world.alive[id(self)] = world.count(model, batch)
            world.most_alive = max(world.most_alive, sum(world.alive.values()))

    def __del__(self) -> None:
        with self.world.lock:
            del self.world.alive[id(self)]

    def __call__(self, inputs: Any) -> Any:
        return [inputs["x"]]

    def run_and_shrink(self, inputs: Any) -> Any:
        self.shrunk += 1
        return [inputs["x"]]


X = {"x": np.zeros(1)}


def use(modes: PreparedModes, number: int, batch: int = 1) -> Held:
    held = modes.take(number, batch)
    modes.run(held, batch, X)
    modes.leave(held)
    return held


def test_without_a_budget_everything_is_kept():
    world = World()
    for number in (0, 1, 2, 3, 0):
        use(world.modes, number)
    assert world.modes.numbers() == [1, 2, 3, 0]
    assert len(world.made) == 4
    assert world.modes.ready(1) == world.modes.ready(7) == 4


@pytest.mark.parametrize("per_batch", [False, True])
def test_what_is_counted_never_exceeds_the_budget(per_batch: bool):
    world = World(per_batch=per_batch, budget=70)
    rng = np.random.default_rng(0)
    for _ in range(300):
        number, batch = int(rng.integers(4)), int(rng.integers(1, 9))
        use(world.modes, number, batch)
        assert world.modes.held_bytes <= 70
        assert sum(world.alive.values()) <= world.modes.held_bytes  # counted for the largest batch
        assert world.modes.is_ready(number, batch)


def test_every_size_of_batch_counts_where_an_engine_prepares_it_by_itself():
    world = World(per_batch=True, budget=100)
    for batch in range(1, 65):
        use(world.modes, 0, batch)
        assert world.modes.is_ready(0, batch)
        assert world.modes.held_bytes == sum(world.alive.values()) <= 100
    assert world.modes.ready(64) == 1
    assert world.modes.ready(1) == 0  # given back long ago


def test_those_not_used_for_longest_go_first():
    world = World(budget=70)
    for number in (0, 1, 2, 0):  # 11 + 21 + 31 of 70
        use(world.modes, number)
    use(world.modes, 3)  # 41: room for it and 0 only
    assert world.modes.numbers() == [0, 3]


def test_one_that_is_larger_than_the_budget_is_held_alone():
    world = World(budget=5)
    for number in (0, 3, 1):
        use(world.modes, number)
        assert world.modes.numbers() == [number]
    assert world.most_alive == 41  # the largest of them, and nothing beside it


def test_a_batch_too_large_to_be_kept_gives_its_memory_back():
    world = World(budget=40)
    held = use(world.modes, 0, 4)
    assert (held.bytes, held.batch) == (14, 4)
    use(world.modes, 0, 8)
    assert (held.bytes, held.batch, held.runner.shrunk) == (18, 8, 0)  # pyright: ignore
    use(world.modes, 0, 64)
    assert (held.bytes, held.batch, held.runner.shrunk) == (18, 8, 1)  # pyright: ignore
    assert world.modes.held_bytes == 18


def test_what_is_in_use_is_waited_for_and_never_doubled():
    """16 threads in 4 modes with room for one: no more lives at any time than without a budget."""
    world = World(budget=45)
    together = threading.Barrier(16)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        together.wait()
        for _ in range(40):
            held = world.modes.take(int(rng.integers(4)), 1)
            if rng.random() < 0.2:
                time.sleep(0.0005)
            world.modes.run(held, 1, X)
            world.modes.leave(held)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert world.most_alive <= 45


def test_a_mode_that_is_ready_runs_while_another_is_prepared():
    for budget in (None, 1000):
        world = World(budget=budget)
        use(world.modes, 0)
        begun, go_on = threading.Event(), threading.Event()

        def slow(
            _: int, model: bytes, batch: int, world: World = world, b: Any = begun, g: Any = go_on
        ) -> Any:
            b.set()
            assert g.wait(30)
            return Runner(world, len(model), batch)

        world.modes._prepare = slow
        thread = threading.Thread(target=use, args=(world.modes, 1))
        thread.start()
        assert begun.wait(30)
        for _ in range(100):
            use(world.modes, 0)  # would wait for ever if preparing held it up
        go_on.set()
        thread.join(30)
        assert world.modes.numbers() == [0, 1]


def test_what_fails_to_prepare_can_be_tried_again():
    world = World(budget=100)
    made, world.modes._prepare = world.modes._prepare, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        use(world.modes, 0)
    assert world.modes.held_bytes == 0
    world.modes._prepare = made
    assert use(world.modes, 0).bytes == 11


def test_after_close_nothing_is_held_and_use_is_refused():
    world = World(budget=100)
    held = world.modes.take(0, 1)
    use(world.modes, 1)
    world.modes.close()
    assert world.modes.numbers() == []
    assert world.modes.run(held, 1, X) == [X["x"]]  # a call that runs goes on to its end
    world.modes.leave(held)
    del held
    assert world.alive == {}
    with pytest.raises(ClosedError, match="the session is closed; open the bundle again"):
        use(world.modes, 0)
    world.modes.close()


def test_one_that_waits_for_room_is_told_when_the_session_is_closed():
    world = World(budget=15)
    held = world.modes.take(0, 1)
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            use(world.modes, 1)
        except ClosedError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 30
    while not world.modes._room_wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    world.modes.close()
    thread.join(30)
    assert len(failed) == 1
    world.modes.leave(held)
