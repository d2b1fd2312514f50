"""Algorithm 2 against a naive one written from the paper's lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wenable.core.readings import Reading
from wenable.core.space import Knob, Mode, Space
from wenable.strategies.greedy import SearchStep, greedy


def naive(space: Space, accuracy, cost, min_accuracy: float) -> tuple[list[Mode], int]:
    """Lines 1 to 12 of Algorithm 2; ties go to the layer that runs first."""
    current, evaluations = dict.fromkeys(space.names, 1), 1
    path = [space.mode(dict(current))]
    while accuracy(path[-1]) > min_accuracy:
        best = None
        for knob in space.knobs:
            position = knob.options.index(current[knob.name])
            if position + 1 == len(knob.options):
                continue
            candidate = {**current, knob.name: knob.options[position + 1]}
            mode = space.mode(candidate)
            evaluations += 1
            loss = cost(mode) / accuracy(mode) if accuracy(mode) else float("inf")
            if best is None or loss < best[0]:
                best = (loss, candidate)
        if best is None:
            break
        current = best[1]
        path.append(space.mode(dict(current)))
    return path, evaluations


@st.composite
def problems(draw: st.DrawFn):
    chains = draw(st.lists(st.sampled_from([(1, 2), (1, 2, 4)]), min_size=1, max_size=4))
    space = Space(tuple(Knob(f"k{i}", options) for i, options in enumerate(chains)))
    # Few distinct values, so that ties are common.
    drop = [draw(st.sampled_from([0.0, 0.1, 0.2])) for _ in chains]
    weight = [draw(st.sampled_from([1, 2])) for _ in chains]
    slower = draw(st.booleans())

    def accuracy(mode: Mode) -> float:
        lost = sum(d * (n.bit_length() - 1) for d, n in zip(drop, mode.options, strict=True))
        return round(max(0.0, 0.95 - lost), 6)

    def cost(mode: Mode) -> float:
        # With `slower`, the second option costs more than the first, as on a real device.
        return sum(
            w * (1.25 if slower and n == 2 else 1 / n)
            for w, n in zip(weight, mode.options, strict=True)
        )

    return space, accuracy, cost, draw(st.sampled_from([0.0, 0.4, 0.6, 0.9]))


@settings(deadline=None, max_examples=200)
@given(problems())
def test_the_path_is_that_of_the_paper(problem):
    space, accuracy, cost, min_accuracy = problem
    path, evaluations = naive(space, accuracy, cost, min_accuracy)
    front = greedy(
        space,
        lambda mode: Reading(accuracy(mode), "top-1"),
        lambda modes: [Reading(cost(mode), "MACs") for mode in modes],
        min_accuracy,
    )
    assert [point.mode for point in front.path] == path
    assert front.evaluations == evaluations
    above = [mode for mode in path if accuracy(mode) > min_accuracy]
    assert front.chosen.mode == above[-1]
    assert all(accuracy(mode) > min_accuracy for mode in front.modes)
    for mode in above:
        assert any(
            accuracy(kept) >= accuracy(mode) and cost(kept) <= cost(mode) for kept in front.modes
        )


SPACE = Space((Knob("a", (1, 2)), Knob("b", (1, 2))))


def flat(accuracy: float):
    return lambda mode: Reading(accuracy, "top-1")


def macs(modes):
    return [Reading(sum(1 / n for n in mode.options), "MACs") for mode in modes]


def test_ties_go_to_the_layer_that_runs_first():
    front = greedy(SPACE, flat(0.9), macs, 0.5)
    assert [str(p.mode) for p in front.path] == ["1", "1/2,1", "1/2"]


def test_the_search_ends_at_the_threshold_and_not_only_under_it():
    accuracies = {"1": 0.9, "1/2,1": 0.8, "1,1/2": 0.7, "1/2": 0.6}
    front = greedy(SPACE, lambda mode: Reading(accuracies[str(mode)], "top-1"), macs, 0.8)
    assert [str(p.mode) for p in front.path] == ["1", "1/2,1"]
    assert str(front.chosen.mode) == "1"
    assert front.modes == (SPACE.full,)


def test_steps_are_reported():
    steps: list[SearchStep] = []
    greedy(SPACE, flat(0.9), macs, 0.5, on_step=steps.append)
    assert [(s.number, s.most, s.candidates, s.evaluations) for s in steps] == [
        (1, 2, 2, 3),
        (2, 2, 1, 4),
    ]


@pytest.mark.parametrize(
    ("min_accuracy", "message"),
    [
        (
            0.9,
            r"`min_accuracy` \(=0.9\) cannot be reached: the full mode has an accuracy of 0.9000",
        ),
        (1.0, r"`min_accuracy` \(=1.0\) must be an accuracy from 0 to below 1"),
        (-0.1, "must be an accuracy"),
        (float("nan"), "must be an accuracy"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(min_accuracy: float, message: str):
    with pytest.raises(ValueError, match=message):
        greedy(SPACE, flat(0.9), macs, min_accuracy)
