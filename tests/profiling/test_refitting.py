"""Tables fitted again: a known bias is found, noise is not taken for one, and held out stays held out."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from typer.testing import CliRunner

from wenable.cli.main import app
from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Knob, Mode, Space
from wenable.profiling.refitting import LEAST_MODES, _bounded, refit, scaled
from wenable.profiling.verification import Verification
from wenable.runtime import DeviceProfile

SPACE = Space(tuple(Knob(f"layer{n}", (1, 2, 4)) for n in range(12)))


def table(seed: int = 0) -> CostTable:
    rng = random.Random(seed)
    costs = {k.name: {n: rng.uniform(0.2, 2) / n**0.7 for n in k.options} for k in SPACE.knobs}
    return CostTable(SPACE, "ms", 1.5, costs, "an engine, 2 threads", "a board")


def verified(
    given: CostTable, truth: Callable[[Mode], float], modes: int = 48, seed: int = 1
) -> Verification:
    """What a device would show whose modes take what `truth` says."""
    rng = random.Random(seed)
    wanted = [SPACE.sample(rng) for _ in range(modes)]
    return Verification(
        {str(mode): given.cost(mode) for mode in wanted},
        {str(mode): Reading(truth(mode), "ms", truth(mode), truth(mode)) for mode in wanted},
        "an engine",
        "a board",
    )


def test_a_device_that_is_slower_by_a_factor_and_an_offset_is_found_exactly():
    given = table()
    truth = replace(
        given, rest=4.0,
        costs={name: {n: 1.7 * ms for n, ms in row.items()} for name, row in given.costs.items()},
    )  # fmt: skip
    found = refit(given, verified(given, truth.cost))
    assert found.form == "one scale"
    assert found.before.median_error > 0.3
    assert found.after.median_error < 1e-5
    assert found.helps
    assert found.table.rest == pytest.approx(4.0, rel=1e-4)
    for name, row in truth.costs.items():
        assert found.table.costs[name] == pytest.approx(row, rel=1e-4)


def test_a_bias_of_each_option_is_found_where_there_are_modes_enough():
    given, factor = table(), {1: 1.0, 2: 1.8, 4: 3.0}

    def truth(mode: Mode) -> float:
        return given.rest + sum(factor[n] * given.costs[name][n] for name, n in mode.items())

    found = refit(given, verified(given, truth))
    assert found.form == "a scale for each option"
    assert found.after.median_error < 1e-5
    assert found.table.costs["layer0"][4] == pytest.approx(3 * given.costs["layer0"][4], rel=1e-4)
    few = refit(given, verified(given, truth, modes=24))
    assert few.form != "a scale for each option"


def test_entries_that_are_off_each_in_its_own_way_come_nearer():
    given, rng = table(), random.Random(5)
    costs = {
        name: {n: ms * rng.uniform(0.6, 1.4) for n, ms in row.items()}
        for name, row in given.costs.items()
    }
    found = refit(given, verified(given, replace(given, costs=costs).cost, modes=120))
    assert found.form == "every entry"
    assert found.helps
    assert found.after.median_error < found.before.median_error / 2


def test_noise_is_not_taken_for_a_bias():
    """The table is right and the device noisy: nothing is to be learnt, and that is what is said."""
    given, helped, before, after = table(), 0, [], []
    for seed in range(60):
        rng = random.Random(seed)
        found = refit(
            given,
            verified(given, lambda mode, rng=rng: given.cost(mode) * rng.lognormvariate(0, 0.15)),
        )
        helped += found.helps
        before.append(found.before.median_error)
        after.append(found.after.median_error)
    assert np.mean(after) > 0.97 * np.mean(before) > 0.05
    assert helped <= 7  # 5 % of 60 are 3


def test_what_is_held_out_has_no_say():
    given = table()
    measured = verified(given, lambda mode: 2 * given.cost(mode) + 1)
    found = refit(given, measured)
    held_out = set(found.before.measured)
    assert held_out.isdisjoint(found.fitted_to)
    assert held_out | set(found.fitted_to) == set(measured.measured)
    assert abs(len(held_out) - len(found.fitted_to)) <= 1
    spoilt = {
        mode: Reading(99.0, "ms") if mode in held_out else reading
        for mode, reading in measured.measured.items()
    }
    other = refit(given, replace(measured, measured=spoilt))
    assert (other.table.costs, other.table.rest) == (found.table.costs, found.table.rest)
    assert other.after.median_error > 0.5
    # What is told is what the table that is handed back predicts.
    for mode, predicted in found.after.predicted.items():
        assert predicted == found.table.cost(mode)


def test_options_that_no_measured_mode_has_keep_their_costs():
    given = table()
    rng = random.Random(2)
    coarse = [SPACE.mode({name: rng.choice((1, 2)) for name in SPACE.names}) for _ in range(9)]
    measured = {str(m): Reading(1.3 * given.cost(m), "ms") for m in coarse}
    (found,) = scaled(CostParts(SPACE, (given,)), measured, by_option=True).tables
    for name, row in given.costs.items():
        assert found.costs[name][4] == pytest.approx(row[4])


def test_a_device_whose_modes_all_take_the_same_gives_no_negative_costs():
    given = table()
    measured = {mode: Reading(given.rest / 2, "ms") for mode in ("1", "1/2", "1/4")}
    (found,) = scaled(CostParts(SPACE, (given,)), measured).tables
    assert found.rest >= 0
    assert all(cost >= 0 for row in found.costs.values() for cost in row.values())
    assert found.cost("1/2") == pytest.approx(given.rest / 2, rel=0.01)


def test_bounded_least_squares_are_scipys():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, target = rng.uniform(0, 1, (20, 4)), rng.uniform(-0.2, 1, 20)
        found = _bounded(rows, target, np.zeros(4), np.full(4, 1e9))
        expected = scipy.optimize.nnls(rows, target)[1]
        assert found.min() >= 0
        assert np.linalg.norm(rows @ found - target) == pytest.approx(expected, rel=0.01)


def test_the_chance_is_that_of_a_sign_test():
    given = table()
    rng = random.Random(3)
    found = refit(
        given, verified(given, lambda mode: 1.1 * given.cost(mode) * rng.lognormvariate(0, 0.1))
    )
    nearer = [
        abs(found.after.predicted[mode] - reading.known)
        < abs(found.before.predicted[mode] - reading.known)
        for mode, reading in found.before.measured.items()
    ]
    expected = scipy.stats.binomtest(sum(nearer), len(nearer), alternative="greater").pvalue
    assert found.chance == pytest.approx(expected)


def test_what_cannot_be_fitted_is_refused():
    given = table()
    few = verified(given, given.cost, modes=LEAST_MODES - 1)
    with pytest.raises(
        ValueError, match=r"holds 15 measured modes; .* at least 16: one half to fit"
    ):
        refit(given, few)
    with pytest.raises(ValueError, match="`verification` is of another table: it predicts"):
        refit(table(seed=9), verified(given, given.cost))


# --- the command ----------------------------------------------------------------------------------------


def command(folder: Path, monkeypatch, truth: Callable[[Mode], float], *more: str) -> Any:
    """`wenable verify --refit-out` on a made-up device."""
    given = table()
    profile = DeviceProfile("0" * 64, "a board", "an engine 1.0", 2, table=given)
    (folder / "board.json").write_text(json.dumps(profile.to_json()))
    monkeypatch.setattr(
        "wenable.profiling.verification.verify", lambda *_args, **_kw: verified(given, truth)
    )
    bundle = SimpleNamespace(space=given.space, ids={}, why_not_any_mode=lambda: "")
    monkeypatch.setattr("wenable.cli.bundles.Bundle", lambda _path: bundle)
    arguments = [
        "verify",
        "net.wen",
        folder / "board.json",
        "--refit-out",
        folder / "again.json",
        *more,
    ]
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(each) for each in arguments])


def test_a_profile_with_its_table_fitted_again_says_so_and_overwrites_nothing(
    tmp_path: Path, monkeypatch
):
    given = table()
    shown = command(tmp_path, monkeypatch, lambda mode: 2 * given.cost(mode))
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.stdout.split())
    assert "fitted again (one scale) to 24 of the modes; on the other 24: median error 50.0 %" in (
        words.replace("50.0%", "50.0 %")
    )
    assert "before, 0.0% after" in words
    assert "before % after %" in words  # the second line of the headers of both errors
    written = (tmp_path / "again.json").read_bytes()
    found = DeviceProfile.read(tmp_path / "again.json")
    assert found.table is not None
    assert found.table.cost("1/2") == pytest.approx(2 * given.cost("1/2"), rel=1e-4)
    source = found.table.reading("1/2").source
    assert source.startswith("predicted by a table: an engine, 2 threads; fitted again (one scale)")
    assert "to 24 of 48 measured modes, median error on the other 24: 50.0% before" in source
    assert found.events == (found.table.source,)
    assert DeviceProfile.read(tmp_path / "board.json").table == given
    again = command(tmp_path, monkeypatch, given.cost)
    assert again.exit_code == 1
    assert "again.json) exists; name a new file" in " ".join(again.stderr.split())
    assert (tmp_path / "again.json").read_bytes() == written


def test_a_fit_that_does_not_help_is_not_written(tmp_path: Path, monkeypatch):
    given, rng = table(), random.Random(0)
    noisy = {}

    def truth(mode: Mode) -> float:
        return noisy.setdefault(mode, given.cost(mode) * rng.lognormvariate(0, 0.15))

    shown = command(tmp_path, monkeypatch, truth, "--json")
    values = json.loads(shown.stdout)
    assert values["refit"]["helps"] is False
    assert len(values["refit"]["after"]["modes"]) == 24
    assert not (tmp_path / "again.json").exists()
    shown = command(tmp_path, monkeypatch, truth)
    assert "no better than chance, and nothing was written" in " ".join(shown.stdout.split())
