"""Modes in the terminal: every sign stands for one layer, and nothing is broken at 80 columns."""

import io
import random
import re

import pytest
from rich.console import Console

from wenable.cli.bundle_tables import comparison_tables, predictions_table, profile_table
from wenable.cli.strips import shown_mode, strip, strip_key
from wenable.cli.terminal import mode_table
from wenable.core.mode_ids import numbered
from wenable.core.readings import Reading
from wenable.core.space import Knob, Space
from wenable.profiling.comparison import ModeComparison
from wenable.profiling.verification import Verification
from wenable.runtime import DeviceProfile


def space(knobs: int, options=(1, 2, 4, 8, 16)) -> Space:
    return Space(tuple(Knob(f"layer{i}", options) for i in range(knobs)))


def legend(key: str) -> dict[str, str]:
    """Sign -> option, from the words below a table."""
    return dict(re.findall(r"([▁▂▃▄▅▆▇█1-8])\u00a0([\d./a-z-]+)", key.split(". One")[0]))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("options", [(1, 2, 4, 8, 16), (1, 2), (1, 3, 9), (1, 2, 4, 8, 16, 32, 64)])
def test_a_strip_and_its_key_give_the_mode_back(options: tuple[int, ...], encoding: str):
    of, rng = space(12, options), random.Random(1)
    for _ in range(20):
        mode = of.sample(rng)
        drawn = strip(mode, encoding)
        drawn.encode(encoding)
        signs = legend(strip_key([mode], encoding) or strip_key([of.sample(rng)], encoding))
        assert len(drawn) == 12
        assert [signs[sign] for sign in drawn] == [
            k.text(n) for k, n in zip(of.knobs, mode.options, strict=True)
        ]


def test_labels_are_levels_of_their_own_and_too_many_options_show_their_ends():
    widths = Knob("width", (1, 2, 3), labels=("1", "0.75", "0.5"))
    of = Space((Knob("conv", (1, 2, 4)), widths))
    assert legend(strip_key([of.mode({"conv": 2, "width": 2})])) != {}
    assert "0.75" in strip_key([of.mode({"conv": 2, "width": 3})])
    many = Space(
        tuple(
            Knob(n, tuple(range(1, 20)), labels=tuple(f"{20 - i}w" for i in range(1, 20)))
            for n in "ab"
        )
    )
    assert strip_key([many.mode({"a": 1, "b": 19})]).startswith("█ 19w to ▁ 1w.")


def test_one_option_for_all_is_written_and_needs_no_key():
    of = space(4)
    assert shown_mode(of.full) == "1 (full)"
    assert shown_mode(of.uniform(8)) == "1/8"
    assert strip_key(of.uniform_modes()) == ""


@pytest.mark.parametrize("knobs", [7, 18, 52, 101])
def test_a_table_at_80_columns_breaks_no_word_and_no_figure(knobs: int):
    of, rng = space(knobs), random.Random(2)
    modes = [of.full, *(of.sample(rng) for _ in range(11)), of.uniform(16)]
    readings = {
        "accuracy % (test split)": Reading(0.9866, "top-1", 0.971, 0.993),
        "latency ms": Reading(14.43, "ms", 14.42, 14.45),
    }
    rows = [
        ("macs latency (chosen)" if i == 4 else "uniform", mode, 24_850_000, 24_850_000, readings)
        for i, mode in enumerate(modes)
    ]
    out = io.StringIO()
    Console(file=out, width=80).print(mode_table("front by latency", rows, numbered(modes)))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = "\n".join(lines)
    shown = ("98.7 (97.1-99.3)", "14.43 (14.42-14.45)")
    if knobs > 20:  # the interval stands below
        shown = ("98.7", "97.1-99.3", "14.43", "14.42-14.45")
    assert {words.count(figure) for figure in shown} == {13}
    assert sum("100.0 %" in line and "24.85" in line for line in lines) == 13
    for name in ("m01", "m13", "1 (full)", "1/16", "(chosen)", "latency ms", "(test split)"):
        assert any(name in line for line in lines), name
    # Every layer of every mixed mode has its sign.
    rows_only = "\n".join(lines).split("█\u00a01")[0]
    bars = re.findall("[▁▃▅▆█]", rows_only)
    assert len(bars) == 11 * knobs


def test_a_comparison_at_80_columns_shows_the_whole_version_and_whole_figures():
    of, rng = space(20), random.Random(3)
    modes = [of.full, of.sample(rng)]
    version = "2026.4.1-22982-e213a147257-releases/2026/4"
    timed = Reading(14.43, "ms", 14.42, 14.45, count=160)
    rows = [
        ModeComparison(
            str(mode),
            engine,
            version,
            threads,
            timed,
            {"openvino": timed, "onnxruntime": timed},
            {"openvino": timed},
        )
        for threads in (1, 2)
        for engine in ("openvino", "onnxruntime")
        for mode in modes
    ]
    out = io.StringIO()
    for table in comparison_tables(rows, of, numbered(modes)):
        Console(file=out, width=80).print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(version in line for line in lines) == 4
    assert sum(line.count("14.43") for line in lines) == 4 * 2 * 4
    assert sum(line.count("14.42-14.45") for line in lines) == 4 * 2 * 3
    # What is too wide is cut off at the right: both ratios are there.
    assert sum(line.count("1.00") for line in lines) == 4 * 2 * 2
    signs = "".join(re.findall("[▁▃▅▆█]", "\n".join(lines)))
    assert all(sign in signs for sign in strip(modes[1]))


@pytest.mark.parametrize("ms", [0.4321, 14.43, 312.7, 4021.3])
def test_tables_of_a_bundle_are_not_cut_off_at_80_columns(ms: float):
    of, rng = space(30), random.Random(4)
    modes = [of.full, of.sample(rng), of.smallest]
    timed = Reading(ms, "ms", 0.98 * ms, 1.02 * ms, count=160, p99=1.1 * ms)
    energies = {str(mode): Reading(ms, "mJ", 0.9 * ms, 1.1 * ms) for mode in modes}
    latencies = {str(mode): timed for mode in modes}
    profile = DeviceProfile("b", "a board", "made-up 1", 1, latencies=latencies, energies=energies)
    found = Verification({str(mode): ms for mode in modes}, latencies, "made-up", "a board")
    row = ModeComparison("1", "made-up", "1.0", 1, timed, {"made-up": timed}, {"made-up": timed})
    for table in (
        profile_table(profile, of, numbered(modes)),
        predictions_table(found, of, numbered(modes)),
        predictions_table(found, of, numbered(modes), found),
        *comparison_tables([row], of, numbered(modes)),
    ):
        wide = Console(file=io.StringIO(), width=300).render_lines(table)
        narrow = Console(file=io.StringIO(), width=80).render_lines(table)
        words = ["".join(part.text for line in lines for part in line) for lines in (wide, narrow)]
        figures = [
            sorted(re.findall(r"[-+]?\d[\d.]*", each.split("█\u00a01")[0])) for each in words
        ]
        assert figures[0] == figures[1]
