"""Which networks of which tasks go the whole way, and where one stops.

    python -m benchmarks.chain [--only NAME ...] [--resume] [--out .]

Each network is converted, trained for a step in three modes, calibrated, extracted, saved and loaded,
exported, and run on both engines with another batch and, if it takes any, another size of images.
Results go to `results/chain.jsonl` after each, the table to `docs/results/chain.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.chain.networks import NETWORKS
from benchmarks.chain.steps import chain
from benchmarks.chain.table import page, results_of
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records


def main() -> None:
    arguments = _arguments()
    results = records_file(arguments.out, "chain")
    keep = results.exists() and (arguments.resume or arguments.only)
    before = read_records(results) if keep else {"networks": []}
    # A row keeps the commit that it was made at.
    found: dict[str, dict[str, Any]] = {
        row["network"]: {"at": before["commit"]} | row for row in before["networks"]
    }
    for network in NETWORKS:
        if network.name in arguments.only if arguments.only else network.name not in found:
            row = chain(network)
            described = {"network": network.name, "source": network.source, "task": network.task}
            found[network.name] = described | row | {"at": present_commit()}
            print(*found[network.name].values(), flush=True)
            rows = [found[each.name] for each in NETWORKS if each.name in found]
            content = results_of(rows)
            write_records(results, content)
            write_page(arguments.out, "chain", page(content))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chain")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
