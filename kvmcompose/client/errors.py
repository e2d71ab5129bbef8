"""What goes wrong between a client and its server, and the errors that a server's answers report."""

from __future__ import annotations

import msgspec

from kvmcompose.core.deployment import ProblemDetails
from kvmcompose.core.errors import InputError, KvmComposeError, RefusedError

UNAUTHORIZED = 401
_WRONG_INPUT = frozenset({400, 413, 415, 422})
_REFUSED = frozenset({UNAUTHORIZED, 403, 409})


class ServerError(KvmComposeError):
    """The server cannot be reached, or reports an error.

    ``status`` is the HTTP status, None without an answer.
    """

    def __init__(self, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class RefusedByServerError(ServerError, RefusedError):
    """Refused before anything was changed: another action runs, permission or a token is missing."""


class WrongInputError(ServerError):
    """The server cannot make sense of the request."""

    exit_code = InputError.exit_code


def error_of(status: int, body: bytes, address: str) -> ServerError:
    """Return the error that an answer of the server on ``address`` reports (RFC 9457)."""
    try:
        problem = msgspec.json.decode(body, type=ProblemDetails)
    except msgspec.MsgspecError:
        message = f"the server on {address} answers with HTTP status {status}"
        if status == UNAUTHORIZED and not body:
            message = f"the server on {address} requires its token"
        problem = ProblemDetails(title="", status=status, detail=message)
    return error_from(problem, status)


def error_from(problem: ProblemDetails, status: int | None = None) -> ServerError:
    """Return the error that a server reports, in an answer with ``status`` or in a stream."""
    status = problem.status if status is None else status
    hint = problem.hint
    if status == UNAUTHORIZED:
        hint = hint or "give the file that holds it (KVM_COMPOSE_TOKEN_FILE, or --token-file)"
    kind = WrongInputError if status in _WRONG_INPUT else ServerError
    return (RefusedByServerError if status in _REFUSED else kind)(problem.detail, hint=hint, status=status)
