"""All modes of a ResNet trained at once on CIFAR-10 files, with and without the shuffle.

    python -m experiments.cifar10 --data data/cifar10 [--weights resnet20-cifar10.safetensors]
        [--scale cpu] [--work out/cifar10] [--out .]

`--data` holds `train/CLASS/*.jpg` and `test/CLASS/*.jpg`. Both runs have the same start, the same
batches and the same number of passes. After every epoch the uniform modes are calibrated on
training images and evaluated on the search split; at the end on the test split. A run that was
stopped goes on where it was. Results go to `results/cifar10.jsonl`, `docs/results/cifar10.svg`
and `docs/results/cifar10.md`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, page_file, records_file, write_page, write_records
from wenable.core.files import write_whole
from wenable.core.readings import Reading
from wenable.methods.weight_enabling import ShufflePlacement
from wenable.modules.denormals import flush_denormals
from wenable.modules.passes import device_name
from wenable.training import Checkpoint, StepReport
from wenable.training.config import Implementations
from wenable.training.data_sets import Data, accuracies, load_data
from wenable.training.recipes import Recipe, recipe_named
from wenable.zoo import build

POLICIES = ("first", "none")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is computed: which network, from which recipe, for how many epochs."""

    network: str
    recipe: str
    epochs: int
    passes: int = 4
    batch_size: int = 128
    implementations: Implementations = "timed"


SCALES = {
    "smoke": Scale(
        "experiments.networks:SmallBottleneckResNet", "fine-tune-cifar", 1, 2, 16, "grouped"
    ),
    "cpu": Scale("wenable.zoo:cifar_resnet20", "fine-tune-cifar", 2),
    "gpu": Scale("wenable.zoo:cifar_resnet20", "cifar", 60, passes=6),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.cifar10")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scale", choices=list(SCALES), default="cpu")
    parser.add_argument("--work", type=Path, default=Path("out/cifar10"))
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run(**vars(arguments))


def run(
    data: Path, weights: Path | None, scale: str, work: Path, out: Path, seed: int
) -> dict[str, Any]:
    """Train with each shuffle policy, evaluate, and write what was found under `out`."""
    flush_denormals()
    settings = SCALES[scale]
    recipe = _recipe(settings, seed)
    results = {
        "command": "python -m experiments.cifar10 --data data/cifar10"
        + (f" --weights {weights.name}" if weights else "")
        + f" --scale {scale} --seed {seed}",
        "commit": present_commit(),
        "machine": device_name(torch.nn.Linear(1, 1)),
        "versions": {"torch": torch.__version__},
        "scale": asdict(settings),
        "training": recipe.training.to_json(),
        "runs": [_train(policy, data, weights, settings, recipe, work) for policy in POLICIES],
    }
    write_records(records_file(out, "cifar10"), results)
    plot(results, page_file(out, "cifar10", ".svg"))
    write_page(out, "cifar10", page(results))
    return results


def _recipe(settings: Scale, seed: int) -> Recipe:
    recipe = recipe_named(settings.recipe)
    training = replace(
        recipe.training,
        epochs=settings.epochs,
        passes=settings.passes,
        seed=seed,
        implementations=settings.implementations,
    )
    return replace(recipe, training=training, batch_size=settings.batch_size)


def _train(
    policy: str, folder: Path, weights: Path | None, settings: Scale, recipe: Recipe, work: Path
) -> dict[str, Any]:
    """Return the curve and the final accuracies of one run."""
    data = load_data(str(folder), recipe, workers=1)
    torch.manual_seed(recipe.training.seed)
    model = build(settings.network)
    if weights is not None:
        model.load_state_dict(load_file(weights))
    method = we.WeightEnabling(shuffle=cast(ShufflePlacement, policy))
    net = we.convert(model, data.example, method=method)
    work.mkdir(parents=True, exist_ok=True)
    log = _Log(work / f"{policy}.json", net, data)
    checkpoint = Checkpoint(work / f"{policy}.safetensors", every_s=120, resume=True)
    we.train(
        net,
        data.training_batches(recipe.batch_size, recipe.training.seed),
        recipe.training,
        on_step=log.step,
        on_epoch=log.epoch,
        checkpoint=checkpoint,
    )
    test = accuracies(net, net.space.uniform_modes(), data, "test")
    we.save(net, work / f"{policy}-net.safetensors")
    return {
        "shuffle": policy,
        "training_s": log.values["training_s"],
        "curve": log.values["curve"],
        "macs": {str(mode): net.macs(mode) for mode in test},
        "test": {str(mode): asdict(reading) for mode, reading in test.items()},
    }


class _Log:
    """What was found after each epoch, kept in a file so that a stopped run still has it."""

    def __init__(self, path: Path, net: we.DynamicNetwork, data: Data) -> None:
        self.path, self.net, self.data = path, net, data
        self.values: dict[str, Any] = {"training_s": 0.0, "curve": []}
        if path.is_file():
            self.values = json.loads(path.read_text(encoding="utf-8"))
        self.since: float | None = None

    def step(self, report: StepReport) -> None:
        now = time.monotonic()
        if self.since is not None:
            self.values["training_s"] += now - self.since
        self.since = now
        if report.step % 25 == 0:
            print(report.step, report.steps, [round(loss, 3) for loss in report.losses], flush=True)

    def epoch(self, epoch: int) -> None:
        if any(row["epoch"] == epoch + 1 for row in self.values["curve"]):
            return  # a run that goes on tells its last epoch again
        found = accuracies(self.net, self.net.space.uniform_modes(), self.data, "search")
        row: dict[str, Any] = {str(mode): reading.known for mode, reading in found.items()}
        self.values["curve"].append({"epoch": epoch + 1, "search": row})
        write_whole(self.path, json.dumps(self.values))
        print(self.path.stem, epoch + 1, row, flush=True)
        self.since = None


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw the accuracy of the uniform modes on the search split, epoch by epoch."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    modes = list(results["runs"][0]["test"])
    for run in results["runs"]:
        for number, mode in enumerate(modes):
            epochs = [row["epoch"] for row in run["curve"]]
            found = [100 * row["search"][mode] for row in run["curve"]]
            style = "-" if run["shuffle"] == "first" else "--"
            axes.plot(
                epochs, found, style, marker=".", color=f"C{number}",
                label=f"{mode}, shuffle {run['shuffle']}",
            )  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1 on the search split, %")
    axes.set_xticks(range(1, results["scale"]["epochs"] + 1))
    axes.legend(ncols=2, fontsize=8)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _verdict(results: Mapping[str, Any]) -> str:
    said = []
    for run in results["runs"]:
        full, *others = (100 * each["value"] for each in run["test"].values())
        said.append(
            f"with shuffle `{run['shuffle']}` the full mode reaches {full:.0f} %, the other uniform modes"
            f" {min(others):.0f} to {max(others):.0f} %"
        )
    return f"After {results['scale']['epochs']} epochs, {'; '.join(said)}."


def page(results: Mapping[str, Any]) -> str:
    """Return the page of the documentation for these results."""
    scale, training = results["scale"], results["training"]
    modes = list(results["runs"][0]["test"])
    policies = [f"shuffle {run['shuffle']}" for run in results["runs"]]
    lines = [
        "# All modes at once on CIFAR-10",
        "",
        _verdict(results),
        "",
        f"`{scale['network']}` trained for {scale['epochs']} epochs with s = {scale['passes']},"
        f" batches of {scale['batch_size']}, one seed, on CIFAR-10 as JPEG files (which cost a network"
        " trained on the original pixels about ten points). A tenth of the training images is kept apart"
        " as the search split. Every mode is calibrated on 2,048 training images.",
        "",
        f"Made by `{results['command']}` at commit {results['commit']} on {results['machine']}"
        f" with torch {results['versions']['torch']}, implementations {training['implementations']}; "
        + "; ".join(
            f"shuffle {run['shuffle']}: {run['training_s'] / 60:.0f} minutes of training"
            for run in results["runs"]
        )
        + ".",
        "",
        "![accuracy of the uniform modes by epoch](cifar10.svg)",
        "",
        "Top-1 on the 10,000 test files, with 95 % Wilson intervals:",
        "",
        f"| uniform mode | share of the MACs | {' | '.join(policies)} |",
        "|---|--:|" + "--:|" * len(results["runs"]),
    ]  # fmt: skip
    macs = results["runs"][0]["macs"]
    for mode in modes:
        cells = [str(Reading(**run["test"][mode])) for run in results["runs"]]
        share = 100 * macs[mode] / macs[modes[0]]
        lines.append(f"| {mode} | {share:.0f} % | {' | '.join(cells)} |")
    means = [
        100 * sum(run["test"][mode]["value"] for mode in modes) / len(modes)
        for run in results["runs"]
    ]
    lines.append(
        f"| mean of the {len(modes)} | | {' | '.join(f'{mean:.1f} %' for mean in means)} |"
    )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
