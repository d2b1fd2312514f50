"""Greedy with last known scores beside the exact one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.core.readings import Reading
from wenable.core.space import Knob, Mode, Space
from wenable.strategies.greedy import SearchStep, greedy
from wenable.strategies.greedy_lazy import greedy_lazy


@st.composite
def additive_problems(draw: st.DrawFn):
    """Each option of a knob costs the same accuracy wherever the others are: nothing to miss."""
    chains = draw(st.lists(st.sampled_from([(1, 2), (1, 2, 4)]), min_size=1, max_size=5))
    space = Space(tuple(Knob(f"k{i}", options) for i, options in enumerate(chains)))
    # In 64ths, so that sums and differences are exact.
    drops = [draw(st.integers(0, 4)) for _ in chains]
    weights = [draw(st.sampled_from([1, 2, 3])) for _ in chains]

    def accuracy(mode: Mode) -> Reading:
        lost = sum(d * (n.bit_length() - 1) for d, n in zip(drops, mode.options, strict=True))
        return Reading((64 - lost) / 64, "top-1")

    def costs(modes) -> list[Reading]:
        return [
            Reading(1 + sum(w / n for w, n in zip(weights, mode.options, strict=True)), "MACs")
            for mode in modes
        ]

    return space, accuracy, costs, draw(st.sampled_from([0.0, 0.5, 0.9]))


@settings(deadline=None, max_examples=200)
@given(additive_problems())
def test_where_losses_add_up_the_path_is_the_exact_one(problem):
    space, accuracy, costs, min_accuracy = problem
    exact = greedy(space, accuracy, costs, min_accuracy)
    lazy = greedy_lazy(space, accuracy, costs, min_accuracy)
    assert lazy.path == exact.path
    assert lazy.points == exact.points
    assert lazy.evaluations <= exact.evaluations
    assert set(lazy.explored) <= set(exact.explored)
    assert lazy.strategy == "greedy-lazy"


def test_it_evaluates_few_where_there_are_many_knobs():
    space = Space(tuple(Knob(f"k{i}", (1, 2, 4, 8, 16)) for i in range(30)))

    def accuracy(mode: Mode) -> Reading:
        return Reading(
            0.9 - sum(0.001 * (i % 7) * (n - 1) / 15 for i, n in enumerate(mode.options)), "top-1"
        )

    def costs(modes) -> list[Reading]:
        return [
            Reading(sum((1 + i % 3) / n for i, n in enumerate(m.options)), "MACs") for m in modes
        ]

    exact, lazy = (search(space, accuracy, costs, 0.1) for search in (greedy, greedy_lazy))
    assert lazy.path[-1].mode == exact.path[-1].mode == space.smallest
    assert lazy.evaluations * 10 < exact.evaluations


def test_what_became_better_than_it_was_is_missed():
    """The approximation, as the docstring tells it: b is cheap only once a is cut."""
    space = Space((Knob("a", (1, 2)), Knob("b", (1, 2)), Knob("c", (1, 2))))

    def accuracy(mode: Mode) -> Reading:
        lost = {(1, 2): 0.4, (2, 2): 0.1}.get(mode.options[:2], 0.0)
        return Reading(0.9 - lost - 0.05 * (mode["c"] - 1), "top-1")

    def costs(modes) -> list[Reading]:
        weights = (10, 9, 9)
        return [
            Reading(20 + sum(w / n for w, n in zip(weights, mode.options, strict=True)), "MACs")
            for mode in modes
        ]

    steps: list[SearchStep] = []
    lazy = greedy_lazy(space, accuracy, costs, 0.1, on_step=steps.append)
    assert [str(point.mode) for point in lazy.path][-1] == "1/2"
    assert [step.number for step in steps] == [1, 2, 3]
    assert steps[-1].evaluations == lazy.evaluations == len(lazy.explored)


def test_thresholds_that_mean_nothing_are_refused():
    space = Space((Knob("a", (1, 2)),))
    reading = Reading(0.5, "top-1")
    for min_accuracy, message in ((1.0, "must be an accuracy from 0"), (0.5, "cannot be reached")):
        with pytest.raises(ValueError, match=message):
            greedy_lazy(
                space, lambda _: reading, lambda modes: [reading for _ in modes], min_accuracy
            )
