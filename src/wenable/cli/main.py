"""`wenable`: the commands, their arguments and their help; each does its work in its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wenable.cli.errors import one_line_errors as _one_line_errors
from wenable.cli.errors import shown_in_full
from wenable.cli.options import DataSet, Groups, Json, OwnModel, Profile, Shuffle, SkipBad
from wenable.cli.train_command import evaluate, train

app = typer.Typer(
    help="One trained network, many operating modes: fast or accurate, as the moment asks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    shown_in_full["debug"] = debug


@app.command()
@_one_line_errors
def demo(
    out: Annotated[Path, typer.Option(help="The folder for all results.", metavar="FOLDER")] = Path(
        "out/demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the weights, the modes and the data's order.")] = 0,
    epochs: Annotated[int, typer.Option(help="Times through the training scenes.")] = 4,
) -> None:
    """Train, explore, export and run a small network on scenes of real digits, in minutes."""
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
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Show what can be switched in a network, or the modes of a front or bundle."""
    from wenable.cli.inspect_modes import holds_modes, inspect_modes

    if Path(model).suffix in (".wen", ".json", ".safetensors") and not Path(model).exists():
        raise ValueError(f"`MODEL` (={model}) does not exist")
    if holds_modes(model):
        inspect_modes(Path(model), mode, json)
        return
    if mode:
        raise ValueError(f"`--mode` (={mode}) is for a front.json or a bundle; {model} is neither")
    from wenable.cli.inspect import run_inspect

    run_inspect(model, own_model, size, groups, shuffle, classifier, profile, json)


app.command()(train)
app.command()(evaluate)


@app.command()
@_one_line_errors
def explore(
    network: Annotated[Path, typer.Argument(help="A network saved by wenable.")],
    data: DataSet,
    min_accuracy: Annotated[
        float, typer.Option(help="Modes must be more accurate than this, 0 to 1.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The folder for the front, its picture and network.", metavar="FOLDER"),
    ],
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
            help="knapsack, greedy (Algorithm 2 of the paper), greedy-lazy or nsga2; by default"
            " knapsack, or greedy if every mode has to be timed."
        ),
    ] = "",
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Latencies and energies of a device, as wenable profile --out wrote them."
        ),
    ] = None,
    constraint: Annotated[
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the front that stands under --out.")
    ] = False,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Search a trained network for the modes worth having."""
    from wenable.cli.explore import run_explore

    run_explore(
        network,
        model,
        data,
        min_accuracy,
        out,
        cost,
        strategy,
        profile,
        constraint or [],
        json,
        calibration_images,
        overwrite,
        skip_bad,
    )


BundleFile = Annotated[Path, typer.Argument(help="A bundle, as wenable export writes it.")]
Engine = Annotated[
    str, typer.Option(help="onnxruntime, openvino, native, or auto for the fastest installed.")
]
OneEngine = Annotated[str, typer.Option(help="onnxruntime, openvino or native.")]
Threads = Annotated[int | None, typer.Option(help="Threads of one call; all cores by default.")]
Precision = Annotated[
    str,
    typer.Option(
        help="float32; bfloat16 or float16, which OpenVINO offers where the processor has it; or auto for"
        " the fastest whose answers stay near."
    ),
]


@app.command()
@_one_line_errors
def export(
    network: Annotated[Path, typer.Argument(help="A network saved by wenable.")],
    out: Annotated[Path, typer.Option(help="The bundle to write, as net.wen.", metavar="FILE")],
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
    image_sizes: Annotated[
        str,
        typer.Option(
            help="Sizes of images that the bundle takes besides its own, height x width with commas, as"
            " '192x256,256'."
        ),
    ] = "",
    weights: Annotated[
        str,
        typer.Option(
            help="float16 or bfloat16 for a file of half the size, with the weights rounded; float32."
        ),
    ] = "float32",
    executorch: Annotated[
        bool, typer.Option("--executorch", help="An ExecuTorch file (.pte) instead of a bundle.")
    ] = False,
    json: Json = False,
) -> None:
    """Write modes of a saved network to one file that runs without torch."""
    from wenable.cli.bundles import run_export

    chosen = "executorch" if executorch else engine
    run_export(network, model, modes, front, out, chosen, json, image_sizes, weights)


@app.command()
@_one_line_errors
def join(
    bundles: Annotated[
        list[str],
        typer.Argument(
            help="Bundles of the same inputs and outputs, as NAME=FILE.", metavar="NAME=FILE..."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bundle to write, as pair.wen.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Write several bundles to one file, whose modes are called network=NAME."""
    from wenable.cli.joining import run_join

    run_join(bundles, out, json)


@app.command()
@_one_line_errors
def profile(
    bundle: BundleFile,
    engine: OneEngine = "onnxruntime",
    threads: Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A file for the profile, to search with elsewhere.", metavar="FILE"),
    ] = None,
    energy: Annotated[
        bool, typer.Option(help="Measure energy too, where this device has a meter.")
    ] = True,
    precision: Precision = "float32",
    json: Json = False,
) -> None:
    """Measure on this device how a bundle's layers run fastest, and what any mode takes."""
    from wenable.cli.bundles import run_profile

    run_profile(bundle, engine, threads, out, energy, json, precision)


@app.command()
@_one_line_errors
def verify(
    bundle: BundleFile,
    profile: Annotated[Path, typer.Argument(help="What wenable profile --out wrote here.")],
    front: Annotated[Path | None, typer.Option(help="Also the modes of a front.json.")] = None,
    engine: Annotated[str, typer.Option(help="The profile's engine.")] = "onnxruntime",
    random_modes: Annotated[int, typer.Option(help="How many random modes, at least 24.")] = 24,
    out: Annotated[
        Path | None, typer.Option(help="A JSON file, for wenable report.", metavar="FILE")
    ] = None,
    refit_out: Annotated[
        Path | None,
        typer.Option(
            help="A new file for the profile, fitted to half of the modes, if that helps.",
            metavar="FILE",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="That the engine computes in; the profile's by default.")
    ] = "",
    json: Json = False,
) -> None:
    """Measure modes end to end beside what a profile predicts of them."""
    from wenable.cli.bundles import run_verify

    run_verify(
        bundle, profile, front, engine, random_modes, out, refit_out, json, precision or None
    )


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
    strict: Annotated[
        bool, typer.Option("--strict", help="End with status 1 where a deadline was missed.")
    ] = False,
    precision: Precision = "float32",
    json: Json = False,
) -> None:
    """Run a bundle on images, in a mode or under a deadline."""
    from wenable.cli.run import run_once

    if not run_once(
        bundle, inputs, mode, deadline_ms, engine, threads, top_k, strict, json, precision
    ):
        raise typer.Exit(1)


@app.command()
@_one_line_errors
def serve(
    bundle: BundleFile,
    name: Annotated[str, typer.Option(help="As clients call it; the file's name if empty.")] = "",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free one, which is printed.")] = 8080,
    deadline_ms: Annotated[
        float | None, typer.Option(help="For requests that name none; without: the first mode.")
    ] = None,
    deadline_target: Annotated[
        float, typer.Option(help="The share of deadlines to be kept, 0.9 to 0.999.")
    ] = 0.99,
    max_batch: Annotated[int, typer.Option(help="Examples that run together, at most.")] = 8,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more are refused.")] = 64,
    max_body_mb: Annotated[float, typer.Option(help="The most of one request, in MiB.")] = 32.0,
    grace_s: Annotated[int, typer.Option(help="For taken requests, when it is stopped.")] = 30,
    memory_budget_mb: Annotated[
        float | None, typer.Option(help="For all that prepared modes hold, in MiB.")
    ] = None,
    engine: Engine = "auto",
    threads: Threads = None,
) -> None:
    """Answer requests over HTTP in the Open Inference Protocol, each under its deadline."""
    from wenable.cli.serve import run_serve
    from wenable.serving.server import ServeOptions

    options = ServeOptions(host, port, deadline_ms, max_batch, queue, max_body_mb, grace_s)
    run_serve(bundle, name, options, engine, threads, memory_budget_mb, deadline_target)


@app.command()
@_one_line_errors
def bench(
    bundle: BundleFile,
    engines: Annotated[str, typer.Option(help="With commas; all installed ones if empty.")] = "",
    threads: Annotated[str, typer.Option(help="With commas, as 1,2; one and all if empty.")] = "",
    modes: Annotated[
        str, typer.Option(help="With semicolons, as 'm01;1/4'; all exported ones if empty.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="A JSON file for the figures.", metavar="FILE")
    ] = None,
    precision: Precision = "float32",
    json: Json = False,
) -> None:
    """Compare a bundle's modes with their plain exports and with the full network."""
    from wenable.cli.bundles import run_bench

    run_bench(bundle, engines, threads, modes, out, json, precision)


@app.command()
@_one_line_errors
def report(
    fronts: Annotated[
        list[Path],
        typer.Argument(help="Fronts, as explore writes them; NAME=front.json names one."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write, as report.html.", metavar="FILE")],
    predictions: Annotated[
        Path | None, typer.Option(help="What wenable verify --out wrote.")
    ] = None,
    deadline_run: Annotated[
        Path | None,
        typer.Option(help="Requests under deadlines, as runtime.deadline_run makes it: a picture."),
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
    paths = run_report(fronts, predictions, out, formats, title, search_split, deadline_run)
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
