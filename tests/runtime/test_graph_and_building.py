"""A graph survives JSON and is written as the ONNX model it stands for; one that cannot be is refused."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import numpy_helper

from wenable.runtime.graph import CONVOLUTION, DTYPES, LINEAR, NORM, Graph, Node, TensorType
from wenable.runtime.onnx_writer import onnx_model

# What is written as ONNX, read by the onnx package

NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
WHOLE = st.integers(-(2**63), 2**63 - 1)
# No subnormal numbers: whether a thread has them depends on what ran in it before.
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
# Names that have a rule of their own for their values: graphs with those are written out below.
RULED = ("rank", "input", "pads", "strides", "dilations", "kernel_shape", "output_padding")
ATTRIBUTES = st.dictionaries(
    NAMES.filter(lambda name: name not in RULED),
    st.one_of(
        WHOLE,
        FLOATS,
        st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8),
        st.lists(WHOLE, min_size=1, max_size=4),
        st.lists(FLOATS, min_size=1, max_size=4),
    ),
    max_size=4,
)
SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
ARRAYS = st.sampled_from([np.dtype(each) for each in DTYPES]).flatmap(
    lambda dtype: npst.arrays(
        dtype, SHAPES, elements={"allow_subnormal": False} if dtype.kind == "f" else None
    )
)


def types(names: st.SearchStrategy[str] = NAMES) -> st.SearchStrategy[TensorType]:
    sizes = st.lists(st.one_of(st.none(), st.integers(1, 2**31 - 1)), max_size=4).map(tuple)
    return st.builds(TensorType, names, st.sampled_from(DTYPES), sizes)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    inputs = draw(st.lists(types(), min_size=1, max_size=2, unique_by=lambda each: each.name))
    made = [each.name for each in inputs]
    names = draw(st.lists(NAMES.filter(lambda each: each not in made), unique=True, max_size=9))
    stored = [f"{name} " for name in names]  # no name that is made ends so
    nodes = []
    for name in names or ["the only one"]:
        op = draw(st.sampled_from(["Add", "Conv", "Relu", NORM, LINEAR, CONVOLUTION]))
        attributes, layer = draw(ATTRIBUTES), ""
        count = {NORM: 1, LINEAR: 2, CONVOLUTION: 3}.get(op) or draw(st.integers(0, 3))
        read = [draw(st.sampled_from([*made, *stored])) for _ in range(count)]
        if op in (NORM, LINEAR, CONVOLUTION):
            layer = draw(NAMES)
            attributes |= {"rank": 4} if op == NORM else {"input": [3, 4]}
        nodes.append(Node(op, tuple(read), (name,), attributes, layer))
        made.append(name)
    wanted = draw(st.lists(st.sampled_from(made), min_size=1, max_size=2, unique=True))
    outputs = tuple(draw(types(st.just(name))) for name in wanted)
    return Graph(tuple(inputs), outputs, tuple(nodes), draw(st.integers(13, 40)))


@given(graphs(), st.dictionaries(NAMES, ARRAYS, max_size=4))
@settings(max_examples=150)
def test_what_is_written_is_what_onnx_reads(graph: Graph, tensors: dict[str, np.ndarray]):
    content = onnx_model(graph.inputs, graph.outputs, graph.nodes, tensors, graph.opset)
    model = onnx.load_from_string(content)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", graph.opset)]
    copied = _without_copies(model.graph)
    added = {name for node in graph.nodes if node.op == "Add" for name in node.inputs}
    made = {node.outputs[0] for node in graph.nodes}
    assert copied == {each.name for each in graph.outputs} & added & made
    assert [
        (each.op_type, tuple(each.input), tuple(each.output), _attributes(each), each.domain)
        for each in model.graph.node
    ] == [(node.op, node.inputs, node.outputs, _exact(node.attributes), "") for node in graph.nodes]
    assert [_type(each) for each in model.graph.input] == [*map(_expected_type, graph.inputs)]
    assert [_type(each) for each in model.graph.output] == [*map(_expected_type, graph.outputs)]
    assert [each.name for each in model.graph.initializer] == list(tensors)
    for each in model.graph.initializer:
        found, given_array = numpy_helper.to_array(each), tensors[each.name]
        assert (found.dtype, found.shape) == (given_array.dtype, given_array.shape)
        assert found.tobytes() == given_array.tobytes()
    assert onnx.load_from_string(model.SerializeToString()) == model


def _without_copies(graph: Any) -> set[str]:
    """Take out the copies of outputs, and return which outputs have one; the graph is changed."""
    copies = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Identity"}
    for node in list(graph.node):
        if node.op_type == "Identity":
            graph.node.remove(node)
        node.input[:] = [copies.get(name, name) for name in node.input]
        node.output[:] = [copies.get(name, name) for name in node.output]
    return set(copies.values())


def _attributes(node: Any) -> dict[str, Any]:
    found = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return {
        name: (type(value).__name__, value)
        if not isinstance(value, bytes)
        else ("str", value.decode())
        for name, value in found.items()
    }


def _exact(attributes: Any) -> dict[str, Any]:
    return {name: (type(value).__name__, value) for name, value in attributes.items()}


def _type(value: Any) -> tuple[str, str, list[Any]]:
    kind = value.type.tensor_type
    sizes = [(each.WhichOneof("value"), each.dim_value) for each in kind.shape.dim]
    return value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), sizes


def _expected_type(each: TensorType) -> tuple[str, str, list[Any]]:
    sizes = [
        ("dim_value", size) if size is not None else (None if place else "dim_param", 0)
        for place, size in enumerate(each.shape)
    ]
    return each.name, each.dtype, sizes


def test_types_that_onnx_has_and_the_writer_has_not_are_refused():
    x = TensorType("x", "complex64", (None,))
    with pytest.raises(
        ValueError, match=r"`dtype` \(='complex64'\) is unknown; allowed: float32, "
    ):
        onnx_model([x], [x], [], {}, 20)
    with pytest.raises(ValueError, match=r"`dtype` \(='<U1'\) is unknown"):
        onnx_model([], [], [], {"x": np.array(["a"])}, 20)


# Graphs as JSON


@given(graphs())
@settings(max_examples=150)
def test_graphs_survive_json(graph: Graph):
    read = Graph.from_json(json.loads(json.dumps(graph.to_json())))
    assert read == graph
    assert read.to_json() == graph.to_json()
    assert read.tensors_read() == graph.tensors_read()


def small() -> dict[str, Any]:
    x, y = ({"name": name, "dtype": "float32", "shape": [None, 4]} for name in "xy")
    nodes = [
        {"op": "Relu", "inputs": ["x"], "outputs": ["a"]},
        {"op": "Add", "inputs": ["a", "weight"], "outputs": ["y"]},
    ]
    return {"inputs": [x], "outputs": [y], "opset": 20, "nodes": nodes}


def test_graphs_tell_which_tensors_they_read():
    assert Graph.from_json(small()).tensors_read() == {"weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["nodes"].reverse(), "the graph uses 'a' before it is made"),
        (lambda g: g["nodes"][1]["inputs"].append("y"), "the graph uses 'y' before it is made"),
        (lambda g: g["nodes"][1].update(outputs=["y", "a"]), "the graph makes 'a' twice"),
        (lambda g: g["nodes"][0].update(outputs=["a", "a"]), "the graph makes 'a' twice"),
        (
            lambda g: g["nodes"][0].update(outputs=["x"]),
            "the graph makes 'x' twice|before it is made",
        ),
        (lambda g: g["outputs"][0].update(name="z"), "the graph does not make its output 'z'"),
        (lambda g: g["outputs"].append(g["outputs"][0]), "an output of the same name twice"),
        (lambda g: g.pop("nodes"), "damaged: it lacks 'nodes'"),
        (lambda g: g["nodes"][0].pop("op"), "damaged: it lacks 'op'"),
        (lambda g: g["nodes"][0].update(op="a.b"), "'a.b' is no operation"),
        (lambda g: g["nodes"][0].update(attributes={"x": [1, 0.5]}), "the attribute 'x'"),
        (lambda g: g["nodes"][0].update(attributes={"x": True}), "the attribute 'x'"),
        (lambda g: g["nodes"][0].update(op=NORM), r"`rank` \(=None\) of '' must be from 2 to 8"),
        (
            lambda g: g["nodes"][1].update(op=LINEAR, layer="fc"),
            r"`input` \(=None\) of 'fc' must be 1 to 7 sizes",
        ),
    ],
)
def test_graphs_that_cannot_be_are_refused(change: Any, message: str):
    values = small()
    change(values)
    with pytest.raises(ValueError, match=message):
        Graph.from_json(values)


@pytest.mark.parametrize("values", [None, 1, "x", [], {}, {"inputs": []}])
def test_what_is_no_graph_is_refused(values: Any):
    with pytest.raises(ValueError, match="the graph is damaged"):
        Graph.from_json(values)
