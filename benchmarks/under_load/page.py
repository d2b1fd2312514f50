"""The page of `benchmarks.under_load`: a verdict, what each party takes, and a table for each load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.under_load.loads import loads
from benchmarks.under_load.verdicts import WORDS, verdicts

Row = Mapping[str, Any]

HOW = """\
Requests of {batch} images of {data}, one every {period_ms:.1f} ms, each with a
deadline of {deadline_ms:.1f} ms from when it comes: 1.3 times the 99th percentile of the most accurate
mode of *{deadline_of}* alone. One that waits for the one before loses its time. One thread; what
loads the machine runs on the same core, with the same priority. Every party has spent the same
multiply-accumulates in training{static}, and stays resident in a process of its own. Each session has
`engine="{engine}"` and aims at {target:g} % of its deadlines; {chosen}.
{requests} requests for each row, {times}.

*controller*: the session chooses a mode for each request. *by confidence*: a cheaper mode answers first,
and images whose likeliest class leads by less than 0.5 go on to the next one while the deadline allows; the
ladder asks its smallest and its largest network, early exits ask each exit. *always*: one mode by itself.

*in time*: the share of requests that kept their deadline, with a 95 % interval over requests, as if these
were independent; *steady*: of those no part of which ran in the first 200 ms after the load came or went.
*right*: of all images, the share answered rightly. *right in time*: the same, where late answers count for
nothing. *oracle*: the accuracy of the modes that ran, less that of an oracle that knew each request's
slowdown and was late as often, in points, both by the accuracies {of_split}. It bounds
what another choice at each of these moments could have had, with the waiting that the policy itself caused:
a short request that no other process interrupted tells it that a longer one would not have been interrupted
either. With several runs, ranges are those of the runs.
"""
NOW = {
    "chosen": "what it chooses by timing was chosen for this batch by an earlier process",
    "of_split": "of the search split, by which modes are preferred",
}
BEFORE = {
    "chosen": "what it chooses by timing was chosen for one example. In these bundles, which are older,"
    "\nmodes are preferred by their accuracy on the very images that they are scored on, and the ladder"
    "\nlearned from labels alone",
    "of_split": "on the test images",
}
"""Of records that do not say which engine served."""
MADE = """\
Made by `{command}` at commit {commit} on {machine}, with bundles of
`python -m experiments.deadline_networks`. One machine, one seed of training: nothing follows for other
networks, sizes of images or processors. A drop of the processor's frequency cannot be asked for here; a
process that takes two fifths of the core stands in its place."""


def page(results: Mapping[str, Any]) -> str:
    """Return the page of the documentation for these results."""
    rows, parties = results["rows"], results["parties"]
    times = "one run" if results["runs"] == 1 else f"{results['runs']} runs"
    told = {**results, "target": 100 * results["target"], "times": times}
    told |= NOW if "engine" in results else BEFORE
    told["engine"] = results.get("engine", "auto")
    alone = any(each["party"] == "static" for each in parties)
    told["static"] = ", of the static networks each by itself" if alone else ""
    told["deadline_of"] = WORDS[results.get("deadline_of", "elastic")]
    of = ", ".join(filter(None, (results.get("network"), results["data"])))
    lines = [
        f"# Deadlines under real loads: {of}",
        "",
        *_over_all_loads(_means(rows)),
        "",
        *verdicts(_means(rows), parties, results["target"]),
        "",
        HOW.format(**told),
    ]
    lines += [
        *_of_parties(parties, "the search split" if "engine" in results else "the test images"),
        "",
    ]
    lines += _not_measured(rows)
    absent = WORDS.keys() - {each["party"] for each in parties}
    if absent:
        named = "; ".join(words for party, words in WORDS.items() if party in absent)
        lines += [f"Not measured: {named}.", ""]
    for load in dict.fromkeys(row["load"] for row in rows):
        lines += _of_load(load, [row for row in rows if row["load"] == load])
    return "\n".join([*lines, MADE.format(**results), ""])


def _over_all_loads(means: Sequence[Row]) -> list[str]:
    """Return every policy with its mean over the loads, the one with most images right in time first."""
    count = len({mean["load"] for mean in means})
    found = []
    for party, policy in dict.fromkeys((mean["party"], mean["policy"]) for mean in means):
        own = [mean for mean in means if (mean["party"], mean["policy"]) == (party, policy)]
        if len(own) < count:
            continue  # a mean over other loads is another figure
        met, right = ([each[key] for each in own] for key in ("met", "right_in_time"))
        figures = (
            f"{100 * np.mean(right):.1f} % | {100 * np.mean(met):.1f} % | {100 * min(met):.1f} %"
        )
        found.append((-float(np.mean(right)), f"| {WORDS[party]} | `{policy}` | {figures} |"))
    idle = ", *none* among them" if any(mean["load"] == "none" for mean in means) else ""
    return [
        f"In the mean over {count} loads{idle}, most images right in time first:",
        "",
        "| party | policy | right in time | in time | in time, at worst |",
        "|---|---|--:|--:|--:|",
        *(line for _, line in sorted(found)),
    ]


def _means(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row for the runs of each load and policy: means, and the least and the most."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["load"], row["party"], row["policy"]), []).append(row)
    found = []
    for (load, party, policy), same in groups.items():
        mean: dict[str, Any] = {"load": load, "party": party, "policy": policy, "rows": same}
        for key in (
            "met",
            "met_steady",
            "accuracy",
            "right_in_time",
            "p99_ms",
            "by_modes",
            "oracle",
        ):
            values = [row[key] for row in same if row.get(key) is not None]
            mean[key] = float(np.mean(values)) if values else None
        found.append(mean)
    return found


def _of_parties(parties: Sequence[Row], split: str) -> list[str]:
    lines = [
        f"| party | memory, MiB | first answer, ms | modes: ms alone, right on {split} |",
        "|---|--:|--:|---|",
    ]
    for each in parties:
        modes = sorted(each["modes"], key=lambda mode: -mode["median_ms"])
        shown = "; ".join(
            f"{mode['median_ms']:.1f}, {100 * mode['accuracy']:.1f} %" for mode in modes
        )
        lines.append(
            f"| {WORDS[each['party']]} | {each['memory_mb']:.0f} |"
            f" {each['first_answer_ms']:.0f} | {shown} |"
        )
    return lines


def _not_measured(rows: Sequence[Row]) -> list[str]:
    """Return a line with the loads that no row is of."""
    measured = {row["load"] for row in rows}
    left = [load.name for load in loads() if load.name not in measured]
    return [f"Loads that were not measured: {', '.join(left)}.", ""] if left else []


def _of_load(load: str, rows: Sequence[Row]) -> list[str]:
    lines = [
        f"## Load: {load}",
        "",
        "| party | policy | in time | steady | right | right in time | oracle | p99 ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for mean in _means(rows):
        same = mean["rows"]
        known = mean["oracle"] is not None
        beside = f"{100 * (mean['by_modes'] - mean['oracle']):+.1f}" if known else "-"
        steady = "-" if mean["met_steady"] is None else f"{100 * mean['met_steady']:.1f} %"
        lines.append(
            f"| {mean['party']} | `{mean['policy']}` | {_in_time(same)} | {steady} |"
            f" {100 * mean['accuracy']:.1f} % | {_range(same, 'right_in_time')} | {beside} |"
            f" {mean['p99_ms']:.1f} |"
        )
    return [*lines, ""]


def _in_time(rows: Sequence[Row]) -> str:
    if len(rows) > 1:
        return _range(rows, "met")
    (row,) = rows
    return f"{100 * row['met']:.1f} % ({100 * row['met_low']:.1f} to {100 * row['met_high']:.1f})"


def _range(rows: Sequence[Row], key: str) -> str:
    values = [100 * row[key] for row in rows]
    if len(values) == 1:
        return f"{values[0]:.1f} %"
    return f"{np.mean(values):.1f} % ({min(values):.1f} to {max(values):.1f})"
