"""Networks that give back more than one tensor: all of it converts, exports and saves, with its names."""

import dataclasses
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import wenable as we
from wenable.exporting.int8 import export_int8
from wenable.modules.outputs import named_leaves, tensors_of
from wenable.runtime.bundle import Bundle
from wenable.runtime.session import Session

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


class Pair(NamedTuple):
    low: torch.Tensor
    high: torch.Tensor


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    hidden: Any = None


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dict whose values are attributes too, and None is left out."""


class Gives(nn.Module):
    """A network with two heads, whose answers a function wraps."""

    def __init__(self, wrap) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.a, self.b = nn.Linear(16, 4), nn.Linear(16, 2)
        self.wrap = wrap

    def forward(self, x):
        h = self.trunk(x)
        return self.wrap(self.a(h), self.b(h))


WRAPPED = [
    (lambda a, b: (a, b), None),
    (lambda a, b: [a, None, b], None),
    (lambda a, b: {"logits": a, "boxes": b}, ["logits", "boxes"]),
    (lambda a, b: ModelOutput(logits=a, state=(b, a)), ["logits", "state.0", "state.1"]),
    (lambda a, b: Answer(a, hidden=[b, {"low": b[:, :1]}]), ["logits", "hidden.0", "hidden.1.low"]),
    (lambda a, b: Pair(a, b), ["low", "high"]),
    (lambda a, b: {"x": a, "relu": b, "again": a}, ["x_out", "relu", "again"]),  # `x` is the input
    (lambda a, b: [{"boxes": a}, {"boxes": b}], ["0.boxes", "1.boxes"]),
    (lambda a, b: OrderedDict(only=a), ["only"]),
]


@pytest.mark.parametrize(("wrap", "names"), WRAPPED)
def test_all_outputs_export_with_their_names(wrap, names, tmp_path: Path):
    model = Gives(wrap).eval()
    net = we.convert(model, X, method=we.WeightEnabling(groups=(1, 2)))
    assert type(net(X)) is type(model(X))
    session = Session(we.export(net, ["1", "1/2"], tmp_path / "net.wen"), engine="onnxruntime")
    if names is not None:
        assert [each.name for each in session.bundle.graph_of(0).outputs] == names
    for mode in ("1", "1/2"):
        net.set_mode(mode)
        expected = [each.detach().numpy() for _, each in named_leaves(net(X))]
        found = session.run(X.numpy(), mode=mode)
        if names is not None:
            wanted = [name.removesuffix("_out") for name in names]
            assert list(found) == wanted
            found = tuple(found.values())
        found = found if isinstance(found, tuple) else (found,)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        for one, other in zip(tensors_of(we.extract(net, mode)(X)), expected, strict=True):
            np.testing.assert_allclose(one.detach().numpy(), other, atol=1e-5)
    loaded = we.load(we.save(net, tmp_path / "net.safetensors"), Gives(wrap))
    assert all(map(torch.equal, tensors_of(loaded(X)), tensors_of(model(X))))


@pytest.mark.parametrize("wrap", [WRAPPED[3][0], WRAPPED[6][0]])
def test_a_change_to_one_output_is_noticed(wrap, tmp_path: Path):
    """The checks look into what outputs are wrapped in: a dataclass is no leaf to pass over."""
    net = we.convert(Gives(wrap), X)
    path = we.save(net, tmp_path / "net.safetensors")
    other = Gives(lambda a, b: wrap(a, -b))
    with pytest.raises(ValueError, match="made for another architecture"):
        we.load(path, other)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda a, b: {"logits": a, "scale": 2.0}, "gives back a float at 'scale'; a bundle holds"),
        (lambda a, b: (a, "text"), "gives back a str at '1'; a bundle holds tensors only"),
        (lambda a, b: Answer(a, hidden=[3]), "gives back a int at 'hidden.0'"),
        (lambda a, b: (a, object()), "gives back a object at '1'"),
    ],
)
def test_other_outputs_are_refused_before_any_work(wrap, message: str, tmp_path: Path, monkeypatch):
    net = we.convert(Gives(wrap), X)
    monkeypatch.setattr("wenable.exporting.mode_graphs.bundle_graph", None)
    monkeypatch.setattr("wenable.exporting.plain_networks.extract", None)
    with pytest.raises(ValueError, match=message) as caught:
        we.export(net, ["1"], tmp_path / "net.wen")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the network gives back"):
        we.export_executorch(net, ["1"], tmp_path / "net.pte")
    assert not list(tmp_path.iterdir())


def test_a_network_without_a_tensor_in_its_outputs_is_not_converted():
    with pytest.raises(
        ValueError, match=r"\(=Gives\) gives back no tensor for this `example_input`"
    ):
        we.convert(Gives(lambda a, b: None), X)


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda a, b: a, ["output"]),
        (lambda a, b: {"logits": a, "boxes": b}, ["logits", "boxes"]),
        (lambda a, b: Answer(a, hidden=b), ["logits", "hidden"]),
    ],
)
def test_int8_models_name_their_outputs(wrap, names, tmp_path: Path):
    net = we.convert(Gives(wrap), X, method=we.SwitchablePrecision(bits=(32, 8)))
    we.calibrate(net, "8-bit", [torch.randn(64, 8)])
    path = export_int8(net, "8-bit", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert [each.name for each in session.get_outputs()] == names
    net.set_mode("8-bit")
    for one, other in zip(session.run(None, {"input": X.numpy()}), tensors_of(net(X)), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_only_float32_is_exported(dtype, tmp_path: Path):
    net = we.convert(Gives(lambda a, b: a).to(dtype), X.to(dtype))
    with pytest.raises(ValueError, match=r"holds 'trunk.0.weight' in .*float.*\.float\(\)"):
        we.export(net, ["1"], tmp_path / "net.wen")
    assert Bundle(we.export(net.float(), ["1"], tmp_path / "net.wen")).modes


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **settings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Linear(8, 16)
        self.rows = kind(16, 16, batch_first=True, **settings)
        self.after = nn.Linear(32 if settings.get("bidirectional") else 16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.relu(self.after(self.rows(torch.relu(self.before(x)))[0])))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("settings", [{}, {"bidirectional": True}])
def test_recurrent_layers_export(kind, settings, tmp_path: Path):
    x = torch.randn(3, 5, 8)
    net = we.convert(Recurrent(kind, **settings).eval(), x)
    session = Session(we.export(net, ["1", "1/4"], tmp_path / "net.wen"), engine="onnxruntime")
    for mode in ("1", "1/4"):
        net.set_mode(mode)
        found = session.run(x.numpy(), mode=mode)
        np.testing.assert_allclose(found, net(x).detach().numpy(), atol=1e-5)


class Settings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x, mask=None, scale=1.0, y=None):
        x = self.parts(x) * scale
        x = x if mask is None else x * mask
        return x if y is None else x + y


@pytest.mark.parametrize(
    ("rest", "names"), [((None,), ["x"]), ((None, 2.0, torch.randn(3, 4)), ["x", "y"])]
)
def test_inputs_that_are_no_tensors_are_fixed_in_a_bundle(rest, names, tmp_path: Path):
    net = we.convert(Settings(), (X, *rest))
    session = Session(we.export(net, ["1", "1/2"], tmp_path / "net.wen"), engine="onnxruntime")
    assert [each.name for each in session.bundle.inputs] == names
    tensors = [X, *(each for each in rest if isinstance(each, torch.Tensor))]
    given = tuple(each.numpy() for each in tensors)
    found = session.run(given if len(given) > 1 else given[0], mode="1/2")
    net.set_mode("1/2")
    np.testing.assert_allclose(found, net(X, *rest).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("method", [we.WeightEnabling(groups=(1, 2)), we.Slimmable()])
def test_a_head_that_is_run_for_nothing_is_no_obstacle(method, tmp_path: Path):
    net = we.convert(Gives(lambda a, b: a).eval(), X, method=method)
    for mode in ("full", "smallest"):
        net.set_mode(mode)
        assert torch.allclose(we.extract(net, mode)(X), net(X), atol=1e-6)
    if isinstance(method, we.WeightEnabling):
        session = Session(we.export(net, ["1/2"], tmp_path / "net.wen"), engine="onnxruntime")
        np.testing.assert_allclose(session.run(X.numpy()), net(X).detach().numpy(), atol=1e-5)
        assert "b" not in session.bundle.layers


def test_a_constant_that_an_exporter_made_of_the_example_is_noticed(tmp_path: Path, monkeypatch):
    """The check runs on other numbers than those that were traced."""
    from wenable.exporting import mode_graphs, tracing

    def baked(net, outputs, mode, sides=None):
        graph, tensors = tracing.bundle_graph(net, outputs, mode, sides)
        plain = tracing.plain_for_export(net, "full")
        answers = plain(tracing.tensor_inputs(net)[0]).detach()
        last = graph.nodes[-1]
        # The answers for the example, and nothing of the input but its batch.
        rest = [
            dataclasses.replace(
                last, op=op, inputs=inputs, outputs=outputs, attributes=attributes, layer=""
            )
            for op, inputs, outputs, attributes in (
                ("Mul", (graph.inputs[0].name, "zero"), ("zeros",), {}),
                ("ReduceSum", ("zeros", "axis"), ("column",), {"keepdims": 1}),
                ("Add", ("column", "answers"), (graph.outputs[0].name,), {}),
            )
        ]
        tensors |= {
            "zero": np.zeros((), np.float32),
            "axis": np.array([1]),
            "answers": answers.numpy(),
        }
        nodes = [*graph.nodes[:-1], dataclasses.replace(last, outputs=("unread",)), *rest]
        return dataclasses.replace(graph, nodes=tuple(nodes)), tensors

    net = we.convert(Gives(lambda a, b: a).eval(), X)
    monkeypatch.setattr(mode_graphs, "bundle_graph", baked)
    with pytest.raises(RuntimeError, match="differs on onnxruntime from the extracted network"):
        we.export(net, ["1"], tmp_path / "net.wen")
