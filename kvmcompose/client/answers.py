"""Answers that tell of an error."""

from __future__ import annotations

import msgspec

from kvmcompose.client.address import Address
from kvmcompose.client.server import RefusedByServerError, ServerError, WrongInputError
from kvmcompose.core.deployment import ProblemDetails

UNAUTHORIZED = 401
_WRONG_INPUT = frozenset({400, 413, 415, 422})
_REFUSED = frozenset({UNAUTHORIZED, 403, 409})


def error_of(status: int, body: bytes, address: Address) -> ServerError:
    """The error that an answer tells of."""
    try:
        told = msgspec.json.decode(body, type=ProblemDetails)
        message, hint = told.detail, told.hint
    except msgspec.MsgspecError:
        message, hint = f"the server on {address} answers {status}", None
    if status == UNAUTHORIZED:
        message = f"the server on {address} wants its token" if not body else message
        hint = hint or "give the file that holds it (KVM_COMPOSE_TOKEN_FILE, or --token-file)"
    kind = WrongInputError if status in _WRONG_INPUT else ServerError
    return (RefusedByServerError if status in _REFUSED else kind)(message, hint=hint, status=status)
