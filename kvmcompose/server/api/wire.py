"""What goes over the wire: bodies and answers, both JSON by msgspec, the bodies strictly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from kvmcompose.server.api.problems import ApiError


class Reply(Response):
    """A value as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return msgspec.json.encode(content)


def body(kind: Any) -> Callable[[Request], Awaitable[Any]]:
    """A dependency that gives the request's body as ``kind``; what does not fit exactly is 422."""
    decoder = msgspec.json.Decoder(kind)

    async def decoded(request: Request) -> Any:
        try:
            return decoder.decode(await json_body(request))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's body: {error}") from error

    return decoded


async def json_body(request: Request) -> bytes:
    """The request's body, if it says that it is JSON; 415 otherwise."""
    said = request.headers.get("content-type", "")
    if said.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the request's body is said to be {said!r}"
            if said
            else "what the request's body is, is not said",
            hint="send JSON, with the header Content-Type: application/json",
        )
    return await request.body()
