"""Bursts on a fake clock: requests at random times, and controllers that learn as real ones do."""

import random
from collections import Counter

import numpy as np
import pytest

from wenable.runtime.controller import Controller
from wenable.runtime.decisions import ModeFigures
from wenable.runtime.replay import FakeClock
from wenable.serving.batcher import Batcher
from wenable.serving.refusals import RefusedError

FULL_MS, FAST_MS, BEGIN_MS = 12.0, 1.5, 1.0
RATE = 1e3 / (FULL_MS + BEGIN_MS / 8)
"""What the full mode serves in batches of eight, in a second."""
DEADLINE_MS = 100.0


class World:
    """A machine with a clock, on which a session computes while requests come."""

    modes, image_sizes = ("1", "1/4"), ("",)

    def __init__(self, arrivals_s: list[float], seed: int = 0) -> None:
        self.clock, self.slowdown, self.rng = FakeClock(), lambda now_s: 1.0, random.Random(seed)
        self.due, self.found = list(reversed(arrivals_s)), []
        self.controllers: dict[int, Controller] = {}
        self.queue = Batcher(self, clock=self.clock, start=False)  # pyright: ignore

    def controller(self, batch: int, image_size: str | None = None) -> Controller:
        if batch not in self.controllers:
            modes = [
                ModeFigures("1", 0.8, BEGIN_MS + FULL_MS * batch),
                ModeFigures("1/4", 0.7, BEGIN_MS + FAST_MS * batch),
            ]
            self.controllers[batch] = Controller(modes, clock=self.clock)
        return self.controllers[batch]

    def run(self, x, *, deadline_ms: float):
        controller = self.controller(len(x))
        decision = controller.choose(deadline_ms=deadline_ms)
        took_ms = controller.modes[decision.mode].latency_ms * self.slowdown(self.clock())
        took_ms *= self.rng.lognormvariate(0, 0.05)
        self.pass_until(self.clock() + took_ms / 1e3)
        controller.observe(decision, took_ms)
        return x

    def pass_until(self, end_s: float) -> None:
        """Let time pass; requests that come meanwhile are announced, and wait 2 ms later."""
        while self.due and self.due[-1] <= end_s:
            came_s = self.due.pop()
            self.clock.forward(max(came_s - self.clock(), 0))
            try:
                coming = self.queue.announce(deadline_ms=DEADLINE_MS)
                self.clock.forward(0.0005)
                future = self.queue.submit(
                    (np.zeros((1, 1), np.float32),),
                    deadline_ms=DEADLINE_MS,
                    came_s=came_s,
                    coming=coming,
                )
            except RefusedError as error:
                self.found.append((came_s, error.outcome, 1e3 * (self.clock() - came_s), None))
                continue
            future.add_done_callback(lambda done, came_s=came_s: self.note(came_s, done))
        self.clock.forward(max(end_s - self.clock(), 0))

    def note(self, came_s: float, done) -> None:
        took_ms, error = 1e3 * (self.clock() - came_s), done.exception()
        outcome = error.outcome if error else "in time" if took_ms <= DEADLINE_MS else "late"
        self.found.append((came_s, outcome, took_ms, None if error else done.result().mode))

    def play(self) -> None:
        while self.due or self.queue.length:
            if not self.queue.length:
                self.pass_until(self.due[-1])
            self.queue.run_next()

    def outcomes(self, start_s: float, end_s: float) -> Counter[str]:
        return Counter(outcome for came_s, outcome, *_ in self.found if start_s <= came_s < end_s)


def arrivals(phases: list[tuple[float, float]], seed: int) -> list[float]:
    """Return random times: for each phase its rate, as a share of `RATE`, and its seconds."""
    rng, times, start_s = random.Random(seed), [], 0.0
    for share, seconds in phases:
        moment = start_s
        while (moment := moment + rng.expovariate(share * RATE)) < start_s + seconds:
            times.append(moment)
        start_s += seconds
    return times


@pytest.mark.parametrize("seed", range(5))
def test_a_burst_that_the_fastest_mode_can_serve_is_answered_in_time(seed: int):
    world = World(arrivals([(0.5, 3), (3, 5), (0.5, 3)], seed), seed)
    world.play()
    burst, after = world.outcomes(3, 8), world.outcomes(8, 11)
    assert burst["in time"] >= 0.99 * burst.total()
    assert after["in time"] == after.total()
    modes = Counter(mode for came_s, _, _, mode in world.found if came_s > 9)
    assert modes["1"] > 0.8 * modes.total()  # accuracy is back within a second


@pytest.mark.parametrize("seed", range(3))
def test_more_than_the_fastest_mode_can_serve_is_refused_at_once(seed: int):
    world = World(arrivals([(0.5, 2), (16, 4), (0.5, 2)], seed), seed)
    world.play()
    burst = world.outcomes(2, 6)
    assert burst["in time"] >= 0.99 * (burst["in time"] + burst["late"])
    fastest = 8e3 / (BEGIN_MS + 8 * FAST_MS)
    assert burst["in time"] >= 0.95 * fastest * 4  # what can be served is
    refused = [took_ms for _, outcome, took_ms, _ in world.found if outcome == "refused"]
    assert np.percentile(refused, 99) < 5.0
    assert burst["expired"] <= 0.02 * burst.total()
    after = world.outcomes(6.5, 8)
    assert after["in time"] == after.total()


@pytest.mark.parametrize("seed", range(3))
def test_a_machine_that_is_slow_for_a_while_is_followed(seed: int):
    world = World(arrivals([(2, 9)], seed), seed)
    world.slowdown = lambda now_s: 5.0 if 3 <= now_s < 6 else 1.0
    world.play()
    before, slow, after = (world.outcomes(*each) for each in ((0, 3), (3.3, 6), (7, 9)))
    for each in (before, after):
        assert each["in time"] >= 0.99 * each.total()
    assert slow["in time"] >= 0.94 * (slow["in time"] + slow["late"])
    assert slow["in time"] >= 0.5 * slow.total()
