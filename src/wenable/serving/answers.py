"""What clients read: requests that KServe cannot decode, and the status of each error."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from starlette.exceptions import HTTPException

from wenable.serving import metrics
from wenable.serving.binary import request_in_bytes
from wenable.serving.refusals import RefusedError


class OurDataPlane(DataPlane):
    """KServe's, except that a body which lacks what the protocol asks for is the client's error."""

    def decode(self, body: Any, headers: Any, *arguments: Any, **named: Any) -> Any:
        """Return the request in a body; raises `RefusedError` for one that holds none."""
        try:
            request, attributes = super().decode(body, headers, *arguments, **named)
            _check_types(request)
            return request, attributes
        except Exception as error:  # KServe reads bytes as they are: any type can be anywhere
            metrics.count("invalid")
            words = str(error) if isinstance(error, InvalidInput) else repr(error)
            raise RefusedError(400, f"this is no request of the protocol: {words[:300]}") from error

    def decode_inference_request(self, body: Any, headers: Any, model_name: Any) -> Any:
        """Return a request whose inputs are arrays, if their data came as bytes."""
        length = headers.get(INFERENCE_CONTENT_LENGTH_HEADER) if isinstance(body, bytes) else None
        if length is None:
            return super().decode_inference_request(body, headers, model_name)
        return request_in_bytes(body, int(length), model_name)

    def encode(self, model_name: Any, response: Any, headers: Any, req_attributes: Any) -> Any:
        """Return the response, never as a CloudEvent."""
        return super().encode(model_name, response, {}, req_attributes)


def _check_types(request: Any) -> None:
    """Raise `InvalidInput` for fields that KServe takes over as they are when the data are bytes."""
    named = [*request.inputs, *(request.request_outputs or ())]
    if not all(isinstance(each.name, str) for each in named):
        raise InvalidInput("the names of inputs and outputs must be texts")
    if not all(isinstance(each.parameters or {}, dict) for each in (request, *named)):
        raise InvalidInput("`parameters` must be an object")


def add_handlers(app: FastAPI) -> None:
    """Give each error that a client can cause its status, and its reason without a traceback."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RefusedError)
        headers = {"retry-after": "1"} if error.status in (429, 503) else {}
        return JSONResponse({"error": error.reason}, error.status, headers)

    async def malformed(_: Request, error: Exception) -> JSONResponse:
        metrics.count("invalid")
        assert isinstance(error, RequestValidationError)
        first = next(iter(error.errors()), {})
        where = ".".join(map(str, first.get("loc", ())))[:200]
        reason = f"this is no request of the protocol: {where}: {first.get('msg', '')}"
        return JSONResponse({"error": reason}, 400)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        metrics.count("invalid")
        return JSONResponse({"error": str(error)}, 400)

    async def unheard(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    app.add_exception_handler(HTTPException, unheard)
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(InvalidInput, invalid)
