"""Modes in the terminal: every sign stands for one layer, and nothing is broken at 80 columns."""

import io
import random
import re

import pytest
from rich.console import Console

from wenable.cli.strips import shown_mode, strip, strip_key
from wenable.cli.terminal import mode_table
from wenable.mode_ids import numbered
from wenable.space import Knob, Space
from wenable.tables import Reading


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
        ("chosen" if i == 4 else "", mode, 24_850_000, 24_850_000, readings)
        for i, mode in enumerate(modes)
    ]
    out = io.StringIO()
    Console(file=out, width=80).print(mode_table("front by latency", rows, numbered(modes)))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("98.7 (97.1-99.3)" in line and "14.43 (14.42-14.45)" in line for line in lines) == 13
    assert sum("100.0 %" in line and "24.85" in line for line in lines) == 13
    for name in ("m01", "m13", "1 (full)", "1/16", "chosen", "(test split)"):
        assert any(name in line for line in lines), name
    # Every layer of every mixed mode has its sign.
    rows_only = "\n".join(lines).split("█\u00a01")[0]
    bars = re.findall("[▁▃▅▆█]", rows_only)
    assert len(bars) == 11 * knobs
