"""The options that all experiments share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.budget import SCALES
from experiments.results import RECORDS


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every experiment."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}")
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument("--data", type=Path, help="holds train/CLASS/*, test/CLASS/*")
    parser.add_argument(
        "--work", type=Path, default=Path("out/experiments"), help="trained networks"
    )
    parser.add_argument("--out", type=Path, default=RECORDS, help="where the records go")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what it would cost, and run nothing"
    )
    parser.add_argument(
        "--macs-per-second",
        type=float,
        help="of the device to be, for --dry-run; else measured here",
    )
    return parser


def start(
    name: str,
    run: Callable[..., Any],
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Parse the command line of an experiment and run it, or print what it would cost.

    - `add_options`: adds the options that only this experiment has.
    """
    parser = parser_of(name)
    add_options(parser)
    arguments = vars(parser.parse_args())
    dry, rate = arguments.pop("dry_run"), arguments.pop("macs_per_second")
    if dry:
        from experiments.cost import estimate

        print(estimate(name, arguments["scale"], rate))
        return
    if arguments["data"] is None:
        parser.error("`--data` is needed, unless `--dry-run` is given")
    run(**arguments)


def command_of(name: str, scale: str) -> str:
    """Return the command that makes a result, without paths of one machine."""
    data = "data/imagenet" if scale == "imagenet" else "data/cifar10"
    return f"python -m experiments.{name} --scale {scale} --data {data}"
