"""Turns every error into a response with problem details (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kvmcompose.core.deployment import ProblemDetails
from kvmcompose.core.errors import InputError, KvmComposeError, RefusedError
from kvmcompose.hosts.errors import DriverError, NoSuchPathError
from kvmcompose.server.actions import NotFoundError

MEDIA_TYPE = "application/problem+json"

log = logging.getLogger(__name__)


class ApiError(KvmComposeError):
    """An error with the HTTP status of its response."""

    def __init__(self, status: HTTPStatus, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


def problem(
    status: HTTPStatus, detail: str, *, hint: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return the response that reports an error."""
    details = ProblemDetails(title=status.phrase, status=status, detail=detail, hint=hint)
    return Response(msgspec.json.encode(details), status, headers, MEDIA_TYPE)


def details_of(error: KvmComposeError) -> ProblemDetails:
    """Return the details of an error, for a stream that has begun."""
    status = _status_of(error)
    return ProblemDetails(title=status.phrase, status=status, detail=error.message, hint=error.hint)


def _status_of(error: KvmComposeError) -> HTTPStatus:
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, NotFoundError | NoSuchPathError):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, RefusedError):
        return HTTPStatus.CONFLICT
    if isinstance(error, InputError):
        return HTTPStatus.UNPROCESSABLE_ENTITY
    return HTTPStatus.BAD_GATEWAY if isinstance(error, DriverError) else HTTPStatus.INTERNAL_SERVER_ERROR


def problem_of(error: Exception) -> Response:
    """Return the response for an exception that ended a request."""
    if isinstance(error, KvmComposeError):
        return problem(_status_of(error), error.message, hint=error.hint)
    if isinstance(error, RequestValidationError):
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(_wrong_parameters(error)))
    if isinstance(error, HTTPException):
        return _of_framework(error)
    log.error("internal error", exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"internal error ({type(error).__name__})",
        hint="please report it, with the server's log",
    )


def _of_framework(error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    detail = error.detail
    if status is HTTPStatus.NOT_FOUND:
        detail = "no such resource"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        detail = "method not allowed"
    return problem(status, detail, headers=dict(error.headers or {}))


def _wrong_parameters(error: RequestValidationError) -> list[str]:
    return [f"{'.'.join(str(step) for step in each['loc'])}: {each['msg']}" for each in error.errors()]


def install(app: FastAPI) -> None:
    """Have every error of the application answered this way."""

    async def answer(_request: Request, error: Exception) -> Response:
        return problem_of(error)

    for kind in (KvmComposeError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
