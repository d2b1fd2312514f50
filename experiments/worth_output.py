"""Writes the records and the page of `experiments.worth`: sides that were trained elsewhere stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.page_worth import page
from experiments.worth_records import all_scales, parts_of, records_of
from experiments.worth_sides import Scale
from results.records import read_records, records_file, write_page, write_records

Record = Mapping[str, Any]


def write_results(scale: str, sizes: Scale, folder: Path, out: Path) -> dict[str, Any]:
    """Write and return the records of all sides that are finished, and write the page of all scales.

    - `folder`: of the sides' files. `out`: the root below which records and pages are.
    """
    results, path = records_of(scale, sizes, folder), records_file(out, f"worth-{scale}")
    if path.is_file():
        results = with_earlier(results, read_records(path), sizes)
    write_records(path, results)
    write_page(out, "worth", page(all_scales(out)))
    return results


def with_earlier(results: Record, earlier: Record, sizes: Scale) -> dict[str, Any]:
    """Return results with what an earlier record of the same scale has beside them.

    A side whose files are not at hand keeps its figures. One that is in both counts as trained anew, and
    its earlier pairs are dropped, unless every mode has the accuracy it had: then what was timed of it
    stays. Raises `ValueError` if the earlier record is of another network, size of images or budget.
    """
    for key in ("network", "image_size", "budget"):
        if earlier[key] != results[key]:
            raise ValueError(
                f"the earlier record of the scale {results['scale']!r} has {key} {earlier[key]!r}, and"
                f" this run {results[key]!r}; write to another --out"
            )
    new, old = _by_part(results["runs"]), _by_part(earlier["runs"])
    unchanged = {part for part, run in old.items() if part not in new or _is_same(run, new[part])}
    runs = new | {part: old[part] for part in unchanged if not _is_timed(new.get(part))}
    pairs = {_key(pair): pair for pair in results["pairs"]}
    for pair in earlier["pairs"]:
        known = pairs.get(_key(pair))
        if _parts(pair) <= unchanged and (known is None or _says_more(pair, known)):
            pairs[_key(pair)] = pair
    order = [part for part in parts_of(sizes) if part in runs]
    return {
        **results,
        "missing": [f"{name}, seed {seed}" for name, seed in parts_of(sizes) if (name, seed) not in runs],
        "timed": _once((*earlier["timed"], *results["timed"])),
        "runs": [runs[part] for part in order],
        "pairs": [*pairs.values()],
    }  # fmt: skip


def _by_part(runs: Iterable[Record]) -> dict[tuple[str, int], Record]:
    return {(run["side"], run["seed"]): run for run in runs}


def _is_same(run: Record, other: Record) -> bool:
    """Say whether two runs are the same: one is repeatable to the bit on one kind of machine."""
    one, two = ([(m["mode"], m["accuracy"]) for m in each["modes"]] for each in (run, other))
    return one == two and run.get("front") == other.get("front")


def _is_timed(run: Record | None) -> bool:
    return run is not None and any("latency_ms" in mode for mode in run["modes"])


def _says_more(pair: Record, other: Record) -> bool:
    return "at_equal_ms" in pair and "at_equal_ms" not in other


def _key(pair: Record) -> tuple[str, str, int]:
    return pair["ours"], pair["theirs"], pair["seed"]


def _parts(pair: Record) -> set[tuple[str, int]]:
    return {(pair["ours"], pair["seed"]), (pair["theirs"], pair["seed"])}


def _once(records: Iterable[Record]) -> list[Record]:
    found: list[Record] = []
    for each in records:
        if each not in found:
            found.append(each)
    return found
