"""Modes of three networks on real engines, beside their plain exports and the full networks.

    python -m benchmarks.deployment [--networks resnet50 ...] [--threads 1 2] [--keep-predictions]
        [--note TEXT] [--out .]

Random weights, batch 1, 224x224, float32. Each network is exported with its uniform modes, profiled
on every installed engine, compared by `wenable.profiling.comparison`, and the profile's predictions
verified on 24 random modes. Results go to `results/deployment.jsonl`, every predicted mode to
`results/deployment-predictions.jsonl`, the tables to `docs/results/deployment.md`. Networks that are not
asked for keep their earlier figures, and with `--keep-predictions` all networks their predictions, which
take half of the time. Figures are replaced by machine, network and number of threads, and stand under the
command and commit that made them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import wenable as we
from benchmarks.switching import first_over_steady
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records
from wenable.core.readings import Reading
from wenable.measure.device import describe_device
from wenable.profiling import ProfilePlan, profile
from wenable.profiling.comparison import compare
from wenable.profiling.verification import verify
from wenable.runtime import DeviceProfile, Session
from wenable.runtime.engines import installed_engines
from wenable.zoo import build

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0")
GOALS = {"resnet50": 6.0, "mobilenet_v2": 1.6, "efficientnet_b0": 1.8}
"""How many times faster 1/16 is to be than the full network."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--keep-predictions", action="store_true")
    parser.add_argument("--note", default="", help="what else has to be said of this run")
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    engines = list(installed_engines())
    rows: list[dict[str, Any]] = []
    switches: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for name in arguments.networks:
        size: dict[str, Any] = {}
        for threads in arguments.threads:
            more, switched, size, predicted = measure(
                name, engines, threads, predict=not arguments.keep_predictions
            )
            rows, switches, predictions = rows + more, switches + switched, predictions + predicted
        sizes.append(size)
    command = "python -m benchmarks.deployment"
    if arguments.networks != list(NETWORKS):
        command += f" --networks {' '.join(arguments.networks)}"
    command += f" --threads {' '.join(map(str, arguments.threads))}"
    if arguments.keep_predictions:
        command += " --keep-predictions"
    made = {"command": command, "commit": present_commit(), "machine": describe_device()}
    made["note"] = arguments.note
    results: dict[str, Any] = {"rows": rows, "switches": switches, "sizes": sizes}
    results["predictions"] = [{key: each[key] for key in _PREDICTED} for each in predictions]
    for kind in results:
        for each in results[kind]:
            each["made"] = made
    file = records_file(arguments.out, "deployment")
    results = joined(earlier(file), results)
    write_records(file, results)
    whole = {"predictions": [each | {"made": made} for each in predictions]}
    file = records_file(arguments.out, "deployment-predictions")
    write_records(file, joined(earlier(file), whole))
    write_page(arguments.out, "deployment", page(results))


def earlier(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results of earlier runs, each figure with what made it; none where there are none."""
    if not path.is_file():
        return {}
    return read_records(path)


def joined(
    before: dict[str, list[dict[str, Any]]], now: dict[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the new figures, and the earlier ones of what has no new ones."""
    found = {}
    for kind, values in now.items():
        new = {_place(each) for each in values}
        kept = [each for each in before.get(kind, []) if _place(each) not in new]
        found[kind] = sorted([*kept, *values], key=_place)
    return found


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    """Return where a figure stands: by machine, network and threads, of which early figures had two."""
    return row["made"]["machine"], NETWORKS.index(row["network"]), row.get("threads", 2)


def measure(
    name: str, engines: list[str], threads: int, *, predict: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Return figures by engine and mode, of switching, the file's size, and how far predictions are."""
    torch.manual_seed(0)
    net = we.convert(build(f"torchvision:{name}").eval(), torch.zeros(1, 3, 224, 224))
    modes = net.space.uniform_modes()
    we.calibrate(net, modes, [torch.randn(8, 3, 224, 224)])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = we.export(net, modes, Path(folder) / "net.wen")
        profiles, took = {}, {}
        for each in engines:
            started = time.perf_counter()
            profiles[each] = profile(
                path,
                engine=each,
                threads=threads,
                plan=ProfilePlan(table_modes=30 if predict else 0),
            )
            took[each] = time.perf_counter() - started
            print(name, each, f"profiled in {took[each]:.0f} s", flush=True)
        sessions = {each: Session(path, engine=each, threads=threads) for each in engines}
        rows = []
        for each in compare(path, engines=engines, threads=threads):
            engine = each.engine
            number = sessions[engine].modes.index(each.mode)
            counts = Counter(map(str, sessions[engine].implementations(number).values()))
            row = {"network": name, "macs": net.macs(each.mode), "implementations": dict(counts)}
            row["scheme"] = sessions[engine].profile.schemes.get(each.mode, "")
            row |= each.to_json() | {"best_plain": min(r.known for r in each.plain.values())}
            rows.append(row)
            print(_line(row), flush=True)
        switches = [
            {"network": name, "engine": engine, "threads": threads}
            | switching(path, engine, threads)
            for engine in engines
        ]
        size = {"network": name, "bytes": path.stat().st_size}
        size["weights"] = 4 * sum(each.numel() for each in we.extract(net, "1").parameters())
        predictions = [
            predicted(name, path, profiles[each], each)
            | {"profile_s": took[each], "threads": threads}
            for each in engines
            if predict
        ]
    return rows, switches, size, predictions


_PREDICTED = (
    "network", "engine", "threads", "median_error", "kendall_tau", "largest_error", "repeat_error",
    "repeat_tau", "profile_s", "left",
)  # fmt: skip


def predicted(name: str, path: Path, known: DeviceProfile, engine: str) -> dict[str, Any]:
    """Return predicted beside measured latencies of random modes, and what 1/16 spends its time on."""
    found = verify(path, known, engine=engine)
    errors = [abs(found.predicted[mode] / each.known - 1) for mode, each in found.measured.items()]
    table = known.table
    assert table is not None
    smallest = table.space.uniform(16)
    shares = {knob: table.costs[knob][n] for knob, n in smallest.items()}
    most = sorted(shares, key=lambda knob: -shares[knob])[:5]
    row = found.to_json() | {"network": name, "short_engine": engine, "largest_error": max(errors)}
    row["left"] = {
        "predicted_ms": table.cost(smallest), "before_any_layer_ms": table.rest,
        "layers_ms": {knob: shares[knob] for knob in most},
    }  # fmt: skip
    print(
        name, engine, *(row[key] for key in ("median_error", "kendall_tau", "repeat_error", "repeat_tau")),
        flush=True,
    )  # fmt: skip
    return row


def switching(path: Path, engine: str, threads: int) -> dict[str, Any]:
    """Return how long the first call after a switch takes, as a share of a steady one."""
    with Session(path, engine=engine, threads=threads) as session:
        return first_over_steady(session)


def page(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the page of the documentation for these results: a section for each machine."""
    lines = [
        "# Modes on real engines",
        "",
        _verdict(results["rows"]),
        "",
        "Latency of one example of 224x224 in float32 with random weights: medians, with quartiles."
        " *Ours* is a session after `wenable profile`; *plain* is the mode exported as it is written"
        " (every layer in its own groups, the shuffle as transposes), on the same engine; *best plain*"
        " the fastest of these on any engine; *full / ours* the plain full network at its best over"
        " ours. All of a network in one run, in blocks of 20 calls in random order.",
        "",
        f"Engines: {', '.join(_engines(results))}. *Scheme*: what was"
        " fastest for the mode as a whole; see [Implementations](../concepts/implementations.md).",
        "",
    ]
    for machine in dict.fromkeys(row["made"]["machine"] for row in results["rows"]):
        own = {
            kind: [each for each in values if each["made"]["machine"] == machine]
            for kind, values in results.items()
        }
        lines += [f"## {machine}", "", *_latencies(own), *_predictions(own["predictions"])]
    return "\n".join(lines)


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Say in a sentence how much faster 1/16 is, over machines and numbers of threads."""
    said = []
    for name, goal in GOALS.items():
        ratios = []
        for machine in dict.fromkeys(row["made"]["machine"] for row in rows):
            own = [row for row in rows if row["made"]["machine"] == machine]
            ratios += _best_ratios({"rows": own}, name).values()
        if ratios:
            said.append(f"{name} {min(ratios):.1f} to {max(ratios):.1f} times (goal {goal:.1f})")
    return f"How much faster 1/16 is than the full network, each at its best: {', '.join(said)}."


def _latencies(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what was timed on one machine."""
    return [
        *_made(results["rows"]),
        "",
        "| network | mode | MACs M | engine, threads | scheme | ours, ms | plain, ms | best plain, ms"
        " | full / ours |",
        "|---|---|--:|---|---|--:|--:|--:|--:|",
        *map(_line, results["rows"]),
        "",
        "Goals for 1/16, full / ours at the best engine: "
        + "; ".join(
            f"{name} {goal:.1f}, here "
            + ", ".join(
                f"{ratio:.2f} with {threads} thread{'s' * (threads > 1)}"
                for threads, ratio in best.items()
            )
            for name, goal in GOALS.items()
            if (best := _best_ratios(results, name))
        )
        + ". What limits them: [what modes spend their time on](operation-profile.md).",
        "",
        "Each mode, ours at the best engine, beside the best plain export of that mode on any engine:",
        "",
        *_beside_plain(results["rows"]),
        "",
        "The first call after a switch to another mode that was used before, over a steady call of it"
        " (median and quartiles of 60 switches): "
        + "; ".join(
            f"{each['network']} on {each['engine']}, {each['threads']}, {each['first_over_steady']:.2f}"
            f" ({each['quartiles'][0]:.2f} to {each['quartiles'][1]:.2f})"
            for each in results["switches"]
        )
        + ".",
        "",
        "The file, with five modes, over the plain network's weights: "
        + "; ".join(
            f"{each['network']} {each['bytes'] / each['weights']:.3f}" for each in results["sizes"]
        )
        + ".",
        "",
    ]


def _predictions(predictions: list[dict[str, Any]]) -> list[str]:
    """Return how far predictions were on one machine, and what 1/16 spends its time on there."""
    if not predictions:
        return []
    return [
        "### Predictions of whole modes",
        "",
        "`wenable profile` fits a table, in which every option of every layer has its cost, to 35 modes."
        " Its sums beside 24 other random modes, measured end to end (`wenable verify`); goals 5 % and"
        " 0.95. *Twice*: the same modes measured once more some minutes later, as a prediction of the"
        " first measurement: what the machine's own unrest makes of any prediction.",
        "",
        *_made(predictions),
        "",
        "| network | engine | median error | largest | Kendall's tau | median error, twice | tau, twice |"
        " profiling took, s |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
        *map(_prediction_line, predictions),
        "",
        "Random modes are near each other, which makes their order hard to tell: tau is lower the less"
        " they differ.",
        "",
        "### What 1/16 spends its time on",
        "",
        "By the same tables, the layers that cost most at 1/16 (with their shuffle, changes of layout,"
        " and what follows them up to the next), and what runs before any layer that switches:",
        "",
        *(
            f"- {each['network']}, {each['engine']}: of {each['left']['predicted_ms']:.2f} ms before any"
            f" layer {each['left']['before_any_layer_ms']:.2f}; "
            + ", ".join(f"`{knob}` {ms:.2f}" for knob, ms in each["left"]["layers_ms"].items())
            + "."
            for each in predictions
        ),
        "",
    ]


def _prediction_line(row: dict[str, Any]) -> str:
    twice = ["", ""]
    if row.get("repeat_error") is not None:
        twice = [f"{100 * row['repeat_error']:.1f} %", f"{row['repeat_tau']:.3f}"]
    return (
        f"| {row['network']} | {row['engine']} | {100 * row['median_error']:.1f} % |"
        f" {100 * row['largest_error']:.1f} % | {row['kendall_tau']:.3f} | {twice[0]} | {twice[1]} |"
        f" {row['profile_s']:.0f} |"
    )


def _made(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each run that made some of the rows, with the networks that it made."""
    runs: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for row in rows:
        made = row["made"]
        run = made["command"], made["commit"], made["machine"], made.get("note", "")
        runs.setdefault(run, {})[row["network"]] = None
    return [
        f"- {', '.join(networks)}: made by `{command}` at commit {commit} on {machine}"
        f"{f', {note}' if note else ''}."
        for (command, commit, machine, note), networks in runs.items()
    ]


def _engines(results: dict[str, Any]) -> list[str]:
    return sorted({f"{row['engine']} {row['version']}" for row in results["rows"]})


def _best_ratios(results: dict[str, Any], name: str) -> dict[int, float]:
    """Return threads -> how many times faster 1/16 is than the full network, at the best engine."""
    best: dict[int, float] = {}
    for row in results["rows"]:
        if row["network"] == name and row["mode"] == "1/16":
            best[row["threads"]] = max(best.get(row["threads"], 0.0), row["full_over_ours"])
    return best


def _beside_plain(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each network and number of threads: which modes are slower than plain."""
    said = []
    for network, threads in dict.fromkeys((row["network"], row["threads"]) for row in rows):
        own = [row for row in rows if (row["network"], row["threads"]) == (network, threads)]
        slower = []
        for mode in dict.fromkeys(row["mode"] for row in own):
            best = min(
                (row for row in own if row["mode"] == mode), key=lambda row: row["ours"]["value"]
            )
            share = best["ours"]["value"] / best["best_plain"] - 1
            if share > 0:
                within = best["ours"]["low"] <= best["best_plain"]
                slower.append(f"{mode} by {share:.1%}{', within the quartiles' if within else ''}")
        count = len({row["mode"] for row in own})
        told = f"; slower: {'; '.join(slower)}" if slower else ""
        said.append(
            f"- {network}, {threads} thread{'s' * (threads > 1)}: {count - len(slower)} of {count} modes"
            f" are no slower by their medians{told}."
        )
    return said


def _line(row: dict[str, Any]) -> str:
    def spread(values: dict[str, Any]) -> str:
        reading = Reading(**values)
        return f"{reading.known:.2f} ({reading.low:.2f} to {reading.high:.2f})"

    engine = row["engine"]
    cells = [
        row["network"], row["mode"], f"{row['macs'] / 1e6:.0f}", f"{engine}, {row['threads']}",
        row["scheme"],
        spread(row["ours"]), spread(row["plain"][engine]), f"{row['best_plain']:.2f}",
        f"{row['full_over_ours']:.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
