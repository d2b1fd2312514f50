"""The short way for requests in bytes: to KServe's decoding and back, past FastAPI's checks of JSON.

To find the route among some thirty, to solve its dependencies and to check the types of a body that has
none takes FastAPI longer than a small network runs.
"""

from __future__ import annotations

from typing import Any

import orjson
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER, PredictorProtocol
from kserve.errors import ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_datamodels import InferenceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

_HEADER = INFERENCE_CONTENT_LENGTH_HEADER.lower().encode()


class BytesRoute(Route):
    """Matches requests of the protocol's binary extension; all others go on to KServe's routes.

    Errors go to the handlers of the application, as those of other routes do.
    """

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane
        super().__init__("/v2/models/{model_name}/infer", self._infer, methods=["POST"])

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """Say whether it answers a request."""
        if scope["type"] != "http" or not _is_in_bytes(scope["headers"]):
            return Match.NONE, {}
        return super().matches(scope)

    async def _infer(self, asked: Request) -> Response:
        name, plane = asked.path_params["model_name"], self._data_plane
        if not await plane.model_ready(name, True):
            raise ModelNotReady(name)
        headers = dict(asked.headers)
        request, _ = plane.decode(
            await asked.body(),
            headers,
            protocol_version=PredictorProtocol.REST_V2.value,
            model_name=name,
        )
        response, more = await plane.infer(model_name=name, request=request, headers=headers)
        body, own = plane.encode(
            model_name=name, response=response, headers=headers, req_attributes={}
        )
        sent = {each: value for each, value in {**more, **own}.items() if each != "content-type"}
        if isinstance(body, bytes):
            return Response(body, headers=sent)
        told = orjson.dumps(InferenceResponse.model_validate(body).model_dump())
        return Response(told, headers=sent, media_type="application/json")


def _is_in_bytes(headers: list[tuple[bytes, bytes]]) -> bool:
    given = dict(headers)
    return _HEADER in given and not given.get(b"content-type", b"").startswith(b"application/json")
