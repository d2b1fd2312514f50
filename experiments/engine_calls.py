"""Plain networks and modes of a bundle as calls of one engine, so that both are timed alike."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

import wenable as we
from wenable.measure.device import describe_device
from wenable.network.dynamic_network import DynamicNetwork, UncalibratedWarning
from wenable.runtime import Bundle, DeviceProfile, Session
from wenable.runtime.engine import Engine


def onnx_of(plain: nn.Module, x: torch.Tensor) -> bytes:
    """Return a network as an ONNX model for inputs as `x`, called `input`; answers are `output`.

    By torch's older exporter, whose models the engines run as well as the newer one's: a comparison
    exports a hundred networks, and it takes a fiftieth of the time. It folds batch norms into the
    layers before them, as a bundle's session does.
    """
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # that it is the older one
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            plain, (x,), path, dynamo=False, input_names=["input"], output_names=["output"]
        )
        return path.read_bytes()


def plain_call(plain: nn.Module, x: torch.Tensor, engine: Engine) -> Callable[[], object]:
    """Return a call of a network's plain export on an engine, for the inputs `x`."""
    return partial(engine.prepare(onnx_of(plain, x)), {"input": x.numpy()})


def bundle_of(net: DynamicNetwork, modes: Sequence[str], folder: str) -> Path:
    """Write the bundle whose modes `mode_calls` runs, and return where it is."""
    with quiet():
        return we.export(net, modes, Path(folder) / "net.wen")


def mode_calls(bundle: Path, x: torch.Tensor, engine: Engine) -> dict[str, Callable[[], object]]:
    """Return a call of each mode as a bundle's session lowers it without a profile, by its text.

    The models are run as those of plain exports are: a session's checks of its input are left out.
    """
    words = f"{engine.name} {engine.version}"
    empty = DeviceProfile(Bundle(bundle).structure, describe_device(), words, engine.threads)
    session = Session(bundle, engine=engine.name, threads=engine.threads, profile=empty)
    name = session.bundle.inputs[0].name
    return {
        mode: partial(engine.prepare(session.model(number)), {name: x.numpy()})
        for number, mode in enumerate(session.modes)
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the warning that a mode is uncalibrated, where only its time is of interest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncalibratedWarning)
        yield
