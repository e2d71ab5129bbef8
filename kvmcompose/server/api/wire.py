"""Requests and responses as JSON, by msgspec; requests are decoded strictly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from kvmcompose.core.commands import readable
from kvmcompose.server.api.problems import ApiError


class Reply(Response):
    """A response with a value as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the value."""
        return msgspec.json.encode(content)


def body(kind: Any) -> Callable[[Request], Awaitable[Any]]:
    """Return a dependency that decodes the request's body as ``kind``.

    It answers 415 to a body that is not declared as JSON, and 422 to one that does not fit exactly.
    """
    decoder = msgspec.json.Decoder(kind)

    async def decoded(request: Request) -> Any:
        declared = request.headers.get("content-type", "")
        if declared.partition(";")[0].strip().lower() != "application/json":
            raise ApiError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"unsupported content type {declared!r}" if declared else "the request has no content type",
                hint="send JSON, with the header Content-Type: application/json",
            )
        try:
            return decoder.decode(await request.body())
        except msgspec.ValidationError as error:
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's body: {readable(error)}"
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's body: {error}") from error

    return decoded
