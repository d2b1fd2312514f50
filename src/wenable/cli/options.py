"""Arguments and options that several commands have, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Groups = Annotated[str, typer.Option(help="The options offered: a chain of divisors from 1.")]
Shuffle = Annotated[str, typer.Option(help="Which layers read shuffled: first, all or none.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and count images that cannot be read.")
]
Profile = Annotated[
    Path | None,
    typer.Option(
        help="What wenable profile wrote of this network's modes on a device: options that it runs no"
        " faster than coarser ones are left out.",
        metavar="FILE",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(help="torchvision or timm name, or package.module:function.", metavar="MODEL"),
]
ModelOption = Annotated[
    str,
    typer.Option("--model", help="The same as MODEL: a name, or package.module:function."),
]
OwnModel = Annotated[
    str,
    typer.Option(
        "--model",
        help="package.module:function that builds the network, where that is one of yours.",
    ),
]
Device = Annotated[
    str,
    typer.Option(help="cpu, cuda, cuda:1 ...; auto is a GPU where there is one.", metavar="DEVICE"),
]
RECIPES = (
    "digits", "scenes", "cifar", "fine-tune-cifar", "paper-resnet50", "paper-mobilenet-v2",
    "paper-efficientnet-b0",
)  # fmt: skip
DataSet = Annotated[
    str, typer.Option("--data", help="digits, scenes (of digits), or a folder of images.")
]


def Setting(help: str, *defaults: str, kind: str | None = None) -> Any:  # noqa: N802
    """Return an option that a recipe has a value for, with that value in its help."""
    return typer.Option(help=help, show_default=", ".join(defaults), metavar=kind)
