"""Tables of the parts of a space fitted again: one bias in all parts, one in each, and the command."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from wenable.cli.main import app
from wenable.core.cost_parts import CostParts
from wenable.core.cost_table import CostTable
from wenable.core.readings import Reading
from wenable.core.space import Knob, Mode, Space
from wenable.profiling.refitting import least_modes, refit
from wenable.profiling.verification import Verification
from wenable.runtime import DeviceProfile

SIZE = Knob("size", (1, 2, 3), labels=("64", "48", "32"), by_name=True)
LAYERS = tuple(Knob(f"layer{n}", (1, 2, 4)) for n in range(8))
SPACE = Space((SIZE, *LAYERS))


def costs() -> CostParts:
    """Tables for three sizes of images; none is a multiple of another."""
    rng, tables = random.Random(0), []
    for size in SIZE.options:
        rows = {k.name: {n: rng.uniform(0.2, 2) / size / n**0.7 for n in k.options} for k in LAYERS}
        rows["size"] = {size: 0.0}
        part = SPACE.fixed({"size": size})
        tables.append(CostTable(part, "ms", 1.0 + size, rows, "an engine, 2 threads", "a board"))
    return CostParts(SPACE, tuple(tables))


def verified(given: CostParts, truth: Callable[[Mode], float], modes: int = 60) -> Verification:
    """What a device would show whose modes take what `truth` says."""
    rng = random.Random(1)
    wanted = [SPACE.sample(rng) for _ in range(modes)]
    return Verification(
        {str(mode): given.cost(mode) for mode in wanted},
        {str(mode): Reading(truth(mode), "ms", truth(mode), truth(mode)) for mode in wanted},
        "an engine",
        "a board",
    )


def otherwise(given: CostParts, scales: tuple[float, ...], rests: tuple[float, ...]) -> CostParts:
    """The tables of a device that is slower by a factor and has another rest, in each part its own."""
    tables = [
        replace(
            table,
            rest=rest,
            costs={
                name: {n: scale * ms for n, ms in row.items()} for name, row in table.costs.items()
            },
        )
        for table, scale, rest in zip(given.tables, scales, rests, strict=True)
    ]
    return CostParts(given.space, tuple(tables))


def test_one_scale_and_a_rest_of_each_part_are_found_exactly():
    given = costs()
    truth = otherwise(given, (1.7, 1.7, 1.7), (4.0, 2.0, 0.5))
    found = refit(given, verified(given, truth.cost))
    assert found.form == "one scale"
    assert found.before.median_error > 0.2
    assert found.after.median_error < 1e-5
    assert found.helps
    for table, expected in zip(found.tables, truth.tables, strict=True):
        assert table.space == expected.space
        assert table.rest == pytest.approx(expected.rest, rel=1e-3)
        for name, row in expected.costs.items():
            assert table.costs[name] == pytest.approx(row, rel=1e-3)
        assert "an engine, 2 threads; fitted again (one scale) to 30 of 60" in table.source
    profile = DeviceProfile("0" * 64, "a board", "an engine 1.0", 2, parts=given.tables)
    assert found.corrected(profile).parts == found.tables


def test_parts_that_are_off_each_in_its_own_way_come_nearer():
    given = costs()
    truth = otherwise(given, (1.0, 2.0, 3.0), (2.0, 3.0, 4.0))
    found = refit(given, verified(given, truth.cost, modes=200))
    assert found.form == "every entry"
    assert found.after.median_error < found.before.median_error / 3


def test_a_part_that_no_mode_was_measured_in_keeps_its_entries():
    given = costs()
    measured = verified(given, lambda mode: 2 * given.cost(mode), modes=200)
    kept = [mode for mode in measured.measured if SPACE.mode(mode)["size"] != 3]
    some = replace(
        measured,
        predicted={mode: measured.predicted[mode] for mode in kept},
        measured={mode: measured.measured[mode] for mode in kept},
    )
    found = refit(given, some)
    assert found.tables[2].rest == pytest.approx(given.tables[2].rest)


def test_more_parts_take_more_modes():
    given = costs()
    assert [least_modes(each) for each in (*given.tables[:1], given)] == [16, 32]
    with pytest.raises(
        ValueError, match=r"the tables of 3 parts again takes at least 32: one half"
    ):
        refit(given, verified(given, given.cost, modes=31))


# --- the command ----------------------------------------------------------------------------------------


def command(folder: Path, monkeypatch, profile: DeviceProfile, truth: CostParts, modes: int):
    """`wenable verify --refit-out` on a made-up device."""
    (folder / "board.json").write_text(json.dumps(profile.to_json()))
    monkeypatch.setattr(
        "wenable.profiling.verification.verify",
        lambda *_args, modes, **_kw: verified(costs(), truth.cost, modes),
    )
    bundle = SimpleNamespace(
        space=SPACE, ids={}, why_not_any_mode=lambda: "the knob 'size' changes more than groups"
    )
    monkeypatch.setattr("wenable.cli.bundles.Bundle", lambda _path: bundle)
    arguments = ["verify", "net.wen", str(folder / "board.json"), "--random-modes", str(modes)]
    arguments += ["--refit-out", str(folder / "again.json")]
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, arguments)


def test_a_profile_of_parts_is_fitted_again_by_the_command(tmp_path: Path, monkeypatch):
    given = costs()
    truth = otherwise(given, (2.0, 2.0, 2.0), (4.0, 6.0, 8.0))
    profile = DeviceProfile("0" * 64, "a board", "an engine 1.0", 2, parts=given.tables)
    few = command(tmp_path, monkeypatch, profile, truth, 24)
    assert few.exit_code == 1
    words = " ".join(few.stderr.split())
    assert "`--random-modes` (=24) is too few for `--refit-out` to fit the tables of 3" in words
    assert "allowed: at least 32" in words
    shown = command(tmp_path, monkeypatch, profile, truth, 40)
    assert shown.exit_code == 0, shown.output
    assert "fitted again (one scale) to 20 of the modes" in " ".join(shown.stdout.split())
    found = DeviceProfile.read(tmp_path / "again.json")
    for mode in ("1", "1/2,size=48", "1/4,size=32"):
        assert CostParts(SPACE, found.parts).cost(mode) == pytest.approx(truth.cost(mode), rel=1e-3)


def test_modes_that_were_measured_as_wholes_are_not_fitted(tmp_path: Path, monkeypatch):
    space = Space((SIZE,))
    tables = tuple(
        CostTable(space.fixed({"size": n}), "ms", 1.0 / n, {"size": {n: 0.0}}) for n in SIZE.options
    )
    profile = DeviceProfile("0" * 64, "a board", "an engine 1.0", 2, parts=tables)
    shown = command(tmp_path, monkeypatch, profile, costs(), 24)
    assert shown.exit_code == 1
    words = " ".join(shown.stderr.split())
    assert (
        "tables by which costs of modes are sums, and there is none here: the knob 'size'" in words
    )
    assert not (tmp_path / "again.json").exists()
