"""Round trips: whole networks, every method and what they compose to, into a file and out of it again.

    python -m benchmarks.round_trips [--only NETWORK ...] [--methods NAME ...] [--out .]

Each network gets norms with random statistics, is converted, calibrated and exported, which holds every
mode against its extracted network; the file is opened again, and every mode runs on both engines beside
the network itself. What is told is the largest difference, beside how far the network's own answers move
if its input grows by a millionth, and how large the file is beside the network's plain float32 weights.
Results go to `results/round-trips.jsonl` after each row, the table to `docs/results/round-trips.md`. Rows
that were made at the present commit are not made again, and those that are not asked for stay.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import wenable as we
from results.provenance import present_commit
from results.records import ROOT, read_records, records_file, write_page, write_records
from wenable.measure.device import describe_device
from wenable.runtime import Session

NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_b0")
ENGINES = ("onnxruntime", "openvino")
SIZES = (128, 112, 96, 64)
EXITS = {
    "resnet18": ("layer1", "layer3"),
    "mobilenet_v2": ("features.6", "features.13"),
    "efficientnet_b0": ("features.3", "features.5"),
}
GROUPS, WIDTHS, BITS, SIZE = "groups", "widths", "precision", "size"
COMPOSITIONS: tuple[tuple[str, ...], ...] = (
    (GROUPS,), (WIDTHS,), ("exits",), (SIZE,), (BITS,), (GROUPS, SIZE), (GROUPS, "exits"), (GROUPS, BITS),
    (WIDTHS, SIZE), (WIDTHS, "exits"), (WIDTHS, BITS), (GROUPS, SIZE, BITS), (WIDTHS, SIZE, BITS),
)  # fmt: skip
OPTIONS: Mapping[str, Sequence[str]] = {
    GROUPS: ("", "1/4", "1/16"), WIDTHS: ("", "width=0.5", "width=0.25"), BITS: ("", "precision=8-bit"),
    SIZE: ("", *(f"size={size}" for size in SIZES[1:])),
}  # fmt: skip
TOLERANCE = 1e-4
"""Of the largest output, for modes of float32."""
LARGEST = 1.10
"""A file, as a share of the network's plain weights."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.round_trips")
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--methods", nargs="*", default=["+".join(each) for each in COMPOSITIONS])
    parser.add_argument("--out", type=Path, default=ROOT)
    arguments = parser.parse_args()
    results, commit = records_file(arguments.out, "round-trips"), present_commit()
    before = read_records(results)["rows"] if results.exists() else []
    rows = {(row["network"], row["methods"]): row for row in before}
    for key in ((network, "+".join(methods)) for methods in COMPOSITIONS for network in NETWORKS):
        is_made = key in rows and rows[key]["at"] == commit
        if not is_made and key[0] in arguments.only and key[1] in arguments.methods:
            found = trip(key[0], key[1].split("+"))
            rows[key] = {"network": key[0], "methods": key[1], "at": commit} | found
        elif key in rows and "moved" not in rows[key]:
            rows[key]["moved"] = moved(*made(key[0], key[1].split("+")))
        else:
            continue
        print(*rows[key].values(), flush=True)
        content = _results_of(list(rows.values()))
        write_records(results, content)
        write_page(arguments.out, "round-trips", page(content))


def trip(network: str, methods: Sequence[str]) -> dict[str, Any]:
    """Return what a round trip of one network with some methods found."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 8 bits are slower here is no news
        net, modes, x = made(network, methods)
        model = torchvision.models.get_model(network, weights=None)
        plain_bytes = sum(4 * each.numel() for each in model.parameters())
        path = we.export(net.eval(), modes, Path(folder) / "net.wen")
        found = {engine: _differences(net, path, engine, modes, x) for engine in ENGINES}
        row = {
            "modes": len(modes),
            "file_bytes": path.stat().st_size,
            "plain_bytes": plain_bytes,
            "moved": moved(net, modes, x),
            "differences": {name: each[0] for name, each in found.items()},
            "differences_8_bit": {name: each[1] for name, each in found.items()},
        }
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def made(
    network: str, methods: Sequence[str]
) -> tuple[we.DynamicNetwork, list[we.Mode], torch.Tensor]:
    """Return a network that was converted and calibrated, its modes, and two images."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, SIZES[0], SIZES[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = with_statistics(torchvision.models.get_model(network, weights=None))
        net = we.convert(model, x, method=[_method(network, name) for name in methods])
        modes = [net.space.mode(text) for text in _texts(network, methods)]
        we.calibrate(net, [mode for mode in modes if mode != net.space.full], [torch.cat([x] * 4)])
    return net.eval(), modes, x


def moved(
    net: we.DynamicNetwork, modes: Sequence[we.Mode], x: torch.Tensor
) -> tuple[float | None, float | None]:
    """Return how far the network's answers move if its input grows by a millionth; as `_differences`."""
    exact, rounded = [], []
    for mode in modes:
        with torch.no_grad(), net.using(mode):
            before, after = net(x), net(x * (1 + 1e-6))
        difference = float((after - before).abs().max() / before.abs().max())
        (rounded if mode.get("precision", 1) != 1 else exact).append(difference)
    return max(exact, default=None), max(rounded, default=None)


def with_statistics(model: nn.Module) -> nn.Module:
    """Return the network with norms whose statistics, scales and shifts are none of the trivial ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                tensor.data.normal_(0.0, 0.2, generator=generator)
    return model.eval()


def _method(network: str, name: str) -> Any:
    if name == "exits":
        return we.EarlyExits(EXITS[network])
    made = {
        GROUPS: we.WeightEnabling,
        WIDTHS: lambda: we.Slimmable((1.0, 0.5, 0.25)),
        BITS: lambda: we.SwitchablePrecision((32, 8)),
        SIZE: lambda: we.ImageSize(SIZES),
    }[name]
    return made()


def _texts(network: str, methods: Sequence[str]) -> Iterator[str]:
    """Return the modes: every combination of some options of each method."""
    options = dict(OPTIONS) | {"exits": ("", *(f"exit={name}" for name in EXITS[network]))}
    for chosen in itertools.product(*(options[name] for name in methods)):
        given = [each for each in chosen if each]
        if len(methods) == 1:  # the only knob, or all of them: its name is not needed
            yield given[0].split("=")[-1] if given else "full"
        else:
            first = [each for each in given if "=" not in each] or ["1"]
            yield ",".join([*first, *(each for each in given if "=" in each)])


def _differences(
    net: we.DynamicNetwork, path: Path, engine: str, modes: Sequence[we.Mode], x: torch.Tensor
) -> tuple[float | None, float | None]:
    """Return by how much the engine differs from the network, as a share of the largest output.

    The largest difference of the modes in float32, and of those with 8 bits; None if there is none.
    """
    exact, rounded = [], []
    with Session(path, engine=engine, threads=1) as session:
        for mode in modes:
            with torch.no_grad(), net.using(mode):
                expected = net(x)
            answer = torch.from_numpy(session.run(x.numpy(), mode=str(mode)))
            difference = float((answer - expected).abs().max() / expected.abs().max())
            (rounded if mode.get("precision", 1) != 1 else exact).append(difference)
    return max(exact, default=None), max(rounded, default=None)


def _results_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "command": "python -m benchmarks.round_trips",
        "machine": describe_device(),
        "versions": {
            name: version(name) for name in ("torch", "torchvision", "onnxruntime", "openvino")
        },
        "rows": rows,
    }


def page(results: Mapping[str, Any]) -> str:
    """Return the page of the documentation, in Markdown."""
    rows = results["rows"]
    versions = ", ".join(f"{name} {each}" for name, each in results["versions"].items())
    lines = [
        "# Into a file and out again",
        "",
        _verdict(rows),
        "",
        f"Each network has random weights, norms with random statistics, images of {SIZES[0]} pixels, and"
        " the modes of a method or of several together. *File* is the bundle's size over that of the"
        " network's own float32 parameters: what is above 1 are norms of each mode, ranges, graphs, and the"
        " classifiers that exits bring. Differences are shares of the largest output. *A millionth*: by how"
        " much the network's own answers move if its input grows by a millionth, so what rounding comes to"
        " in these random networks. 8 bits are integers on the engine and rounded floats in the network:"
        " what rounds the other way there moves the answers as such a change of the input does.",
        "",
        f"Made by `{results['command']}` at {_commits(rows)} on {results['machine']} with {versions}."
        " The figures are in `results/round-trips.jsonl`.",
        "",
        "| network | methods | modes | file | ONNX Runtime | OpenVINO | a millionth"
        " | 8 bits: ONNX Runtime | OpenVINO | a millionth |",
        f"|---|---{'|--:' * 8}|",
        *(_line(row) for row in rows),
        "",
    ]
    return "\n".join(lines)


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how many rows are within the tolerances, and which are not."""
    differ = {
        _name(row): max(each for each in row["differences"].values() if each is not None)
        for row in rows
        if row["differences"]["onnxruntime"] is not None
    }
    sizes = {_name(row): row["file_bytes"] / row["plain_bytes"] for row in rows}
    far = {name: f"{each:.1e}" for name, each in differ.items() if each > TOLERANCE}
    large = {name: f"{each:.2f}" for name, each in sizes.items() if each > LARGEST}
    return (
        f"Of {len(rows)} bundles of whole networks, {len(differ) - len(far)} give the network's answers in"
        f" every mode of float32 on both engines, to {TOLERANCE:.0e} of the largest output{_but(far)}."
        f" {len(sizes) - len(large)} are at most {LARGEST:.2f} times as large as the network's plain"
        f" weights{_but(large)}."
    )


def _but(others: Mapping[str, str]) -> str:
    return (
        f" (not {', '.join(f'{name}: {each}' for name, each in others.items())})" if others else ""
    )


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['network']}, {' x '.join(row['methods'].split('+'))}"


def _commits(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say at which commits rows were made, and how many at each where there are several."""
    counts = Counter(str(row["at"]) for row in rows)
    if len(counts) == 1:
        return f"commit {next(iter(counts))}"
    return "commits " + ", ".join(f"{at} ({count} rows)" for at, count in counts.items())


def _moved(row: Mapping[str, Any]) -> Sequence[float | None]:
    return row.get("moved", (None, None))


def _line(row: Mapping[str, Any]) -> str:
    exact = [*(row["differences"][name] for name in ENGINES), _moved(row)[0]]
    rounded = [*(row["differences_8_bit"][name] for name in ENGINES), _moved(row)[1]]
    cells = [
        row["network"], " x ".join(row["methods"].split("+")), str(row["modes"]),
        f"{row['file_bytes'] / row['plain_bytes']:.3f}",
        *("-" if each is None else f"{each:.1e}" for each in exact),
        *("-" if each is None else f"{each:.1%}" for each in rounded),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
