"""Requests and answers in bytes, beside KServe's own reading and writing, which goes value by value."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("kserve")

from kserve import InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import RequestedOutput

from wenable.serving.binary import Output, request_in_bytes

DATATYPES = {
    "FP32": np.float32, "FP64": np.float64, "FP16": np.float16, "INT64": np.int64, "INT32": np.int32,
    "INT8": np.int8, "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
IN_JSON = ("FP32", "INT64", "UINT8")


@st.composite
def tensors(draw: st.DrawFn, names=tuple(DATATYPES)) -> tuple[str, np.ndarray]:
    name = draw(st.sampled_from(names))
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if name.startswith("FP") else None
    return name, draw(arrays.arrays(DATATYPES[name], shape, elements=elements))


def body_of(given: list[tuple[str, np.ndarray, bool]], **more) -> tuple[bytes, int]:
    """Return a body, and how long its JSON is; the last of each says whether it goes as bytes."""
    heads, data = [], b""
    for number, (datatype, array, as_bytes) in enumerate(given):
        head = {"name": f"x{number}", "datatype": datatype, "shape": list(array.shape)}
        if as_bytes:
            data += array.tobytes()
            head["parameters"] = {"binary_data_size": array.nbytes}
        else:
            head["data"] = array.ravel().tolist()
        heads.append(head)
    text = json.dumps({"inputs": heads} | more).encode()
    return text + data, len(text)


@given(
    st.lists(st.one_of(
        st.tuples(tensors(), st.just(True)), st.tuples(tensors(IN_JSON), st.just(False))
    ), min_size=1, max_size=3),
    st.sampled_from([{}, {"id": "7", "parameters": {"mode": "1/4"}}, {"outputs": [{"name": "y"}]}]),
)  # fmt: skip
def test_a_request_is_what_kserve_reads(found, more):
    sent = [(name, array, as_bytes) for (name, array), as_bytes in found]
    body, length = body_of(sent, **more)
    ours = request_in_bytes(body, length, "net")
    theirs = InferRequest.from_bytes(body, length, "net")
    assert (ours.id, ours.parameters, ours.model_name) == (theirs.id, theirs.parameters, "net")
    asked = [[each.name for each in it.request_outputs or ()] for it in (ours, theirs)]
    assert asked[0] == asked[1]
    for one, other, (_, array, as_bytes) in zip(ours.inputs, theirs.inputs, sent, strict=True):
        assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
        np.testing.assert_array_equal(one.as_numpy(), array)
        np.testing.assert_array_equal(one.as_numpy(), other.as_numpy())
        # No Python number for any value: the array looks into the body.
        assert isinstance(one.data, np.ndarray) == as_bytes
        assert not as_bytes or np.shares_memory(one.data, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("size", [-4, 13, 10**9, True, 2.0, "12", None, [12]])
def test_data_that_are_not_as_long_as_said_are_refused(size):
    head = {"name": "x", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [head]}).encode()
    with pytest.raises(InvalidInput, match="input 'x' has neither `data` nor a `binary_data_size`"):
        request_in_bytes(text + bytes(12), len(text), "net")


@pytest.mark.parametrize("datatype", ["BYTES", "FP99", ""])
def test_what_holds_no_numbers_is_refused(datatype: str):
    head = {
        "name": "x", "datatype": datatype, "shape": [3], "parameters": {"binary_data_size": 12}
    }  # fmt: skip
    text = json.dumps({"inputs": [head]}).encode()
    with pytest.raises(InvalidInput, match=r"has a datatype .* of no numbers"):
        request_in_bytes(text + bytes(12), len(text), "net")


@given(st.lists(tensors(IN_JSON), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_an_answer_is_what_kserve_writes(found, binary: bool, asked: bool):
    def written(kind: type[InferOutput]):
        outputs = [
            kind(f"y{number}", list(array.shape), datatype, data=array.copy())
            for number, (datatype, array) in enumerate(found)
        ]
        parameters = {"binary_data": binary}
        requested = [RequestedOutput(each.name, parameters) for each in outputs] if asked else None
        return InferResponse(
            response_id="7", model_name="net", infer_outputs=outputs, use_binary_outputs=binary,
            requested_outputs=requested,
        ).to_rest()  # fmt: skip

    assert written(Output) == written(InferOutput)
