"""A bundle as a model of KServe's server: from its requests to ours, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferRequest, InferResponse, Model

from wenable.runtime.bundle import BundleError
from wenable.runtime.graph import TensorType
from wenable.runtime.images import prepare_pixels
from wenable.runtime.session import Session
from wenable.serving import metrics
from wenable.serving.arrival import present_visit
from wenable.serving.batcher import Answer, Batcher, Inputs
from wenable.serving.binary import Output
from wenable.serving.deadlines import DEADLINE_HEADER, deadline_of
from wenable.serving.refusals import RefusedError

_DATATYPES = {
    "float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "int8": "INT8",
    "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip


class ServedBundle(Model):
    """Answers the requests of one bundle.

    - `name`: as clients call it.
    - `session`: opened and warmed up; the batcher closes it.
    - `default_deadline_ms`: for requests that name none; None for no deadline.
    - `most_examples`: in one request.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        batcher: Batcher,
        *,
        default_deadline_ms: float | None,
        most_examples: int,
    ) -> None:
        super().__init__(name)
        self._session, self._batcher = session, batcher
        self._default_ms, self._most = default_deadline_ms, most_examples
        self.ready = True

    def replace(self, session: Session, batches: tuple[int, ...]) -> None:
        """Answer from now on with another session of the same bundle, warmed up for these batches."""
        self._session = session
        self._batcher.replace(session, batches)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return names, types and shapes of the inputs, as the protocol shows them."""
        return described_inputs(self._session)

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return names, types and shapes of the outputs."""
        return [_described(each) for each in _outputs(self._session)]

    async def predict(
        self, payload: Any, headers: Any = None, response_headers: Any = None
    ) -> InferResponse:
        """Answer one request; raises `RefusedError` with the reason where it gets no answer."""
        try:
            answer, deadline_ms = await self._answer(payload, headers or {})
            response = _response(payload, self.name, answer, _outputs(self._session))
        except RefusedError as error:
            metrics.count(error.outcome)
            raise
        except Exception:
            metrics.count("failed")
            raise
        visit = present_visit()
        visit.answer, visit.deadline_ms = answer, deadline_ms  # counted when it has left
        return response

    async def _answer(
        self, request: Any, headers: Mapping[str, str]
    ) -> tuple[Answer, float | None]:
        """Return an answer, and the deadline that it was for."""
        if not isinstance(request, InferRequest):
            raise RefusedError(400, "only the Open Inference Protocol (v2) is spoken here")
        parameters = request.parameters or {}
        deadline_ms, mode = self._deadline(parameters, headers), parameters.get("mode")
        mode = "" if mode is None else str(mode)
        if mode and deadline_ms is not None:
            if DEADLINE_HEADER in headers or parameters.get("deadline_ms") is not None:
                raise RefusedError(
                    400, "`mode` and a deadline were both given; ask for one of them"
                )
            deadline_ms = None
        inputs = self._inputs(request)
        x = inputs if len(inputs) != 1 else inputs[0]
        try:
            mode = self._own_name(mode)
            self._session.check(x, mode=mode or None)
        except (ValueError, KeyError, BundleError) as error:
            path = Path(
                self._session.bundle.path
            )  # where files lie here is none of a client's business
            raise RefusedError(400, str(error).replace(str(path), path.name)) from error
        visit = present_visit()
        waiting = self._batcher.submit(
            inputs, deadline_ms=deadline_ms, mode=mode, came_s=visit.came_s, coming=visit.coming
        )
        return await asyncio.wrap_future(waiting), deadline_ms

    def _deadline(self, parameters: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
        """Return the deadline of a request: its parameter, its header, or the server's own."""
        given = parameters.get("deadline_ms")
        if given is None:  # a null says nothing
            given = headers.get(DEADLINE_HEADER, self._default_ms)
        return deadline_of(given)

    def _own_name(self, mode: str) -> str:
        """Return an exported mode as it calls itself: it can be written in any number of ways.

        Each way would be a label of the metrics for ever, and no batch would join two of them.
        """
        modes = self._session.modes
        return mode if mode in ("", *modes) else modes[self._session.bundle.number_of(mode)]

    def _inputs(self, request: InferRequest) -> Inputs:
        """Return the arrays of a request in the order of the network's inputs."""
        wanted = [each.name for each in self._session.bundle.inputs]
        given = {each.name: each for each in request.inputs}
        if set(given) != set(wanted) or len(given) != len(request.inputs):
            raise RefusedError(
                400, f"`inputs` must be {', '.join(wanted)}, not {', '.join(map(str, given))[:100]}"
            )
        found = []
        for name in wanted:
            try:
                with np.errstate(all="ignore"):  # what overflows is infinite, and refused as such
                    array = given[name].as_numpy()
            except Exception as error:  # numpy's and KServe's own, for whatever the data holds
                raise RefusedError(
                    400, f"the data of input {name!r} does not fit: {error}"
                ) from error
            found.append(np.ascontiguousarray(self._pixels(array)))
        for array in found:
            if not 1 <= (len(array) if array.ndim else 0) <= self._most:
                raise RefusedError(
                    400, f"a request must have from 1 to {self._most} examples (`--max-batch`)"
                )
        if len({len(each) for each in found}) > 1:
            raise RefusedError(400, "all inputs must have the same number of examples")
        return tuple(found)

    def _pixels(self, array: np.ndarray) -> np.ndarray:
        """Return images in bytes as the network takes them; other arrays as they are."""
        bundle = self._session.bundle
        takes_images = len(bundle.inputs) == 1 and bundle.inputs[0].dtype == "float32"
        if array.dtype != np.uint8 or not takes_images or bundle.preprocessing is None:
            return array
        try:
            return prepare_pixels(array, bundle.preprocessing)
        except ValueError as error:
            raise RefusedError(400, str(error)) from error


def described_inputs(session: Session) -> list[dict[str, Any]]:
    """Return names, types and shapes of the inputs of a bundle, as the protocol shows them."""
    return [_described(each) for each in session.bundle.inputs]


def _outputs(session: Session) -> tuple[TensorType, ...]:
    return session.bundle.graph_of(0).outputs


def _described(tensor: TensorType) -> dict[str, Any]:
    sizes = [each if isinstance(each, int) else -1 for each in tensor.shape]
    return {
        "name": tensor.name,
        "datatype": _DATATYPES.get(str(np.dtype(tensor.dtype)), "BYTES"),
        "shape": [-1, *sizes[1:]],
    }


def _response(request: InferRequest, name: str, answer: Answer, outputs: Any) -> InferResponse:
    found = []
    asked = [each.name for each in request.request_outputs or ()]
    known = [each.name for each in outputs]
    if not set(asked) <= set(known):
        raise RefusedError(400, f"`outputs` must be some of {', '.join(known)}")
    binary = request.use_binary_outputs is True
    for tensor, array in zip(outputs, answer.outputs, strict=True):
        datatype = _DATATYPES[str(array.dtype)]
        shape = list(array.shape)
        found.append(Output(tensor.name, shape, datatype, data=np.ascontiguousarray(array)))
    told: dict[str, Any] = {
        "mode": answer.mode,
        "waited_ms": round(answer.waited_ms, 3),
        "total_ms": round(answer.total_ms, 3),
        "batch": answer.batch,
    }
    if answer.met is not None:
        told["deadline_met"] = answer.met
    return InferResponse(
        response_id=str(request.id or ""),
        model_name=name,
        infer_outputs=found,
        parameters=told,
        use_binary_outputs=binary,
        requested_outputs=request.request_outputs or None,
    )
