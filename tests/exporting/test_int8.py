"""A mode of 8 bits as a file of integers: what it holds, how engines run it, and when it is not written."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import IMAGES, small_resnet
from tests.helpers.rounded_integers import weight_integers
from wenable.exporting import int8, int8_check
from wenable.exporting.int8 import export_int8
from wenable.methods import SwitchablePrecision


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BATCHES = [drawn(seed, 32, *IMAGES[1:]) for seed in (1, 2)]


def converted(model: nn.Module | None = None, **settings) -> we.DynamicNetwork:
    model = small_resnet() if model is None else model
    return we.convert(model, drawn(0, *IMAGES), method=SwitchablePrecision(**settings))


def sessions(path: Path, folder: Path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(folder / "optimized.onnx")
    return session, Counter(node.op_type for node in optimized.graph.node)


@pytest.mark.parametrize("settings", [{}, {"first_and_last": True}, {"tie": "none"}])
def test_int8_modes_run_on_onnxruntime_as_simulated(tmp_path: Path, settings):
    net = converted(**settings)
    we.calibrate(net, "8-bit", BATCHES)
    path = export_int8(net, "8-bit", tmp_path / "net.int8.onnx")
    session, operators = sessions(path, tmp_path)
    assert operators["QLinearConv"] >= 4  # the layers whose output is quantised again
    x = torch.randn(5, *IMAGES[1:])
    with net.using("8-bit"), torch.no_grad():
        expected = net(x).numpy()
    found = session.run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_the_files_integers_are_those_of_numpy(tmp_path: Path):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 4), nn.Flatten()
    ).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-2, 1.5, 8))  # scales of both signs, folded in
        model[1].bias.copy_(torch.linspace(1, -1, 8))
    net = converted(model, first_and_last=True)
    we.calibrate(net, "8-bit", BATCHES)
    path = export_int8(net, "8-bit", tmp_path / "net.int8.onnx")
    stored = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in onnx.load(path).graph.initializer
        if each.name.endswith("integers")
    }
    expected, _ = weight_integers(model[0].weight.detach().numpy(), 8)
    signs = np.sign(model[1].weight.detach().numpy())[:, None, None, None]
    assert np.array_equal(stored["0.integers"], expected * signs)
    assert stored["0.integers"].dtype == np.int8
    session, operators = sessions(path, tmp_path)
    assert operators["QLinearConv"] == 1
    x = torch.randn(5, *IMAGES[1:])
    with net.using("8-bit"), torch.no_grad():
        expected = net(x).numpy()
    found = session.run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_a_relu6_between_layers_keeps_them_integers(tmp_path: Path):
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Conv2d(8, 5, 2)]
    net = converted(nn.Sequential(*layers, nn.Flatten()).eval(), first_and_last=True)
    we.calibrate(net, "8-bit", BATCHES)
    _, operators = sessions(export_int8(net, "8-bit", tmp_path / "net.int8.onnx"), tmp_path)
    assert operators["QLinearConv"] == 2
    assert operators["Clip"] == 0


def test_a_file_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch):
    net = converted()
    we.calibrate(net, "8-bit", BATCHES)
    monkeypatch.setattr(
        int8, "_folded", lambda integers, scale, bias, norm: (integers, scale, bias)
    )
    with pytest.raises(RuntimeError, match=r"the layer '.*' differs in the file"):
        export_int8(net, "8-bit", tmp_path / "net.int8.onnx")
    monkeypatch.setattr(int8_check, "LAYER_TOLERANCE", math.inf)
    with pytest.raises(RuntimeError, match="answers differ from the simulated ones by"):
        export_int8(net, "8-bit", tmp_path / "net.int8.onnx")
    assert not list(tmp_path.iterdir())


def test_one_wrong_layer_of_a_deep_network_is_found(tmp_path: Path, monkeypatch):
    """The answers of a deep network with random weights move too far to tell; its layers do not."""
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        for _ in range(16)
    ]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(8, 5)).eval()  # fmt: skip
    net = converted(model, first_and_last=True)
    we.calibrate(net, "8-bit", BATCHES)
    export_int8(net, "8-bit", tmp_path / "good.onnx")
    right = int8.IntegerLayer.__init__
    made = []

    def wrong(self, *arguments):
        right(self, *arguments)
        made.append(self)
        if len(made) == 10:
            self.scale *= 1.05

    monkeypatch.setattr(int8.IntegerLayer, "__init__", wrong)
    with pytest.raises(RuntimeError, match=r"the layer '.*' differs in the file"):
        export_int8(net, "8-bit", tmp_path / "bad.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["good.onnx"]


def test_int8_files_need_a_layer_of_8_bits_and_one_input(tmp_path: Path):
    net = converted()
    we.calibrate(net, "4-bit", BATCHES)
    for mode in ("32-bit", "4-bit"):
        with pytest.raises(ValueError, match="has no layer of 8 bits"):
            export_int8(net, mode, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
