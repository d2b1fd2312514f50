"""The options that all experiments share."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.budget import SCALES
from experiments.results import DOCS


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return a parser with `--scale`, `--data`, `--work` and `--out`."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}")
    parser.add_argument("--scale", choices=list(SCALES), required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="holds train/CLASS/*, test/CLASS/*"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("out/experiments"), help="trained networks"
    )
    parser.add_argument("--out", type=Path, default=DOCS, help="where the JSON goes")
    return parser


def command_of(name: str, scale: str) -> str:
    """Return the command that makes a result, without paths of one machine."""
    return f"python -m experiments.{name} --scale {scale} --data data/cifar10"
