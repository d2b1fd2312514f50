"""The comparison of sides at its smallest scale, and what is said of two fronts against direct readings."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments import worth, worth_latency
from experiments.fronts_of_sides import SideFront, beside, gap_between
from experiments.page_worth import _old_front
from experiments.pixels import load_pixels
from experiments.sides import Spending, config_of, converted, steps_of_side
from experiments.worth_records import (
    PAIRS,
    _front,
    by_latency,
    latencies_file,
    parts_of,
    records_of,
)
from experiments.worth_sides import (
    ACCOUNTING,
    COMBINED,
    EXITS_JOINT,
    FOUND,
    JOINT,
    JOINT_POOLED,
    PAPER,
    POOLED,
    SCALES,
    UNIFORM_ALONE,
    US_NET,
    alone_sides,
    sides_of,
)
from results.records import read_records
from tests.data.test_data import write_images
from wenable.measure.latency import TimingPlan
from wenable.training import TrainConfig, sample_modes


def front(costs: list[float], shares: list[float], seed: int, images: int = 300) -> SideFront:
    rng = np.random.default_rng(seed)
    right = rng.random((len(costs), images)) < np.asarray(shares)[:, None]
    return SideFront(tuple(map(str, costs)), np.asarray(costs), right)


def test_the_gap_is_the_area_between_the_lines():
    ours = front([0.1, 0.3, 0.55, 1.0], [0.3, 0.5, 0.55, 0.6], 1)
    theirs = front([0.2, 0.25, 0.9], [0.2, 0.4, 0.7], 2)
    found = gap_between(ours, theirs)
    assert found is not None
    assert (found.from_cost, found.to_cost) == (0.2, 0.9)
    # A fine sum over the range, by no formula.
    fine = np.linspace(0.2, 0.9, 700_001)
    lines = [np.interp(fine, each.costs, each.accuracies) for each in (ours, theirs)]
    assert found.value == pytest.approx(float((lines[0] - lines[1]).mean()), abs=1e-5)
    assert found.low < found.value < found.high
    other = gap_between(theirs, ours)
    assert other is not None
    assert other.value == pytest.approx(-found.value)
    assert gap_between(front([0.1, 0.2], [0.5, 0.5], 3), front([0.3, 0.4], [0.5, 0.5], 4)) is None
    # The interval is that of a bootstrap of the images, written out.
    rng = np.random.default_rng(5)
    values = []
    for _ in range(400):
        drawn = rng.integers(0, 300, 300)
        resampled = [
            np.interp(fine[::500], s.costs, s.right[:, drawn].mean(1)) for s in (ours, theirs)
        ]
        values.append((resampled[0] - resampled[1]).mean())
    assert np.percentile(values, (2.5, 97.5)) == pytest.approx([found.low, found.high], abs=0.015)


def test_a_front_beside_itself_is_not_above():
    one = front([0.1, 0.5, 1.0], [0.3, 0.5, 0.6], 1)
    found = beside(one, one)
    assert found["above"]["share"] == 0
    assert found["gap"]["value"] == 0


def test_sides_are_trained_searched_and_compared_and_go_on_where_they_were(
    tmp_path: Path, monkeypatch
):
    data = write_images(tmp_path / "images", {"train": 40, "test": 10}, size=32)
    arguments = {"scale": "smoke", "data": data, "work": tmp_path / "work", "out": tmp_path}
    assert worth.run(**arguments, minutes=0.0) is None
    names = [PAPER, US_NET, JOINT, JOINT_POOLED, "alone, full"]
    results = worth.run(**arguments, sides=names)
    assert results is not None
    assert read_records(tmp_path / "results" / "worth-smoke.jsonl") == results
    runs = {run["side"]: run for run in results["runs"]}
    assert set(runs) == set(names)
    assert f"{FOUND}, seed 0" in results["missing"]
    for name in (PAPER, US_NET, JOINT, JOINT_POOLED):
        # As near as whole steps come: half of one, and what is left to chance of its modes.
        step = runs[name]["full_passes"] / runs[name]["steps"]
        assert abs(runs[name]["full_passes"] - 2.0) <= 0.5 * step + 0.3
    assert runs["alone, full"]["full_passes"] == runs["alone, full"]["epochs"]
    assert runs["alone, full"]["epochs"] == pytest.approx(2.0, rel=0.15)
    (joint,) = [each for each in sides_of(SCALES["smoke"]) if each.name == JOINT]
    net = converted(joint, SCALES["smoke"].make(2), torch.zeros(2, 3, 16, 16))
    assert {net.macs(mode["mode"]) for mode in runs[JOINT]["modes"]} > {net.macs("1/2")}
    assert net.macs("1/2,size=8") < net.macs("1/2")
    assert [(pair["ours"], pair["theirs"]) for pair in results["pairs"]] == [
        (PAPER, US_NET), (JOINT, US_NET)
    ]  # fmt: skip
    combined = ["1", "1/2", "1,size=8", "1/2,size=8"]
    assert [mode["mode"] for mode in runs[JOINT_POOLED]["modes"]] == combined
    page = (tmp_path / "docs" / "results" / "worth.md").read_text()
    assert f"**Not run: {FOUND}, seed 0" in page
    assert "The price of sharing" in page
    monkeypatch.setattr("wenable.training.loop.train_step", None)  # nothing is trained again
    again = worth.run(**arguments, sides=names)
    assert again is not None
    assert again["runs"] == results["runs"]
    timed = worth_latency.run(**arguments, threads=1, timing=TimingPlan(1, 2, 1, 0.0))
    assert read_records(tmp_path / "results" / "worth-smoke.jsonl") == timed
    (made,) = timed["timed"]
    for run in timed["runs"]:
        for mode in run["modes"]:
            assert run["side"] == "alone, full" or 0 < mode["low_ms"] <= mode["latency_ms"]
            assert ("engine" in mode) == (run["side"] != "alone, full")
    assert all("at_equal_ms" in pair for pair in timed["pairs"])
    page = (tmp_path / "docs" / "results" / "worth.md").read_text()
    assert "; at equal ms " in page or "; no common range of ms" in page
    assert made["command"] in page
    # Figures of two runs are not held against each other.
    path = latencies_file(tmp_path / "work" / "smoke", JOINT, 0)
    path.write_text(path.read_text().replace(made["commit"], "0000000"))
    pairs = records_of("smoke", SCALES["smoke"], tmp_path / "work" / "smoke")["pairs"]
    assert ["at_equal_ms" in pair for pair in pairs] == [True, False]


def test_sides_of_uniform_modes_train_and_compare_no_others():
    pooled, few = (next(s for s in sides_of(SCALES["short"]) if s.name == n) for n in UNIFORM_ALONE)
    for side, between in ((pooled, ("1/2", "1/4", "1/8")), (few, ("0.7", "0.5", "0.35"))):
        net = converted(side, SCALES["short"].make(10), torch.zeros(2, 3, 16, 16))
        config = config_of(side, SCALES["short"].spending, seed=0)
        drawn = [sample_modes(net, config, step, 1000) for step in range(500, 560)]
        assert {str(mode) for modes in drawn for mode in modes[2:]} == set(between)
        assert {modes[:2] for modes in drawn} == {(net.space.full, net.space.smallest)}
        costs = [net.macs(mode) / net.macs("full") for mode in net.space.uniform_modes()]
        assert costs == pytest.approx([1, 0.5, 0.25, 0.135, 0.07], rel=0.08)
    header = {"uniform": 2, "modes": ["1", "1/2", "a", "b"], "costs": [1.0, 0.5, 0.7, 0.6]}
    header |= {"front": ["1", "b"]}
    right = np.eye(4, dtype=bool)
    assert _front(POOLED, header, right).modes == ("1/2", "1")
    assert (
        _front(FOUND, header, right).modes
        == _front(JOINT_POOLED, header, right).modes
        == ("b", "1")
    )


def test_a_front_that_was_searched_holds_its_uniform_modes_too(monkeypatch):
    (side,) = [each for each in sides_of(SCALES["smoke"]) if each.name == FOUND]
    net = converted(side, SCALES["smoke"].make(2), torch.zeros(2, 3, 16, 16))
    full, smallest = net.space.full, net.space.smallest
    mixture = sample_modes(net, TrainConfig(passes=3), 0, 1)[2]
    found = SimpleNamespace(modes=(smallest, mixture, full))
    monkeypatch.setattr(worth, "searched", lambda *_: found)
    modes, front = worth._modes(side, net, SCALES["smoke"], [], [], Path())
    assert modes == [full, smallest, mixture]
    assert front == [smallest, mixture, full]


def test_pairs_of_before_fronts_held_uniform_modes_are_told_of():
    pair = {"ours": FOUND, "theirs": POOLED, "seed": 0}
    old, new = {"side": FOUND, "seed": 0}, {"side": FOUND, "seed": 0, "front": []}
    pooled = {"side": POOLED, "seed": 0}
    assert _old_front(pair, {"runs": [old, pooled]}) == " (old front)"
    assert _old_front(pair, {"runs": [new, pooled]}) == ""
    assert _old_front(pair | {"ours": POOLED}, {"runs": [old, pooled]}) == ""


def test_joint_sides_of_uniform_modes_train_every_size_and_draw_no_mixture():
    for name in COMBINED:
        (side,) = [each for each in sides_of(SCALES["short"]) if each.name == name]
        of_a_size = 3 if name == EXITS_JOINT else 5
        net = converted(side, SCALES["short"].make(10), torch.zeros(2, 3, 16, 16))
        config = config_of(side, SCALES["short"].spending, seed=0)
        drawn = {m for step in range(500, 560) for m in sample_modes(net, config, step, 1000)[2:]}
        assert drawn == {*net.space.uniform_combinations()} - {net.space.full, net.space.smallest}
        assert len(drawn) == 3 * of_a_size - 2


def test_a_front_in_milliseconds_leaves_out_what_is_no_faster_than_a_larger_mode():
    one = front([0.1, 0.2, 0.5, 1.0], [0.3, 0.4, 0.5, 0.6], 1)
    found = by_latency(one, {"0.1": 2.0, "0.2": 1.0, "0.5": 1.0, "1.0": 3.0})
    assert found.modes == ("0.5", "1.0")
    assert found.costs.tolist() == [1.0, 3.0]
    assert np.array_equal(found.right, one.right[[2, 3]])


def test_a_side_can_take_the_steps_of_another_whatever_they_cost(tmp_path: Path):
    smoke = SCALES["smoke"]
    data = write_images(tmp_path / "images", {"train": 40, "test": 10}, size=32)
    pixels = load_pixels(data, smoke.image_size, tmp_path)
    (side,) = [each for each in sides_of(smoke) if each.name == ACCOUNTING]
    (us_net,) = [each for each in sides_of(smoke) if each.name == US_NET]

    def make():
        return smoke.make(2)

    net = converted(us_net, make(), torch.zeros(2, 3, 16, 16))
    config = config_of(us_net, smoke.spending, 0)
    expected = steps_of_side(us_net, net, config, len(pixels.train), smoke.spending)
    assert worth._steps_of(side, smoke, 0, pixels, make) == expected
    assert config_of(side, smoke.spending, 0).passes == 20


def test_every_scale_has_the_sides_the_comparison_names():
    for scale in SCALES.values():
        names = [side.name for side in (*sides_of(scale), *alone_sides(scale))]
        assert len(set(names)) == len(names)
        with_exits = set() if scale.exits else {EXITS_JOINT}
        assert {side for pair in PAIRS for side in pair} - with_exits <= set(names)
        assert isinstance(scale.spending, Spending)
        assert len(set(parts_of(scale))) == len(parts_of(scale))
    with pytest.raises(ValueError, match=r"`--sides` holds 'x'; allowed: weight-enabling, US-Net"):
        worth.run("smoke", Path("none"), Path("none"), Path("none"), sides=["x"])
