"""Extracted networks are of operations that every exporter knows."""

import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import wenable as we
from tests.helpers.networks import Dense, Tokens, converted, small_resnet

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))

CASES = [
    (small_resnet, we.WeightEnabling(groups=(1, 2, 4), shuffle="all"), "1/4"),
    (Tokens, we.WeightEnabling(shuffle="all", classifier=True, groups=(1, 2, 4)), "1/4"),
    (Dense, we.WeightEnabling(shuffle="all"), "1/2"),
    (small_resnet, we.Slimmable(), "0.25"),
    (small_resnet, we.EarlyExits(("block1",)), "block1"),
    (small_resnet, we.SwitchablePrecision(), "8-bit"),
]


def classic(plain: nn.Module) -> np.ndarray:
    """torch's first ONNX exporter, which many tools still call."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            plain,
            (X,),
            file,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}},
        )
    return onnxruntime.InferenceSession(file.getvalue()).run(None, {"x": X.numpy()})[0]


def with_dynamo(plain: nn.Module) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(plain, (X,), dynamo=True, verbose=False)
        content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content)
    return session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]


def traced(plain: nn.Module) -> np.ndarray:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(plain, X[:1]), file)
        file.seek(0)
        return torch.jit.load(file)(X).detach().numpy()


def exported(plain: nn.Module) -> np.ndarray:
    return torch.export.export(plain, (X,)).module()(X).detach().numpy()


@pytest.mark.parametrize("export", [classic, with_dynamo, traced, exported])
@pytest.mark.parametrize(("make", "method", "mode"), CASES)
def test_extracted_networks_export_everywhere(make, method, mode, export):
    net = we.convert(make(), X, method=method).eval()
    we.calibrate(net, mode, [torch.randn(32, 3, 6, 6)])
    with torch.no_grad(), net.using(mode):
        expected = net(X).numpy()
    with torch.no_grad():
        found = export(we.extract(net, mode).eval())
    np.testing.assert_allclose(found, expected, atol=2e-3 if "bit" in mode else 1e-5)


def test_no_layer_of_an_extracted_network_is_an_operation_of_its_own():
    net = converted(groups=(1, 2, 4), shuffle="all")
    we.calibrate(net, "1/4", [torch.randn(8, 3, 6, 6)])
    plain = we.extract(net, "1/4")
    assert not [each for each in plain.modules() if isinstance(each, nn.ChannelShuffle)]
