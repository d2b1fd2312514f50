"""`wenable doctor`: what was found on this machine, and how to get what was not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from rich.table import Table

from wenable.cli.terminal import consoles, print_json
from wenable.measure.device import processor, usable_cores
from wenable.measure.meters import available_meters
from wenable.version import __version__

_TRAIN = "pip install 'wenable[train]'"
_PACKAGES = ("torch", "torchvision", "timm", "scikit-learn", "scipy", "matplotlib", "onnx")
_ENGINES = ("onnxruntime", "openvino")


def run_doctor(as_json: bool) -> None:
    """Print each thing, whether it was found, and what to do where it was not."""
    console, _ = consoles(as_json)
    findings = [
        ("wenable", True, __version__),
        ("python", True, platform.python_version()),
        ("processor", True, f"{processor()}, {usable_cores()} cores usable"),
        *(_package(name, f"needed to convert and train: {_TRAIN}") for name in _PACKAGES),
        *(
            _package(name, f"an engine to run bundles on: pip install 'wenable[{name}]'")
            for name in _ENGINES
        ),
        *_torch_devices(),
        *((f"energy: {each.name}", each.ok, each.why) for each in available_meters()),
    ]
    if as_json:
        print_json(
            [{"what": what, "found": found, "detail": text} for what, found, text in findings]
        )
        return
    table = Table(header_style="bold")
    for header in ("", "what", "detail"):
        table.add_column(header)
    for what, found, text in findings:
        table.add_row("[green]yes[/green]" if found else "[yellow]no[/yellow]", what, text)
    console.print(table)


def _package(name: str, otherwise: str) -> tuple[str, bool, str]:
    try:
        return name, True, version(name)
    except PackageNotFoundError:
        return name, False, otherwise


def _torch_devices() -> list[tuple[str, bool, str]]:
    try:
        import torch
    except ImportError:
        return [("torch threads", False, f"torch is absent: {_TRAIN}")]
    found = [("torch threads", True, str(torch.get_num_threads()))]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return [*found, ("gpu", True, ", ".join(names))]
    return [*found, ("gpu", False, "torch sees no CUDA device; everything runs on the processor")]
