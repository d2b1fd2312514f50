"""`wenable inspect`: the space of a network, the cost of its uniform modes, what is left alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.text import Text

import wenable as we
from wenable.cli.opening import Wanted, one_of, open_network, open_saved
from wenable.cli.paying_words import left_out_line
from wenable.cli.terminal import (
    busy,
    consoles,
    mode_cells,
    modes_table,
    parse_groups,
    parse_size,
    plain_table,
    print_json,
)
from wenable.methods.plan import SwitchableLayer
from wenable.methods.weight_enabling import ShufflePlacement
from wenable.network.dynamic_network import DynamicNetwork
from wenable.network.image_sizes import maps_that_shrink, modes_of_sizes
from wenable.runtime.device_profile import DeviceProfile
from wenable.zoo import MadeFor, full_name


def run_inspect(
    name: str, model: str, size: str, groups: str, shuffle: str, classifier: bool,
    profile_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Print what can be switched in a network by name, or in one that wenable saved.

    - `model`: instead of `name`; or the function that builds the saved network, where it is the
      user's own.
    - `profile_path`: a device's profile; options that do not pay there are left out.
    """
    console, progress = consoles(as_json)
    profile = DeviceProfile.read(profile_path) if profile_path else None
    if Path(name).is_file():
        if profile is not None:
            raise ValueError(
                f"`--profile` (={profile_path}) is for networks by name; what {name} switches is settled"
            )
        if size:
            raise ValueError(f"`--input` (={size!r}) is for networks by name; {name} holds its own")
        with busy(progress, f"opening {name}"):
            net, shown = open_saved(Path(name), model), name
    else:
        name = one_of(name, model)
        method = we.WeightEnabling(
            parse_groups(groups), cast(ShufflePlacement, shuffle), classifier
        )
        with busy(progress, f"building and tracing {name}"):
            opened = open_network(name, Wanted())
            shape = parse_size(size) if size else default_size(opened.made_for)
            net = we.convert(
                opened.model.eval(), torch.zeros(1, *shape), method=method, profile=profile
            )
            shown = full_name(name)
    if as_json:
        print_json(describe(net))
        return
    inputs = ", ".join(
        "x".join(map(str, each["shape"][1:])) for each in net.example_to_json() if "shape" in each
    )
    words = (
        f", input {inputs}: {len(net.space.names)} knobs, {len(net.left_alone)} layers left alone,"
        f" {net.space.size:.3g} modes"
    )
    console.print(Text.assemble((shown, "bold"), words))
    if profile is not None:
        console.print(left_out_line(net, profile))
    _print_modes(console, net)
    _print_sizes(console, net)
    _print_layers(console, net)
    _print_left_alone(console, net)


def default_size(told: MadeFor | None) -> tuple[int, ...]:
    """Return the shape of one example that a network was made for, or 3x224x224."""
    return told.input_size if told is not None else (3, 224, 224)


def describe(net: DynamicNetwork) -> dict[str, Any]:
    """Return all that `inspect` shows, as plain values."""
    return {
        "modes_in_space": net.space.size,
        "macs_full": net.macs("full"),
        "macs_without_weights": products_without_weights(net),
        "uniform_modes": [
            {
                "mode": str(mode),
                "macs": net.macs(mode),
                "macs_share": net.macs(mode) / net.macs("full"),
                "parameters": net.parameter_count(mode),
            }
            for mode in net.space.uniform_modes()
        ],
        "layers": [
            {
                **asdict(layer),
                "shuffle": layer.shuffle
                and {**asdict(layer.shuffle), "is_identity": layer.shuffle.is_identity},
            }
            for layer in net.switchable_layers
        ],
        "left_alone": [asdict(each) for each in net.left_alone],
        "image_sizes": [
            {"mode": str(mode), "macs": net.macs(mode)} for mode in modes_of_sizes(net)
        ],
        "maps_that_shrink": list(maps_that_shrink(net)),
    }


def products_without_weights(net: DynamicNetwork) -> int:
    """Return the MACs of the full mode that no layer has: those of attention, say."""
    listed = (*net.switchable_layers, *net.left_alone)
    return net.macs("full") - sum(each.macs for each in listed)


def _print_modes(console: Console, net: DynamicNetwork) -> None:
    modes = net.space.uniform_modes()
    table = modes_table("uniform modes", modes)
    for header in ("MACs\n(M)", "share\nof full", "fewer", "parameters\n(M)"):
        table.add_column(header, justify="right", no_wrap=True)
    full = net.macs("full")
    for mode in modes:
        macs = net.macs(mode)
        table.add_row(
            *mode_cells(mode),
            f"{macs / 1e6:,.2f}",
            f"{100 * macs / full:.1f} %",
            f"{full / macs:.2f}x",
            f"{net.parameter_count(mode) / 1e6:,.3f}",
        )
    console.print(table)


def _print_sizes(console: Console, net: DynamicNetwork) -> None:
    modes = modes_of_sizes(net)
    if not modes or len(net.space.knobs) == 1:  # those are its uniform modes
        return
    sizes = ", ".join(f"{mode}: {net.macs(mode) / 1e6:,.2f} M" for mode in modes)
    shrink = maps_that_shrink(net)
    also = f"; outputs that shrink with the image: {', '.join(shrink)}" if shrink else ""
    console.print(f"MACs of the full mode at each image size: {sizes}{also}")


def _print_layers(console: Console, net: DynamicNetwork) -> None:
    table = plain_table("layers that switch")
    for header in ("layer", "kind", "in", "out", "MACs (M)", "finest", "input read"):
        right = header in ("in", "out", "MACs (M)")
        # A name that is cut off could not be typed back; figures are never broken.
        table.add_column(
            header.replace(" (", "\n("), justify="right" if right else "left", overflow="fold",
            no_wrap=header not in ("layer", "input read"), min_width=12 if header == "layer" else None,
        )  # fmt: skip
    for layer in net.switchable_layers:
        knob = net.space.knobs[net.space.position(layer.knob)]
        finest = knob.text(layer.options[-1])
        sizes = (str(layer.inputs), str(layer.outputs), f"{layer.macs / 1e6:,.2f}")
        table.add_row(layer.name, layer.kind, *sizes, finest, _reading_order(layer))
    console.print(table)


def _reading_order(layer: SwitchableLayer) -> str:
    if layer.shuffle is None:
        return "as it stands"
    if layer.shuffle.is_identity:
        return f"shuffle of {layer.shuffle.groups} over {layer.shuffle.channels}: the identity"
    return f"shuffled, {layer.shuffle.groups} x {layer.shuffle.channels // layer.shuffle.groups}"


def _print_left_alone(console: Console, net: DynamicNetwork) -> None:
    by_reason: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for each in net.left_alone:
        by_reason[each.reason].append((each.name, each.macs))
    table = plain_table("left alone")
    table.add_column("layers", overflow="fold", ratio=2)
    table.add_column("why", ratio=3)
    table.add_column("MACs of the\nfull mode", justify="right", no_wrap=True)
    for reason, layers in by_reason.items():
        names = ", ".join(name for name, _ in layers[:3])
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        share = 100 * sum(macs for _, macs in layers) / net.macs("full")
        table.add_row(names + more, reason, f"{share:.1f} %")
    without = products_without_weights(net)
    if without:
        share = f"{100 * without / net.macs('full'):.1f} %"
        table.add_row("-", "products of activations, as those of attention", share)
    if table.row_count:
        console.print(table)
