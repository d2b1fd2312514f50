"""Tensors as the bytes they are, by the protocol's binary extension: no Python number for each value.

KServe turns every value of a request or an answer into a Python number, also if both sides speak bytes, on
the one thread that answers all clients. For an image that takes longer than a small network does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from kserve import InferInput, InferOutput, InferRequest
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import RequestedOutput
from kserve.utils.numpy_codec import to_np_dtype


def request_in_bytes(body: bytes, json_length: int, model_name: str) -> InferRequest:
    """Return the request in a body: JSON of so many bytes, and the data of its inputs behind it.

    Its inputs' data are arrays that look into the body, or the lists in the JSON.

    Raises `InvalidInput` for data that are missing or not as long as said, and what Python raises for JSON
    of another form.
    """
    head = orjson.loads(body[:json_length])
    start, inputs = json_length, []
    for given in head["inputs"]:
        parameters, data = given.get("parameters"), given.get("data")
        if data is None:
            size = (parameters or {}).get("binary_data_size")
            data = _array_at(body, start, size, given["datatype"], given["name"])
            start += data.nbytes
        elif given["datatype"] == "FP16":
            raise InvalidInput(f"the data of input {given['name']!r} are FP16, which JSON has not")
        inputs.append(
            InferInput(given["name"], given["shape"], given["datatype"], data, parameters)
        )
    requested = head.get("outputs")
    return InferRequest(
        model_name=model_name,
        request_id=head.get("id"),
        parameters=head.get("parameters"),
        infer_inputs=inputs,
        request_outputs=None
        if requested is None
        else [RequestedOutput(each["name"], each.get("parameters")) for each in requested],
    )


def _array_at(body: bytes, start: int, size: Any, datatype: str, name: str) -> np.ndarray:
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(body) - start:
        raise InvalidInput(
            f"input {name!r} has neither `data` nor a `binary_data_size` (={size!r:.40}) of the"
            f" {max(len(body) - start, 0)} bytes that are left"
        )
    dtype = None if datatype == "BYTES" else to_np_dtype(datatype)
    if dtype is None:
        raise InvalidInput(f"input {name!r} has a datatype (={datatype!r:.40}) of no numbers")
    return np.frombuffer(memoryview(body)[start : start + size], dtype)


class Output(InferOutput):
    """An output whose values become JSON numbers in one go, if JSON is asked for."""

    def set_data_from_numpy(self, output_tensor: np.ndarray, binary_data: bool = True) -> None:
        """Take the values as bytes, or as a list for JSON; KServe calls this when it writes the answer."""
        if binary_data:
            super().set_data_from_numpy(output_tensor, binary_data=True)
        else:
            self.data = output_tensor.ravel().tolist()
