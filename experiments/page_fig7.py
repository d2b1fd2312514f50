"""Figure 7 on the page: time of one image against the size of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.page_parts import Claim, made_by, table

_GPU = "not decided: no such device at hand"


def section(results: Mapping[str, Any]) -> str:
    """Return the section of one scale."""
    batches = results["batches"]
    lines = [
        f"`{results['network']}`, **not trained**: time depends on a mode's structure. Milliseconds for an"
        " image: the time of a batch over its size; medians of one run for each device.",
        "",
        made_by(results),
        "",
        f"![time of one image against the size of the batch](reproduction/fig7-{results['scale']}.svg)",
        "",
    ]
    header = ["device", "mode", "MACs", *(f"batch {n}" for n in batches)]
    uniform = [mode for mode, origin in results["along"].items() if origin == "uniform"]
    times = _times(results)
    rows = [
        [device, mode, f"{results['macs'][mode] / 1e6:.2f} M"]
        + [f"{times[device, mode, n]:.3f}" for n in batches]
        for device in dict.fromkeys(row["device"] for row in results["rows"])
        for mode in uniform
    ]
    others = len(results["along"]) - len(uniform)
    lines += table(header, rows, left=2)
    if others:
        lines += ["", f"{others} modes along the front of the knapsack search are in the picture."]
    return "\n".join([*lines, "", _energy(results)])


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """Return the three statements of section IV-E beside our figures of one scale."""
    times, scale = _times(results), results["scale"]
    uniform = [mode for mode, origin in results["along"].items() if origin == "uniform"]
    full, smallest = uniform[0], uniform[-1]
    first, last = results["batches"][0], results["batches"][-1]
    found = []
    devices = list(dict.fromkeys(row["device"] for row in results["rows"]))
    if not any(device.endswith("GPU") for device in devices):
        found += [
            Claim("Figure 7", "fast GPU: disabling weights saves no time at batch 1; larger batches do",
                  "said of a Tesla P40", "not measured", scale, _GPU),
            Claim("Figure 7", "slow GPU: the batch changes little, disabling weights saves a lot",
                  "said of a Tegra X1", "not measured", scale, _GPU),
        ]  # fmt: skip
    for device in devices:
        of_mode = times[device, full, first] / times[device, smallest, first]
        of_batch = times[device, full, first] / times[device, full, last]
        words = (
            f"{full} takes {of_mode:.2f}x the time of {smallest} at batch {first}, and batches of {last}"
            f" make an image of {full} {of_batch:.2f}x as fast"
        )
        if device.endswith("GPU"):
            what, paper = "a GPU gains by batches, less by disabling weights", "said of a Tesla P40"
            holds = "yes" if of_batch > of_mode else "no"
        else:
            what, paper = "a processor gains by disabling weights", "said of a Xeon E5-2680"
            holds = "yes" if of_mode > 1.05 else f"no: {smallest} is slower"
            if 0.95 <= of_mode <= 1.05:
                holds = "no: within a twentieth"
        found.append(Claim("Figure 7", f"{what}: {device}", paper, words, scale, holds))
    return found


def _times(results: Mapping[str, Any]) -> dict[tuple[str, str, int], float]:
    return {
        (row["device"], row["mode"], row["batch"]): row["latency"]["value"]
        for row in results["rows"]
    }


def _energy(results: Mapping[str, Any]) -> str:
    missing = [row["energy"] for row in results["rows"] if row["energy"]["value"] is None]
    if len(missing) == len(results["rows"]):
        return f"Energy was not measured: {missing[0]['reason']}."
    return "Energy is in the JSON beside each time."
