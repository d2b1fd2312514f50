"""Trains the networks that the experiments compare, one after the other.

    python -m experiments.train --scale cpu --data data/cifar10 [--work out/experiments]
        [--networks NAME ...] [--methods NAME ...] [--seeds 0 1 2] [--distillation] [--alone]

Experiments train what they lack themselves; this trains it ahead, in any order and in as many processes
as there are cores. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from experiments.budget import SCALES, scale_named
from experiments.data import load
from experiments.methods import METHODS
from experiments.runs import Run, trained, trained_alone
from wenable.cli.work import flush_denormals

UNIFORM = (1, 2, 4, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.train")
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("out/experiments"))
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=["weight-enabling"])
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--distillation", action="store_true")
    parser.add_argument(
        "--alone", action="store_true", help="each uniform mode's network by itself"
    )
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    flush_denormals()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    scale = scale_named(arguments.scale)
    work = arguments.work / arguments.scale
    for network in arguments.networks or scale.networks:
        budget = scale.budgets[network]
        data = load(arguments.data, budget)
        for seed in arguments.seeds or scale.seeds_of(network, arguments.distillation):
            for method in arguments.methods:
                run = Run(network, method, seed, budget, arguments.distillation)
                if arguments.alone:
                    for n in UNIFORM:
                        trained_alone(run, n, data, work)
                else:
                    trained(run, data, work)


if __name__ == "__main__":
    main()
