"""Table I on the page: what each class of dynamic networks was measured to need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.page_parts import Claim, made_by, table
from experiments.table1 import BIG_LITTLE, DEPTH, EAGER, ENGINE, PRECISION, WEIGHT_ENABLING
from wenable.core.readings import Reading

PAPER = {
    "width, SNN": ("Reduced", "Reduced", "Not Needed"),
    "width, US-Net": ("Reduced", "Reduced", "Not Needed"),
    DEPTH: ("May Increased", "Reduced", "Not Needed"),
    PRECISION: ("Reduced", "Same", "Needed"),
    WEIGHT_ENABLING: ("Reduced", "Same", "Not Needed"),
}
"""Row -> memory footprint, number of neurons, special device, as the paper's Table I has them."""


def section(results: Mapping[str, Any]) -> str:
    """Return the section of one scale."""
    rows = [_row(row, results) for row in results["rows"]]
    header = ["class", "modes", "held for all modes", "weights of the cheapest mode", "its neurons",
              "its time, eager PyTorch", "its time, ONNX Runtime", "switch, ms",
              "first pass after a switch", "loaded at a switch"]  # fmt: skip
    return "\n".join(
        [
            f"`{results['network']}`, **not trained**: these figures do not depend on the weights, and"
            " accuracy is not part of the table. *Held*: parameters and buffers, as a multiple of the plain"
            " network's; the packed blocks that inference keeps, and the norm statistics of the uniform"
            " modes, come on top and are named. *Weights*: those that the cheapest mode reads, at the bits"
            " that it reads them with, as a share of the full mode's. *Neurons*: values that convolutions"
            " and dense layers write for one image, as a share of the full mode's. *Time*: of one image,"
            " cheapest over full, medians of one run. The little network is SNN's narrowest.",
            "",
            made_by(results),
            "",
            *table(header, rows),
            "",
            _of_precision(results),
            "",
            _on_top(results),
        ]
    )


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Return the rows of Table I beside what was measured."""
    found = []
    for row in results["rows"]:
        name = row["class"]
        if name not in PAPER:
            continue
        memory, neurons, device = PAPER[name]
        held, share = row["held_over_plain"], row["cheapest_bytes"] / row["full_bytes"]
        good = {
            "Reduced": share < 1,
            "May Increased": held > 1,
        }[memory]
        same = abs(row["neurons_share"] - 1) < 1e-9
        right_neurons = same == (neurons == "Same")
        faster, words = _gains(name, results)
        right_device = faster == (device == "Not Needed")
        wrong = [
            what
            for what, right in (
                ("memory", good), ("neurons", right_neurons), ("special device", right_device)
            )
            if not right
        ]  # fmt: skip
        found.append(
            Claim(
                "Table I",
                name,
                f"memory {memory.lower()}, neurons {neurons.lower()}, special device {device.lower()}",
                f"cheapest mode reads {100 * share:.0f} % of the weights, {held:.2f}x are held for all"
                f" modes; {100 * row['neurons_share']:.0f} % of the neurons; {words}",
                results["scale"],
                "yes" if not wrong else f"no: {', '.join(wrong)}",
            )
        )
    return found


def _gains(name: str, results: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the cheapest mode is faster than the full one somewhere here, in words too.

    In floating point, as the method computes; integers are the special arithmetic of `precision`.
    """
    shares = {engine: time_share(name, engine, results) for engine in (EAGER, ENGINE)}
    known = {engine: share for engine, share in shares.items() if share is not None}
    words = ", ".join(f"{share:.2f}x the time on {engine}" for engine, share in known.items())
    return min(known.values()) < 1, words


def time_share(
    name: str, engine: str, results: Mapping[str, Any], mode: str = "cheapest"
) -> float | None:
    """Return a mode's time over the full mode's; None where it was not measured."""
    times = {
        each["mode"]: each["latency"]["value"]
        for each in results["latency"]
        if each["class"] == name and each["engine"] == engine
    }
    if times.get(mode) is None:
        return None
    return times[mode] / times["full"]


def _row(row: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    def share(engine: str) -> str:
        found = time_share(row["class"], engine, results)
        return "no engine" if found is None else f"{found:.2f}x"

    held = f"{row['held_over_plain']:.2f}x"
    if "held_bytes_if_one" in row:
        held += f"; one of them {row['held_bytes_if_one'] / results['plain_bytes']:.2f}x"
    first = row.get("first_over_steady")
    return [
        row["class"],
        str(row["modes"]),
        held,
        f"{100 * row['cheapest_bytes'] / row['full_bytes']:.0f} %",
        f"{100 * row['neurons_share']:.0f} %",
        share(EAGER),
        share(ENGINE),
        _switch(row),
        f"{first['median']:.2f}x ({first['quartiles'][0]:.2f} to {first['quartiles'][1]:.2f})"
        if first
        else "-",
        f"{row['bytes_loaded'] / 1024:.0f} KiB if one is held"
        if row["bytes_loaded"]
        else "nothing",
    ]


def _switch(row: Mapping[str, Any]) -> str:
    if row["class"] == BIG_LITTLE:
        reading = Reading(**row["switch_if_one"])
        return f"{reading.known:.3f} if one is held, from memory"
    reading = Reading(**row["switch"])
    return f"{reading.known:.3f} ({reading.low:.3f} to {reading.high:.3f})"


def _of_precision(results: Mapping[str, Any]) -> str:
    simulated = time_share(PRECISION, EAGER, results, "8 bits")
    integers = time_share(PRECISION, ENGINE, results, "8 bits")
    assert simulated is not None
    assert integers is not None
    return (
        f"Precision at 8 bits takes {simulated:.2f}x the time of floating point where it is simulated"
        f" (eager PyTorch), and {integers:.2f}x with 8-bit integers on ONNX Runtime; no engine here"
        " multiplies fewer bits, so the cheapest mode, of 4 bits, gains nothing without a device for it."
    )


def _on_top(results: Mapping[str, Any]) -> str:
    parts = [
        f"{row['class']}: packed {row['packed_bytes'] / results['plain_bytes']:.2f}x,"
        f" statistics {row['statistics_bytes'] / results['plain_bytes']:.2f}x"
        for row in results["rows"]
        if row["packed_bytes"] or row["statistics_bytes"]
    ]
    return f"On top of what is held, in multiples of the plain network: {'; '.join(parts)}."
