"""A trace that is remembered is the very trace that torch would make, with the numbers of the network."""

from types import SimpleNamespace
from typing import Any

import torch
from onnx import helper, numpy_helper
from torch import nn

import wenable as we
from tests.helpers.methods import converted_by
from tests.helpers.networks import small_resnet
from tests.helpers.remembered_traces import Memory

SETTINGS = {
    "dynamo": True, "optimize": False, "verbose": False, "input_names": ["x"], "dynamic_shapes": ((),)
}  # fmt: skip


def test_the_bundle_is_that_of_a_new_trace_to_the_byte(tmp_path, monkeypatch):
    """Of an early exit, whose network is a graph with a class of its own."""
    we.export(converted_by("exits"), ["block1"], tmp_path / "first.wen")
    torch.manual_seed(3)
    net = converted_by("exits", small_resnet())
    remembered = we.export(net, ["block1"], tmp_path / "remembered.wen")
    assert isinstance(torch.onnx.export, Memory)
    monkeypatch.setattr(torch.onnx, "export", torch.onnx.export.really)
    traced = we.export(net, ["block1"], tmp_path / "traced.wen")
    assert remembered.read_bytes() == traced.read_bytes()
    assert remembered.read_bytes() != (tmp_path / "first.wen").read_bytes()


class OfATest(nn.Conv2d):
    """A class that is none of the known packages'."""


class Counted:
    """In the place of torch's exporter: a model of nothing but the network's numbers."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, *_: Any, **__: Any) -> Any:
        self.calls += 1
        numbers = [numpy_helper.from_array(t.numpy(), k) for k, t in model.state_dict().items()]
        graph = helper.make_graph([], "graph", [], [], numbers)
        return SimpleNamespace(model_proto=helper.make_model(graph))


def weight_of(found: Any) -> torch.Tensor:
    weights = {each.name: each for each in found.model_proto.graph.initializer}
    return torch.from_numpy(numpy_helper.to_array(weights["weight"]).copy())


def test_only_a_network_of_the_same_structure_is_answered_from_memory():
    really = Counted()
    memory, x = Memory(really), (torch.zeros(2, 3, 6, 6),)
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    for number, layer in enumerate((first, second, first)):
        found = memory(layer, x, **SETTINGS)
        assert torch.equal(weight_of(found), layer.weight), number
    assert really.calls == 1
    found.model_proto.graph.Clear()  # what is given out is nobody else's
    assert torch.equal(weight_of(memory(first, x, **SETTINGS)), first.weight)
    others = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Conv2d(3, 4, 3).eval(),
    ]
    for count, layer in enumerate(others, 2):
        memory(layer, x, **SETTINGS)
        assert really.calls == count
    memory(first, (torch.zeros(2, 3, 8, 6),), **SETTINGS)
    memory(first, x, **{**SETTINGS, "input_names": ["y"]})
    memory(first, x, **SETTINGS, output_names=["y"])
    memory(first, x, **SETTINGS, opset_version=18)
    assert really.calls == 8


def test_a_network_of_other_code_is_traced_each_time():
    really = Counted()
    memory, x = Memory(really), (torch.zeros(2, 3, 6, 6),)
    hooked = nn.Conv2d(3, 4, 3)
    hooked.register_forward_hook(lambda *_: None)
    for layer in (OfATest(3, 4, 3), hooked):
        before = really.calls
        for _ in range(2):
            memory(layer, x, **SETTINGS)
        assert really.calls == before + 2
