"""`wenable doctor`: what was found on this machine, and how to get what was not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.text import Text

from wenable.cli.terminal import consoles, counted, plain_table, print_json
from wenable.measure.device import conditions, processor, usable_cores
from wenable.measure.meters.registry import available_meters
from wenable.runtime.engine import EngineError
from wenable.runtime.engines import ENGINES, how_to_install, is_installed, open_engine
from wenable.runtime.telemetry import telemetry_words
from wenable.version import __version__

_TRAIN = "pip install 'wenable[train]'"
_PACKAGES = ("torch", "torchvision", "timm", "scikit-learn", "scipy", "matplotlib", "onnx")
_OPTIONAL = {
    "executorch": "writes .pte files: pip install 'wenable[executorch]'",
    "optuna": "the strategy nsga2 of explore: pip install 'wenable[search]'",
}
_NVIDIA = Path("/proc/driver/nvidia/gpus")

Finding = tuple[str, bool, str]
"""What was looked for, whether it was found, and what it is or how to get it."""


def run_doctor(as_json: bool) -> None:
    """Print each thing, whether it was found, and what to do where it was not."""
    console, _ = consoles(as_json)
    findings: list[Finding] = [
        ("wenable", True, __version__),
        ("python", True, platform.python_version()),
        ("processor", True, f"{processor()}, {counted(usable_cores(), 'core')} usable"),
        *((name, each.value is not None, each.value or each.reason) for name, each in conditions().items()),
        *(engine_finding(name) for name in ENGINES),
        *(_package(name, f"needed to convert and train: {_TRAIN}") for name in _PACKAGES),
        *(_package(name, otherwise) for name, otherwise in _OPTIONAL.items()),
        *_torch_devices(),
        *((f"energy: {each.name}", each.ok, each.why) for each in available_meters()),
    ]  # fmt: skip
    if as_json:
        print_json(
            [{"what": what, "found": found, "detail": text} for what, found, text in findings]
        )
        return
    table = plain_table()
    for header in ("", "what", "detail"):
        # A version that is cut off could not be reported: it goes on in the next line.
        table.add_column(header, overflow="fold")
    for what, found, text in findings:
        table.add_row(Text("yes", "green") if found else Text("no", "yellow"), what, text)
    console.print(table)


def engine_finding(name: str) -> Finding:
    """Return whether an engine can be opened here, which is more than that it is installed."""
    what = f"engine: {name}"
    try:
        engine = open_engine(name)
    except EngineError as error:
        if is_installed(name):
            return what, False, f"installed, and cannot be opened: {error}"
        return what, False, f"not installed; runs bundles: {how_to_install(name)}"
    except Exception as error:  # a library that is missing on this system, or a wrong version of it
        return what, False, f"installed, and cannot be opened: {str(error) or type(error).__name__}"
    if name == "native":
        running = counted(engine.threads, "thread")
        return what, True, f"our own kernels {engine.version}, with up to {running}"
    return (
        what,
        True,
        f"{engine.version}, on the processor with up to {counted(engine.threads, 'thread')};"
        f" {telemetry_words(name)}",
    )


def _package(name: str, otherwise: str) -> Finding:
    try:
        return name, True, version(name)
    except PackageNotFoundError:
        return name, False, otherwise


def _torch_devices() -> list[Finding]:
    try:
        import torch
    except ImportError:
        return [("torch threads", False, f"torch is absent: {_TRAIN}"), ("gpu", False, gpu_words())]
    found: list[Finding] = [("torch threads", True, str(torch.get_num_threads()))]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return [*found, ("gpu", True, ", ".join(names))]
    built = torch.version.cuda or torch.version.hip
    which = f"torch {torch.__version__}, built for {built or 'no GPU'}"
    return [*found, ("gpu", False, gpu_words(which))]


def gpu_words(torch_words: str = "no torch", driver: Path = _NVIDIA) -> str:
    """Return why no GPU is used: there is none, or there is one that torch cannot use.

    - `torch_words`: which torch looked; `driver`: where NVIDIA's driver shows its GPUs.
    """
    cards = len(list(driver.glob("*")))
    if cards:
        return f"NVIDIA's driver shows {cards}, which cannot be used ({torch_words})"
    return f"none was found ({torch_words}); everything runs on the processor"
