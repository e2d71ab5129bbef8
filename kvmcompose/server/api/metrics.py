"""The route of the metrics, where Prometheus looks for them."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from kvmcompose.effects.threads import Account, account, in_thread
from kvmcompose.server.api.openapi import described
from kvmcompose.server.api.routes import ServiceParameter, Who, known_parameters

router = APIRouter(dependencies=[Depends(known_parameters)])


@router.get("/metrics", **described(None, stream="text/plain"))
async def get_metrics(request: Request, service: ServiceParameter, who: Who) -> Response:
    """The metrics for Prometheus: the server, and the deployments that the sender may access.

    Each host is asked once, and for 5 seconds at most. With `Accept: application/openmetrics-text` in that
    format, else in Prometheus' text format.
    """
    # when it is needed: it delays the start of a server that an `up` waits for
    from kvmcompose.server.api.exposition import exposition  # noqa: PLC0415

    deployments, server = await service.metrics(who)
    account.set(Account("", who.person.uid))
    # in a thread: a thousand guests are a megabyte
    content, media_type = await in_thread(exposition, deployments, server, request.headers.get("accept", ""))
    return Response(content, headers={"content-type": media_type})
