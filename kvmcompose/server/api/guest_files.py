"""Copies files from and to a guest that is not entered by SSH, as tar archives that are passed on."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from kvmcompose.core.access import GUEST_PATH_PATTERN
from kvmcompose.server.api.byte_reply import TAR, ByteReply
from kvmcompose.server.api.openapi import described
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.routes import Guest, Name, ServiceParameter, Who, known_parameters

router = APIRouter(dependencies=[Depends(known_parameters)])

GuestPath = Annotated[
    str,
    Query(
        pattern=GUEST_PATH_PATTERN.removesuffix(r"(?!\n)"),
        description="In the guest; relative ones are below `/`.",
    ),
]


@router.get(
    "/api/deployments/{name}/guests/{guest}/files",
    **described(None, HTTPStatus.CONFLICT, HTTPStatus.BAD_GATEWAY, stream=TAR),
)
async def get_files(
    service: ServiceParameter, who: Who, name: Name, guest: Guest, path: GuestPath
) -> Response:
    """A file or folder of a guest that is not entered by SSH: a stream, a tar archive.

    Its first entry is the file or folder, or a symbolic link of this name. It is aborted on failure.
    """
    return ByteReply(await service.get_files(who, name, guest, path), TAR, service.stopping)


@router.put(
    "/api/deployments/{name}/guests/{guest}/files",
    **described(
        None,
        HTTPStatus.CONFLICT,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        status=HTTPStatus.NO_CONTENT,
        sent=TAR,
    ),
)
async def put_files(
    request: Request, service: ServiceParameter, who: Who, name: Name, guest: Guest, path: GuestPath
) -> Response:
    """Extract a tar archive in a folder of a guest that is not entered by SSH.

    The archive is passed on as it arrives: one that breaks off may have been extracted in part.
    """
    if request.headers.get("content-type") != TAR:
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be a tar archive ({TAR})")
    await service.put_files(who, name, guest, path, request.stream())
    return Response(status_code=HTTPStatus.NO_CONTENT)
