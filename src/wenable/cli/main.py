"""`wenable`: the commands, their arguments and their help; each does its work in its own file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="One trained network, many operating modes: fast or accurate, as the moment asks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_settings = {"debug": False}

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Groups = Annotated[str, typer.Option(help="The patterns offered: a chain of divisors from 1.")]
Shuffle = Annotated[str, typer.Option(help="Which layers read shuffled: first, all or none.")]
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
DataSet = Annotated[str, typer.Option("--data", help="digits, or a folder of images.")]


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print what a user can mend as one line; `wenable --debug` shows the traceback instead."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:  # which is a RuntimeError
            raise
        except (ValueError, FloatingPointError, ImportError, OSError, RuntimeError) as error:
            if _settings["debug"]:
                raise
            from wenable.cli.option_names import as_typed, option_names
            from wenable.cli.terminal import PlainConsole

            words = as_typed(str(error), option_names(command), kwargs)
            PlainConsole(stderr=True).print(f"error: {words}", style="red", soft_wrap=True)
            raise typer.Exit(1) from error

    return run


def _print_version(asked: bool) -> None:
    if asked:
        from wenable.version import __version__

        typer.echo(__version__)
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
    ),
]


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Version = False,
) -> None:
    """One trained network, many operating modes: fast or accurate, as the moment asks."""
    _settings["debug"] = debug


@app.command()
@_one_line_errors
def demo(
    out: Annotated[Path, typer.Option(help="Where the results go.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Of the weights, the modes and the data's order.")] = 0,
    epochs: Annotated[int, typer.Option(help="Times through the training digits.")] = 4,
) -> None:
    """Train, calibrate and explore a small network on real handwritten digits, in minutes."""
    from wenable.cli.demo import run_demo

    if not run_demo(out, seed=seed, epochs=epochs):
        raise typer.Exit(1)


@app.command()
@_one_line_errors
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="torchvision or timm name, package.module:function, or a network saved by wenable; or a"
            " front.json or bundle, whose modes are shown.",
            metavar="MODEL",
        ),
    ] = "",
    own_model: OwnModel = "",
    size: Annotated[str, typer.Option("--input", help="One example, CxHxW (or one number).")] = "",
    mode: Annotated[str, typer.Option(help="Of a front or bundle: one mode in full, as m07.")] = "",
    groups: Groups = "1,2,4,8,16",
    shuffle: Shuffle = "first",
    classifier: Annotated[bool, typer.Option(help="Switch the classifier as well.")] = False,
    json: Json = False,
) -> None:
    """Show what can be switched in a network, or the modes of a front or bundle."""
    from wenable.cli.inspect_modes import holds_modes, inspect_modes

    if holds_modes(model):
        inspect_modes(Path(model), mode, json)
        return
    if mode:
        raise ValueError(f"`--mode` (={mode}) is for a front.json or a bundle; {model} is neither")
    from wenable.cli.inspect import run_inspect

    run_inspect(model, own_model, size, groups, shuffle, classifier, json)


@app.command()
@_one_line_errors
def train(
    data: DataSet,
    out: Annotated[Path, typer.Option(help="The folder for the trained network.")],
    model: ModelName = "",
    own_model: ModelOption = "",
    recipe: Annotated[
        str, typer.Option(help="Settings by name, as cifar or paper-resnet50; see the docs.")
    ] = "",
    passes: Annotated[int | None, typer.Option(help="s of Algorithm 1: passes a step.")] = None,
    counting: Annotated[
        str | None, typer.Option(help="What --passes counts: all of them, or the random ones only.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the training data.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images in a batch, all processes.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    sampling: Annotated[
        str | None, typer.Option(help="Random modes uniform over patterns or over macs.")
    ] = None,
    distillation: Annotated[
        bool | None, typer.Option(help="Teach the other modes what the full one answers.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, or autocast in bfloat16 or float16.")
    ] = None,
    executions: Annotated[
        str | None, typer.Option(help="How layers are computed: grouped, or timed on this device.")
    ] = None,
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
    seed: Annotated[
        int | None, typer.Option(help="Of the weights, the modes and the data's order.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read images.")] = 2,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count images that cannot be read.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint under --out.")
    ] = False,
    json: Json = False,
) -> None:
    """Train all modes of a network at once (Algorithm 1) and calibrate the uniform ones."""
    from wenable.cli.opening import Wanted, one_of
    from wenable.cli.train import run_train

    settings = {
        "passes": passes,
        "counting": counting,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "sampling": sampling,
        "distillation": distillation,
        "precision": precision,
        "executions": executions,
        "seed": seed,
    }
    wanted = Wanted(pretrained, weights, tuple(leave_out or ()), num_classes, image_size)
    run_train(
        one_of(model, own_model), data, out, recipe, settings, batch_size=batch_size, groups=groups,
        shuffle=shuffle, wanted=wanted, workers=workers, skip_bad=skip_bad, resume=resume,
        tensorboard=tensorboard, as_json=json,
    )  # fmt: skip


@app.command()
@_one_line_errors
def explore(
    network: Annotated[Path, typer.Argument(help="A network saved by wenable.")],
    data: DataSet,
    threshold: Annotated[float, typer.Option(help="Stop at this accuracy, 0 to 1.")],
    out: Annotated[Path, typer.Option(help="The folder for the front, its picture and network.")],
    model: OwnModel = "",
    cost: Annotated[
        str,
        typer.Option(
            help="What to save: macs, bit_operations, latency or energy; latency with --profile."
        ),
    ] = "",
    strategy: Annotated[
        str,
        typer.Option(
            help="exact, greedy (Algorithm 2 of the paper), greedy-lazy, plain or evolve; by default"
            " exact, and greedy where every mode has to be timed."
        ),
    ] = "",
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Latencies and energies of a device, as wenable profile --out wrote them."
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="The most that a mode may cost besides: macs_m=3, memory_kib=200, latency_ms=5 (with"
            " --profile), or FILE=2 by a cost table. Can be given several times; all of them hold."
        ),
    ] = None,
    calibration_images: Annotated[
        int | None,
        typer.Option(
            help="Training images on which each mode is calibrated; by default as many as the search"
            " split has, from 256 to 2,048 (digits: 128)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Search a trained network for the modes worth having."""
    from wenable.cli.explore import run_explore

    run_explore(
        network,
        model,
        data,
        threshold,
        out,
        cost,
        strategy,
        profile,
        limit or [],
        json,
        calibration_images,
    )


BundleFile = Annotated[Path, typer.Argument(help="A bundle, as wenable export writes it.")]
Engine = Annotated[
    str, typer.Option(help="onnxruntime, openvino, or auto for the fastest installed.")
]
Threads = Annotated[int | None, typer.Option(help="Threads of one call; all cores by default.")]


@app.command()
@_one_line_errors
def export(
    network: Annotated[Path, typer.Argument(help="A network saved by wenable.")],
    out: Annotated[Path, typer.Option(help="The bundle to write, as net.wen.")],
    model: OwnModel = "",
    modes: Annotated[
        str,
        typer.Option(
            help="Modes with semicolons, as 'full;1/4', or 'm01;m03' of a --front; all calibrated"
            " ones if empty."
        ),
    ] = "",
    front: Annotated[
        Path | None,
        typer.Option(help="The modes of a front.json, or some by --modes, with their accuracies."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="The engine every mode is checked on.")
    ] = "onnxruntime",
    executorch: Annotated[
        bool, typer.Option("--executorch", help="An ExecuTorch file (.pte) instead of a bundle.")
    ] = False,
    json: Json = False,
) -> None:
    """Write modes of a saved network to one file that runs without torch."""
    from wenable.cli.bundles import run_export

    run_export(network, model, modes, front, out, "executorch" if executorch else engine, json)


@app.command()
@_one_line_errors
def profile(
    bundle: BundleFile,
    engine: Engine = "onnxruntime",
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for the profile, to search with elsewhere.")
    ] = None,
    energy: Annotated[
        bool, typer.Option(help="Measure energy too, where this device has a meter.")
    ] = True,
    json: Json = False,
) -> None:
    """Measure on this device how a bundle's layers run fastest, and what any mode takes."""
    from wenable.cli.bundles import run_profile

    run_profile(bundle, engine, threads, out, energy, json)


@app.command()
@_one_line_errors
def verify(
    bundle: BundleFile,
    profile: Annotated[Path, typer.Argument(help="What wenable profile --out wrote here.")],
    front: Annotated[Path | None, typer.Option(help="Also the modes of a front.json.")] = None,
    engine: Annotated[str, typer.Option(help="The profile's engine.")] = "onnxruntime",
    modes: Annotated[int, typer.Option(help="How many random modes, at least 24.")] = 24,
    out: Annotated[Path | None, typer.Option(help="A JSON file, for wenable report.")] = None,
    refit: Annotated[
        Path | None,
        typer.Option(
            help="A new file for the profile, fitted to half of the modes, if that helps."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure modes end to end beside what a profile predicts of them."""
    from wenable.cli.bundles import run_verify

    run_verify(bundle, profile, front, engine, modes, out, refit, json)


@app.command()
@_one_line_errors
def run(
    bundle: BundleFile,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Images, or arrays as .npy: files, folders, patterns as 'in/*.png', - for standard"
            " input."
        ),
    ],
    mode: Annotated[str, typer.Option(help="One of the exported modes, as 1/4 or m02.")] = "",
    deadline_ms: Annotated[
        float | None, typer.Option(help="Instead of a mode: the most accurate that meets it.")
    ] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    top_k: Annotated[int, typer.Option(help="How many of the most likely classes to show.")] = 3,
    json: Json = False,
) -> None:
    """Run a bundle on images, in a mode or under a deadline."""
    from wenable.cli.run import run_once

    if not run_once(bundle, inputs, mode, deadline_ms, engine, threads, top_k, json):
        raise typer.Exit(1)


@app.command()
@_one_line_errors
def bench(
    bundle: BundleFile,
    engines: Annotated[str, typer.Option(help="With commas; all installed ones if empty.")] = "",
    threads: Annotated[str, typer.Option(help="With commas, as 1,2; one and all if empty.")] = "",
    modes: Annotated[
        str, typer.Option(help="With semicolons, as 'm01;1/4'; all exported ones if empty.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
    json: Json = False,
) -> None:
    """Compare a bundle's modes with their plain exports and with the full network."""
    from wenable.cli.bundles import run_bench

    run_bench(bundle, engines, threads, modes, out, json)


@app.command()
@_one_line_errors
def report(
    fronts: Annotated[
        list[Path],
        typer.Argument(help="Fronts, as explore writes them; NAME=front.json names one."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write, as report.html.")],
    predictions: Annotated[
        Path | None, typer.Option(help="What wenable verify --out wrote.")
    ] = None,
    format: Annotated[str, typer.Option(help="With commas: html, svg, png, md, csv.")] = "html",
    title: Annotated[str, typer.Option(help="The page's heading.")] = "",
    search_split: Annotated[
        bool, typer.Option("--search-split", help="Show the accuracies of the search split too.")
    ] = False,
    json: Json = False,
) -> None:
    """Write fronts as one page that needs no network, and as pictures and tables for papers."""
    from wenable.cli.report import run_report
    from wenable.cli.terminal import consoles, print_json

    formats = [each.strip() for each in format.split(",") if each.strip()]
    paths = run_report(fronts, predictions, out, formats, title, search_split)
    if json:
        print_json([str(path) for path in paths])
    else:
        consoles(False)[0].print("written: " + ", ".join(map(str, paths)))


@app.command()
@_one_line_errors
def doctor(json: Json = False) -> None:
    """Say what was found on this machine, and how to get what was not."""
    from wenable.cli.doctor import run_doctor

    run_doctor(json)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
