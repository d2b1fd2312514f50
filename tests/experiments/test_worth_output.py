"""What a record keeps of an earlier one: worked out by hand."""

from typing import Any

import pytest

from experiments.worth_output import with_earlier
from experiments.worth_sides import FOUND, PAPER, SCALES, US_NET

SIZES = SCALES["smoke"]
ABOUT = {"scale": "smoke", "network": "a network", "image_size": 16, "budget": 2.0}


def run(side: str, accuracy: float, **timed: Any) -> dict[str, Any]:
    return {"side": side, "seed": 0, "modes": [{"mode": "1", "accuracy": accuracy, **timed}]}


def pair(ours: str, theirs: str, **more: Any) -> dict[str, Any]:
    return {"ours": ours, "theirs": theirs, "seed": 0, **more}


def record(runs: list[Any], pairs: list[Any], timed: list[Any] | None = None) -> dict[str, Any]:
    return {**ABOUT, "missing": ["anything"], "timed": timed or [], "runs": runs, "pairs": pairs}


def test_a_side_that_was_trained_elsewhere_stays_with_its_pairs():
    earlier = record(
        [run(PAPER, 0.5, latency_ms=2.0), run(US_NET, 0.6, latency_ms=1.0)],
        [pair(PAPER, US_NET, at_equal_ms=1)],
        [{"commit": "1"}],
    )
    found = with_earlier(record([run(FOUND, 0.7)], []), earlier, SIZES)
    assert [each["side"] for each in found["runs"]] == [PAPER, US_NET, FOUND]
    assert found["pairs"] == earlier["pairs"]
    assert found["timed"] == earlier["timed"]
    assert f"{PAPER}, seed 0" not in found["missing"]
    assert len(found["missing"]) == len(set(found["missing"])) > 3


def test_a_side_that_was_trained_anew_takes_the_place_of_the_earlier_and_its_pairs():
    earlier = record([run(PAPER, 0.5), run(US_NET, 0.6), run(FOUND, 0.7)],
                     [pair(PAPER, US_NET), pair(FOUND, PAPER)])  # fmt: skip
    found = with_earlier(
        record([run(US_NET, 0.61), run(FOUND, 0.7)], [pair(FOUND, US_NET)]), earlier, SIZES
    )
    assert [run["modes"][0]["accuracy"] for run in found["runs"]] == [0.5, 0.61, 0.7]
    assert found["pairs"] == [pair(FOUND, US_NET), pair(FOUND, PAPER)]


def test_what_was_timed_of_the_same_run_stays_until_it_is_timed_again():
    old = record([run(PAPER, 0.5, latency_ms=2.0), run(US_NET, 0.6, latency_ms=1.0)],
                 [pair(PAPER, US_NET, at_equal_ms=1)])  # fmt: skip
    again = record([run(PAPER, 0.5), run(US_NET, 0.6)], [pair(PAPER, US_NET)])
    assert with_earlier(again, old, SIZES)["runs"] == old["runs"]
    assert with_earlier(again, old, SIZES)["pairs"] == old["pairs"]
    anew = record([run(PAPER, 0.5)], [pair(PAPER, US_NET, gap=2)])
    untimed = record(old["runs"], [pair(PAPER, US_NET, gap=1)])
    assert (
        with_earlier(anew, untimed, SIZES)["pairs"] == anew["pairs"]
    )  # compared in another way now
    timed = record([run(PAPER, 0.5, latency_ms=3.0), run(US_NET, 0.6, latency_ms=2.5)],
                   [pair(PAPER, US_NET, at_equal_ms=2)])  # fmt: skip
    assert with_earlier(timed, old, SIZES)["runs"] == timed["runs"]
    assert with_earlier(timed, old, SIZES)["pairs"] == timed["pairs"]


def test_records_of_another_budget_are_not_mixed():
    with pytest.raises(ValueError, match=r"has budget 2\.0, and this run 4\.0"):
        with_earlier(record([], []) | {"budget": 4.0}, record([], []), SIZES)
