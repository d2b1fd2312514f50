"""The commands `train` and `evaluate`: their options, with what a recipe sets where nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wenable.cli.errors import one_line_errors
from wenable.cli.options import (
    RECIPES,
    DataSet,
    Device,
    Groups,
    Json,
    ModelName,
    ModelOption,
    OwnModel,
    Profile,
    Setting,
    Shuffle,
    SkipBad,
)


@one_line_errors
def train(
    data: DataSet,
    out: Annotated[
        Path, typer.Option(help="The folder for the trained network.", metavar="FOLDER")
    ],
    model: ModelName = "",
    own_model: ModelOption = "",
    recipe: Annotated[
        str,
        typer.Option(
            help=f"Settings by name, {', '.join(RECIPES)}; the options below replace single ones.",
            show_default="that of the name for digits and scenes, cifar for images",
            metavar="RECIPE",
        ),
    ] = "",
    passes: Annotated[
        int | None, Setting("s of Algorithm 1: the passes of a step.", "4", "20 for paper-*")
    ] = None,
    counting: Annotated[
        str | None,
        Setting("What --passes counts: all of them, or the random ones.", "all", kind="all|random"),
    ] = None,
    epochs: Annotated[
        int | None, Setting("Times through the training data.", "6 for digits, 60 for cifar")
    ] = None,
    batch_size: Annotated[
        int | None,
        Setting("Images in a batch, of all processes.", "64 for digits, 128 for cifar"),
    ] = None,
    learning_rate: Annotated[
        float | None, Setting("The highest learning rate.", "0.05 for digits, 0.1 for cifar")
    ] = None,
    optimizer: Annotated[
        str | None, Setting("How weights move.", "sgd", kind="sgd|adamw|rmsproptf")
    ] = None,
    schedule: Annotated[
        str | None,
        Setting(
            "How the learning rate falls.",
            "cosine",
            "step for paper-*",
            kind="cosine|step|constant",
        ),
    ] = None,
    weight_decay: Annotated[
        float | None, Setting("Of weights, not of norms and biases.", "0.0005")
    ] = None,
    label_smoothing: Annotated[
        float | None, Setting("The share of a label spread over all classes.", "0")
    ] = None,
    ema_decay: Annotated[
        float | None,
        Setting("The decay of an average of the weights, as 0.999, which the run ends with.", "0"),
    ] = None,
    sampling: Annotated[
        str | None,
        Setting("What random modes are uniform over.", "options", kind="options|macs"),
    ] = None,
    distillation: Annotated[
        bool | None,
        Setting(
            "Teach the other modes what the full one answers.", "yes; no for digits and paper-*"
        ),
    ] = None,
    precision: Annotated[
        str | None,
        Setting(
            "Of the passes: autocast below 32 bits.", "float32", kind="float32|bfloat16|float16"
        ),
    ] = None,
    implementations: Annotated[
        str | None,
        Setting(
            "How layers are computed: as written, or in the way that is fastest on this device.",
            "timed",
            "grouped for digits",
            kind="grouped|timed",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of a run, as clip_grad=5 or sharing.delay=0.5; can be given several"
            " times.",
        ),
    ] = None,
    device: Device = "auto",
    keep_best: Annotated[
        bool,
        typer.Option(
            "--keep-best",
            help="Write best.safetensors after every epoch with the best mean accuracy so far of the"
            " uniform modes on the search split.",
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write logs for TensorBoard under --out.")
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Height and width of the images; what the network was made for if unset."
        ),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Outputs of the network; the classes of the data if unset.")
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained", help="Start from the weights that MODEL's package has for it."
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from a file of weights: .safetensors, or a state dict as .pth."),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Tensors that --weights are not taken for, as 'fc.*'; can be given several times."
        ),
    ] = None,
    groups: Groups = "1,2,4,8,16",
    shuffle: Shuffle = "first",
    profile: Profile = None,
    seed: Annotated[
        int | None, Setting("Of the weights, the modes and the data's order.", "0")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 2,
    skip_bad: SkipBad = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the checkpoint under --out, if there is one; to more --epochs too.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that stands under --out.")
    ] = False,
    json: Json = False,
) -> None:
    """Train all modes of a network at once (Algorithm 1) and calibrate the uniform ones."""
    from wenable.cli.opening import Wanted, one_of
    from wenable.cli.set_options import with_set
    from wenable.cli.train import RunOptions, run_train

    settings = {
        "passes": passes,
        "counting": counting,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "ema_decay": ema_decay,
        "sampling": sampling,
        "distillation": distillation,
        "precision": precision,
        "implementations": implementations,
        "seed": seed,
    }
    settings = with_set(settings, set_ or [])
    wanted = Wanted(pretrained, weights, tuple(leave_out or ()), num_classes, image_size)
    options = RunOptions(
        resume=resume, overwrite=overwrite, keep_best=keep_best, tensorboard=tensorboard,
        skip_bad=skip_bad, workers=workers, device=device, profile=profile,
    )  # fmt: skip
    status = run_train(
        one_of(model, own_model), data, out, recipe, settings, batch_size=batch_size, groups=groups,
        shuffle=shuffle, wanted=wanted, options=options, as_json=json,
    )  # fmt: skip
    if status:
        raise typer.Exit(status)


@one_line_errors
def evaluate(
    network: Annotated[Path, typer.Argument(help="A network saved by wenable.")],
    data: DataSet,
    model: OwnModel = "",
    modes: Annotated[
        str,
        typer.Option(
            help="Modes with semicolons, as 'full;1/4', or 'm01;m03' of a --front; the uniform ones if"
            " empty."
        ),
    ] = "",
    front: Annotated[
        Path | None,
        typer.Option(help="A front.json, whose modes are evaluated, or some by --modes."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="test, which neither training nor a search saw, or search.", metavar="test|search"
        ),
    ] = "test",
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="A CSV file for the figures.", metavar="FILE")
    ] = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Show how accurate modes of a trained network are, each calibrated first."""
    from wenable.cli.evaluate import run_evaluate

    run_evaluate(network, model, data, modes, front, split, device, out, json, skip_bad)
