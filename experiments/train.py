"""Trains the networks that the experiments compare, one after the other.

    python -m experiments.train --scale cpu --data data/cifar10 [--work out/experiments]
        [--networks NAME ...] [--methods NAME ...] [--seeds 0 1 2] [--alone | --comparison NAME]

Experiments train what they lack themselves; this trains it ahead, in any order and in as many processes
as there are cores. A run that was stopped goes on where it was. With `--comparison` it trains what that
comparison of Figure 5 needs; `--methods` then says which side.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from experiments.budget import APART, SCALES, Scale, scale_named
from experiments.comparisons import COMPARISONS, Comparison, comparison_named
from experiments.data import load
from experiments.methods import METHODS
from experiments.runs import Run, trained, trained_alone
from wenable.modules.denormals import flush_denormals

UNIFORM = (1, 2, 4, 8, 16)


def main() -> None:
    arguments = _parser().parse_args()
    flush_denormals()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    scale = scale_named(arguments.scale)
    comparison = comparison_named(arguments.comparison) if arguments.comparison else None
    work = arguments.work / arguments.scale
    for network in arguments.networks or scale.networks:
        data = load(arguments.data, scale.budgets[network])
        for run in _runs(scale, network, comparison, arguments.methods, arguments.seeds):
            if arguments.alone:
                for n in UNIFORM:
                    trained_alone(run, n, data, work)
            else:
                trained(run, data, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.train")
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("out/experiments"))
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS))
    parser.add_argument("--seeds", nargs="*", type=int)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--alone", action="store_true", help="each uniform mode's network by itself")
    what.add_argument("--comparison", choices=[each.name for each in COMPARISONS])
    parser.add_argument("--threads", type=int)
    return parser


def _runs(
    scale: Scale,
    network: str,
    comparison: Comparison | None,
    methods: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> Iterator[Run]:
    """Yield what is to be trained of one network: by some methods, or both sides of a comparison."""
    if comparison is None:
        for seed in seeds or scale.seeds_of(network):
            for method in methods or ["weight-enabling"]:
                yield Run(network, method, seed, scale.budgets[network])
        return
    sides = (comparison.ours, comparison.rival)
    for method in methods or ():
        if method not in sides:
            raise ValueError(
                f"`--methods` holds {method!r}, which is no side of {comparison.name!r}; allowed:"
                f" {', '.join(map(repr, sides))}"
            )
    budget = comparison.budget(scale, network)
    for seed in seeds or scale.seeds_of(network, APART if comparison.apart else ""):
        for method in methods or sides:
            yield Run(network, method, seed, budget, comparison.distillation)


if __name__ == "__main__":
    main()
