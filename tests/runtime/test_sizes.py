"""The sizes that are told of a graph are those that engines make, and what grows beyond is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

import wenable as we
from tests.helpers.mutations import bundle_of, parts_of
from tests.helpers.networks import Dense, Tokens, converted, small_resnet
from wenable.runtime.building import build_model, choose_each
from wenable.runtime.bundle import Bundle, BundleError
from wenable.runtime.graph import CONVOLUTION, LINEAR, NORM, Graph, Node, TensorType
from wenable.runtime.implementations import default_implementation
from wenable.runtime.session import Session
from wenable.runtime.shapes import _SAME, RULES, Operands, shapes_made
from wenable.runtime.sizes import _COMPUTE, MOST_VALUES, _computed, check_sizes, value_shapes

OPSET = 20


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def real(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def run_by_onnxruntime(op: str, inputs: Any, attributes: Any, outputs: int) -> list[Any]:
    """What ONNX Runtime makes of one operation; it is given all inputs as it runs."""
    names = [f"i{place}" if each is not None else "" for place, each in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, [f"o{i}" for i in range(outputs)], **attributes)
    given_inputs = {
        name: each for name, each in zip(names, inputs, strict=True) if each is not None
    }

    def info(name: str, array: np.ndarray) -> Any:
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return onnx.helper.make_tensor_value_info(name, kind, array.shape)

    values = [info(name, each) for name, each in given_inputs.items()]
    empty = [onnx.ValueInfoProto(name=f"o{i}") for i in range(outputs)]
    graph = onnx.helper.make_graph([node], "one", values, empty)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(each) for each in session.run(None, given_inputs)]


def made_by_onnxruntime(*operation: Any) -> list[Any]:
    return [each.shape for each in run_by_onnxruntime(*operation)]


def told(op: str, inputs: Any, attributes: Any, outputs: int) -> list[Any]:
    node = Node(op, [""] * len(inputs), [f"o{i}" for i in range(outputs)], attributes)
    shapes = [None if each is None else each.shape for each in inputs]
    return shapes_made(Operands(node, shapes, inputs))[:outputs]


IMAGE = real(2, 4, 7, 6)
CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("Add", [real(2, 1, 4), real(3, 1)], {}, 1),
    ("Where", [np.array([[True], [False]]), real(1, 3), real(2, 1)], {}, 1),
    ("Max", [real(3, 1), real(1, 4), real(2, 1, 1)], {}, 1),
    ("Pow", [real(3, 1), real(4)], {}, 1),
    ("Relu", [IMAGE], {}, 1), ("Softmax", [IMAGE], {"axis": 1}, 1),
    ("LayerNormalization", [IMAGE, real(6), real(6)], {}, 1),
    ("InstanceNormalization", [IMAGE, real(4), real(4)], {}, 1),
    ("BatchNormalization", [IMAGE, *[real(4)] * 4], {}, 1),
    ("Cast", [IMAGE], {"to": 7}, 1), ("CumSum", [IMAGE, np.array(1, np.int64)], {}, 1),
    ("Trilu", [real(3, 5)], {}, 1), ("Dropout", [IMAGE], {}, 2),
    ("ScatterND", [real(4, 5), whole(1).reshape(1, 1), real(1, 5)], {}, 1),
    ("ScatterElements", [real(4, 5), whole(1, 2).reshape(1, 2), real(1, 2)], {}, 1),
    ("Conv", [IMAGE, real(6, 2, 3, 2)], {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}, 1),
    ("Conv", [IMAGE, real(6, 4, 3, 3)], {"dilations": [2, 1]}, 1),
    ("Conv", [IMAGE, real(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 4]}, 1),
    ("Conv", [IMAGE, real(6, 4, 3, 3)], {"auto_pad": "VALID", "strides": [2, 2]}, 1),
    ("Conv", [real(2, 3, 9), real(5, 3, 4)], {"strides": [3]}, 1),
    ("ConvTranspose", [IMAGE, real(4, 3, 3, 3)], {"group": 2, "strides": [2, 3],
                                                  "output_padding": [1, 0], "pads": [1, 0, 0, 1]}, 1),
    ("ConvTranspose", [IMAGE, real(4, 3, 3, 3)], {"strides": [2, 2], "dilations": [2, 1]}, 1),
    ("ConvTranspose", [IMAGE, real(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 1),
    ("ConvTranspose", [IMAGE, real(4, 3, 3, 3)], {"strides": [2, 2], "output_shape": [15, 13]}, 1),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, 2),
    ("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "dilations": [2, 2]}, 1),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, 1),
    ("LpPool", [IMAGE], {"kernel_shape": [3, 3]}, 1),
    ("GlobalAveragePool", [IMAGE], {}, 1), ("GlobalMaxPool", [IMAGE], {}, 1),
    ("MatMul", [real(2, 1, 3, 4), real(5, 4, 6)], {}, 1),
    ("MatMul", [real(4), real(5, 4, 6)], {}, 1), ("MatMul", [real(2, 3, 4), real(4)], {}, 1),
    ("MatMul", [real(4), real(4)], {}, 1),
    ("Gemm", [real(4, 3), real(5, 4)], {"transA": 1, "transB": 1}, 1),
    ("Gemm", [real(3, 4), real(4, 5), real(5)], {}, 1),
    ("LSTM", [real(5, 2, 3), real(2, 16, 3), real(2, 16, 4)],
     {"hidden_size": 4, "direction": "bidirectional"}, 3),
    ("GRU", [real(5, 2, 3), real(1, 12, 3), real(1, 12, 4)], {"hidden_size": 4}, 2),
    ("RNN", [real(5, 2, 3), real(1, 4, 3), real(1, 4, 4)], {"hidden_size": 4}, 2),
    ("Einsum", [real(2, 3, 4), real(2, 5, 4)], {"equation": "bij, bkj -> bik"}, 1),
    ("Reshape", [IMAGE, whole(0, -1, 3, 2)], {}, 1),
    ("Reshape", [real(0, 4), whole(0, 3)], {"allowzero": 1}, 1),
    ("Flatten", [IMAGE], {"axis": 2}, 1), ("Flatten", [IMAGE], {"axis": 0}, 1),
    ("Flatten", [IMAGE], {"axis": -1}, 1),
    ("Transpose", [IMAGE], {"perm": [2, 0, 3, 1]}, 1), ("Transpose", [real(2, 3, 4)], {}, 1),
    ("Squeeze", [real(1, 3, 1), whole(-1)], {}, 1), ("Squeeze", [real(1, 3, 1)], {}, 1),
    ("Unsqueeze", [real(3, 4), whole(0, -1)], {}, 1),
    ("DepthToSpace", [real(1, 8, 2, 3)], {"blocksize": 2}, 1),
    ("SpaceToDepth", [real(1, 2, 4, 6)], {"blocksize": 2}, 1),
    ("Concat", [real(2, 3), real(2, 1), real(2, 4)], {"axis": -1}, 1),
    ("Split", [real(7, 2), whole(3, 4)], {"axis": 0}, 2),
    ("Split", [real(7, 2)], {"num_outputs": 3}, 3),
    ("Slice", [IMAGE, whole(1, -3), whole(2**62, -1), whole(2, 3), whole(2, 1)], {}, 1),
    ("Slice", [IMAGE, whole(-1), whole(-(2**62)), whole(2), whole(-2)], {}, 1),
    ("Slice", [IMAGE, whole(1, 1), whole(2, 3)], {}, 1),
    ("Gather", [IMAGE, whole(0, 1, 1).reshape(3, 1)], {"axis": -2}, 1),
    ("Gather", [IMAGE, np.array(1, np.int64)], {}, 1),
    ("GatherElements", [real(3, 4), whole(0, 1).reshape(1, 2)], {"axis": 1}, 1),
    ("GatherND", [IMAGE, whole(0, 1, 1, 0).reshape(2, 2)], {}, 1),
    ("GatherND", [IMAGE, whole(0, 1).reshape(2, 1)], {"batch_dims": 1}, 1),
    ("GridSample", [IMAGE, real(2, 3, 5, 2)], {}, 1),
    ("TopK", [IMAGE, whole(2)], {"axis": 1}, 2),
    ("ReduceMean", [IMAGE, whole(2, -1)], {"keepdims": 0}, 1),
    ("ReduceSum", [IMAGE], {}, 1), ("ReduceSum", [IMAGE], {"noop_with_empty_axes": 1}, 1),
    ("ReduceMax", [IMAGE, whole(1)], {"keepdims": 1}, 1),
    ("ArgMax", [IMAGE], {"axis": -1, "keepdims": 0}, 1), ("ArgMin", [IMAGE], {"axis": 1}, 1),
    ("Expand", [real(3, 1), whole(2, 1, 6)], {}, 1),
    ("Tile", [real(2, 3), whole(4, 2)], {}, 1),
    ("Pad", [real(2, 3), whole(1, 0, 2, 3)], {}, 1),
    ("Pad", [real(2, 3), whole(1, 2), None, whole(-1)], {}, 1),
    ("Resize", [IMAGE, None, np.array([1, 1, 2, 1.5], np.float32)], {}, 1),
    ("Resize", [IMAGE, None, None, whole(9, 5)], {"axes": [2, 3]}, 1),
    ("ConstantOfShape", [whole(2, 3)], {}, 1),
    ("Range", [np.array(1, np.int64), np.array(9, np.int64), np.array(3, np.int64)], {}, 1),
    ("Range", [np.array(9, np.int64), np.array(1, np.int64), np.array(-3, np.int64)], {}, 1),
    ("OneHot", [whole(0, 2).reshape(1, 2), np.array(5, np.int64), real(2)], {"axis": 1}, 1),
    ("Shape", [IMAGE], {}, 1), ("Shape", [IMAGE], {"start": 1, "end": -1}, 1),
    ("Size", [IMAGE], {}, 1),
    ("Constant", [], {"value_ints": [1, 2, 3]}, 1), ("Constant", [], {"value_float": 1.0}, 1),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "attributes", "outputs"), CASES)
def test_each_operation_makes_what_is_told(op, inputs, attributes, outputs):
    found = told(op, inputs, attributes, outputs)
    assert found == made_by_onnxruntime(op, inputs, attributes, outputs)


def test_no_rule_is_left_untried():
    """Those that change no shape have one rule; an operation of ours is compared in whole networks."""
    tried = {op for op, *_ in CASES} | {*_SAME, NORM, CONVOLUTION, LINEAR}
    by_rule = {RULES[op] for op in tried}
    assert set(RULES.values()) <= by_rule


A, B, TRUTH = whole(7, -7, 3), whole(2, 2, -2), np.array([True, False, True])
VALUES: list[tuple[str, list[Any], dict[str, Any]]] = [
    *[(op, [A, B], {}) for op in ("Add", "Div", "Mod", "Mul", "Sub", "Equal", "Greater", "Less",
                                  "GreaterOrEqual", "LessOrEqual", "Max", "Min")],
    ("Max", [A, B, whole(3, 3, 3)], {}), ("Min", [A, B, whole(-3, 3, 0)], {}),
    ("Mod", [A, B], {"fmod": 1}), ("Div", [real(3), np.full(3, 2, np.float32)], {}),
    ("And", [TRUTH, TRUTH[::-1].copy()], {}), ("Or", [TRUTH, ~TRUTH], {}), ("Not", [TRUTH], {}),
    ("Abs", [A], {}), ("Neg", [A], {}), ("Identity", [A], {}),
    ("Ceil", [3 * real(3)], {}), ("Floor", [3 * real(3)], {}),
    ("Cast", [3 * real(3)], {"to": 7}), ("Cast", [A], {"to": 1}), ("Cast", [A], {"to": 9}),
    ("Concat", [A, B], {"axis": 0}), ("Gather", [A, whole(2, 0)], {}),
    ("Gather", [A, np.array(-1, np.int64)], {}), ("Where", [TRUTH, A, B], {}),
    ("Expand", [A, whole(2, 3)], {}), ("Reshape", [A, whole(3, 1)], {}),
    ("Squeeze", [A.reshape(1, 3), whole(0)], {}), ("Unsqueeze", [A, whole(0)], {}),
    ("Transpose", [A.reshape(3, 1)], {}), ("ReduceProd", [A, whole(0)], {"keepdims": 0}),
    ("ReduceProd", [A.reshape(3, 1)], {}),
    ("Slice", [A, whole(-2), whole(2**62)], {}),
    ("Slice", [A, whole(-1), whole(-(2**62)), whole(0), whole(-1)], {}),
    ("Range", [np.array(1, np.int64), np.array(9, np.int64), np.array(3, np.int64)], {}),
    ("Shape", [IMAGE], {}), ("Shape", [IMAGE], {"start": -2}), ("Size", [IMAGE], {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "attributes"), VALUES)
def test_values_that_shapes_are_made_of_are_those_of_an_engine(op, inputs, attributes):
    [expected] = run_by_onnxruntime(op, inputs, attributes, 1)
    node = Node(op, [""] * len(inputs), ["o"], attributes)
    operands = Operands(node, [each.shape for each in inputs], inputs)
    found = _computed(operands, expected.shape)
    assert found is not None
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_no_computation_is_left_untried():
    assert {*_COMPUTE, "Shape", "Size"} == {op for op, *_ in VALUES}


@given(
    st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3),
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.booleans(),
)  # fmt: skip
@settings(max_examples=80)
def test_windows_stand_where_engines_place_them(size, kernel, stride, dilation, pads, up):
    if dilation * (kernel - 1) + 1 > size + sum(pads) or max(pads) >= kernel:
        return  # no engine takes it
    window = {"strides": [stride], "dilations": [dilation], "pads": list(pads)}
    pool = {"kernel_shape": [kernel], "ceil_mode": int(up), **window}
    for op, inputs, attributes in (
        ("Conv", [real(1, 1, size), real(1, 1, kernel)], window),
        ("ConvTranspose", [real(1, 1, size), real(1, 1, kernel)], window),
        ("MaxPool", [real(1, 1, size)], pool),
    ):
        try:
            expected = made_by_onnxruntime(op, inputs, attributes, 1)
        except Exception:
            continue  # a size below 1
        assert told(op, inputs, attributes, 1) == expected


class Computed(nn.Module):
    """Shapes that are computed from the batch, as exporters write them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 16, 1)

    def forward(self, x):
        y = self.last(self.second(self.first(x).relu()))
        windows = y.view(y.shape[0], 4, 4, 3, 2, 3, 2).permute(0, 3, 5, 1, 2, 4, 6)
        y = windows.reshape(-1, 16, 2, 2).flatten(1).view(y.shape[0], -1)
        grown = y.unsqueeze(1).expand(-1, 2, -1).reshape(y.shape[0], -1, 12)
        return nn.functional.interpolate(grown, scale_factor=1.5).mean(1)


def shifted_windows() -> we.DynamicNetwork:
    """A Swin transformer: its windows are padded, rolled and cut by sizes that are computed."""
    model = SwinTransformer([4, 4], 16, [2, 1], [2, 2], [3, 3], num_classes=5)
    return we.convert(model.eval(), torch.zeros(1, 3, 32, 32), check=False)


def network(model: Any) -> we.DynamicNetwork:
    return model() if model is shifted_windows else converted(model())


@pytest.mark.parametrize("model", [small_resnet, Dense, Tokens, Computed, shifted_windows])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_value_of_a_network_has_the_shape_that_is_told(tmp_path: Path, model, batch):
    net = network(model).eval()
    we.calibrate(net, "full", [torch.randn(16, *net.example_batch[0].shape[1:])])
    bundle = Bundle(we.export(net, ["full"], tmp_path / "net.wen"))
    weights = bundle.weights_of(0)
    shapes = value_shapes(bundle.graph_of(0), weights.tensors, batch)
    implementations = choose_each(bundle.layers, weights.options, default_implementation)
    content = build_model(bundle.graph_of(0), bundle.layers, weights, implementations)
    typed = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    outputs = {each.name for each in typed.graph.output}
    wanted = [each for each in typed.graph.value_info if each.name in shapes]
    typed.graph.output.extend(each for each in wanted if each.name not in outputs)
    session = onnxruntime.InferenceSession(
        typed.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    found = session.run(names, bundle.example(batch))
    assert len(found) > 5
    for name, array in zip(names, found, strict=True):
        assert shapes[name] == array.shape, name


# What is refused


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = converted(small_resnet()).eval()
    we.calibrate(net, ["full", "1/4"], [torch.randn(16, 3, 6, 6)])
    return we.export(net, ["full", "1/4"], tmp_path_factory.mktemp("sizes") / "net.wen")


def hostile(written: Path, to: Path, nodes: list[Node], **tensors: np.ndarray) -> Path:
    """The bundle with more operations on its input, whose last one is an output too."""
    manifest, kept = parts_of(written.read_bytes())
    graph = manifest["graphs"][0]
    graph["nodes"] += [
        {"op": n.op, "inputs": [*n.inputs], "outputs": [*n.outputs], "attributes": {**n.attributes}}
        for n in nodes
    ]
    graph["outputs"].append({"name": nodes[-1].outputs[0], "dtype": "float32", "shape": [None]})
    kept |= {f"constants.{name}": array for name, array in tensors.items()}
    to.write_bytes(bundle_of(manifest, kept))
    return to


def chain(op: str, length: int, also: tuple[str, ...], **attributes: Any) -> list[Node]:
    """Operations that each read what the one before made."""
    names = ["x", *(f"grown{i}" for i in range(length))]
    return [
        Node(op, (names[i], *(names[i] if name == "it" else name for name in also)),
             (names[i + 1],), attributes)
        for i in range(length)
    ]  # fmt: skip


GROWING = {
    "doubled by Concat": (chain("Concat", 30, ("it",), axis=2), {}),
    "doubled by Tile": (chain("Tile", 30, ("n",)), {"n": whole(1, 1, 2, 1)}),
    "doubled by Resize": (
        chain("Resize", 20, ("", "n")), {"n": np.array([1, 1, 2, 2], np.float32)},
    ),
    "grown by Pad": (chain("Pad", 200, ("n",)), {"n": whole(0, 0, 2000, 0, 0, 0, 2000, 4)}),
    "expanded once": (
        [Node("Expand", ("x", "n"), ("much",))], {"n": whole(2**20, 2**20, 1, 3, 6, 6)},
    ),
    "filled": ([Node("ConstantOfShape", ("n",), ("much",))], {"n": whole(2**40)}),
    "a range": ([Node("Range", ("a", "b", "a"), ("much",))], {
        "a": np.array(1, np.int64), "b": np.array(2**60, np.int64),
    }),
    "one of many": ([Node("OneHot", ("i", "n", "v"), ("much",))], {
        "i": whole(*range(100)), "n": np.array(2**40, np.int64), "v": np.ones(2, np.float32),
    }),
    "multiplied out": (
        [Node("Reshape", ("x", "column"), ("c",)), Node("Reshape", ("x", "row"), ("r",)),
         *[Node("Tile", (name, "n"), (f"long {name}",)) for name in "cr"],
         Node("MatMul", ("long c", "long r"), ("much",))],
        {"column": whole(-1, 1), "row": whole(1, -1), "n": whole(1000, 1000)},
    ),
    "by steps between points": (
        chain("ConvTranspose", 4, ("w",), strides=[1024, 1024]), {"w": np.ones((3, 3, 1, 1), np.float32)},
    ),
    "many that are kept": (
        [*[Node("Tile", ("x", "n"), (f"part{i}",)) for i in range(60)],
         Node("Concat", tuple(f"part{i}" for i in range(60)), ("joined",), {"axis": 0}),
         Node("ReduceSum", ("joined",), ("sum",))],
        {"n": whole(1, 1, 500, 100)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GROWING)
def test_a_graph_that_grows_beyond_the_limit_is_refused(written: Path, tmp_path: Path, what: str):
    nodes, tensors = GROWING[what]
    path = hostile(written, tmp_path / "net.wen", nodes, **tensors)
    for opening in (Bundle, lambda path: Session(path, engine="onnxruntime", threads=1)):
        with pytest.raises(
            BundleError, match=r"holds \d+ values at once where .*allowed: 268435456"
        ):
            opening(path)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node("Cast", ("x",), ("i",), {"to": 7}), Node("Expand", ("x", "i"), ("y",))], "depends on"),
        ([Node("NonZero", ("x",), ("i",))], "what NonZero makes cannot be told beforehand"),
        ([Node("Unique", ("x",), ("i",))], "what Unique makes cannot be told beforehand"),
        ([Node("Nonsense", ("x",), ("i",))], "what Nonsense makes cannot be told beforehand"),
        ([Node("Concat", ("x", "x"), ("i",), {"axis": 9})], r"an axis \(=9\) outside of 4"),
        ([Node("Add", ("x",), ("i", "j"))], "Add makes 1 values, not 2"),
    ],
)  # fmt: skip
def test_a_graph_whose_sizes_cannot_be_told_is_refused(written, tmp_path, nodes, message):
    with pytest.raises(BundleError, match=message) as caught:
        Bundle(hostile(written, tmp_path / "net.wen", nodes))
    assert "\n" not in str(caught.value)


def test_what_grows_faster_than_the_batch_is_refused_for_the_batch(written: Path, tmp_path: Path):
    nodes = [
        Node("Reshape", ("x", "column"), ("c",)),
        Node("Reshape", ("x", "row"), ("r",)),
        Node("MatMul", ("c", "r"), ("square",)),
        Node("ReduceSum", ("square",), ("sum",)),
    ]
    path = hostile(
        written, tmp_path / "net.wen", nodes, column=whole(-1, 1), row=whole(1, -1)
    )  # fmt: skip
    session = Session(path, engine="onnxruntime", threads=1)
    images = np.zeros((30_000, 3, 6, 6), np.float32)
    assert len(session.run(images[:3])) == 2
    with pytest.raises(BundleError, match=r"where MatMul makes 'square' for 30000 example\(s\)"):
        session.run(images)


def test_what_is_read_no_more_is_not_counted():
    x = TensorType("x", "float32", (None, 2**20))
    steps = [Node("Relu", (f"v{i}" if i else "x",), (f"v{i + 1}",)) for i in range(2000)]
    graph = Graph((x,), (TensorType("v2000", "float32", (None, 2**20)),), tuple(steps), OPSET)
    check_sizes(graph, {})
    kept = Node("Sum", tuple(each.outputs[0] for each in steps), ("sum",))
    held = Graph((x,), (TensorType("sum", "float32", (None, 2**20)),), (*steps, kept), OPSET)
    with pytest.raises(ValueError, match=f"allowed: {MOST_VALUES} for each"):
        check_sizes(held, {})
