"""The server's HTTP API and log stream (FastAPI)."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from kvmcompose import __version__
from kvmcompose.server.api import (
    asyncapi,
    command_input,
    deployment_list,
    events,
    guest_connection,
    guest_console,
    guest_files,
    guest_shell,
    logs,
    metrics,
    openapi,
    page,
    problems,
    project_routes,
    routes,
    sessions,
)
from kvmcompose.server.api.projects import Projects
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.wire import Reply
from kvmcompose.server.project_commands import ProjectCommands


def create_app(service: Service, commands: ProjectCommands) -> FastAPI:
    """Create the application. It authenticates nobody: put a ``Guard`` in front of it.

    ``commands`` runs the command line in projects.
    """
    app = FastAPI(
        title="kvm-compose server",
        version=__version__,
        openapi_url=None,  # FastAPI's own pages load scripts from elsewhere
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.projects = Projects(service, commands)
    app.include_router(routes.router)
    app.include_router(logs.router)
    app.include_router(events.router)
    app.include_router(deployment_list.router)
    app.include_router(command_input.router)
    app.include_router(guest_connection.router)
    app.include_router(guest_console.router)
    app.include_router(guest_files.router)
    app.include_router(guest_shell.router)
    app.include_router(metrics.router)
    app.include_router(sessions.router)
    app.include_router(page.router)
    app.include_router(project_routes.router)
    problems.install(app)

    async def description(_request: Request) -> Response:
        return Reply(openapi.document(app))

    async def events_description(_request: Request) -> Response:
        return Reply(asyncapi.document())

    app.add_route("/openapi.json", description, methods=["GET"], include_in_schema=False)
    app.add_route("/asyncapi.json", events_description, methods=["GET"], include_in_schema=False)
    return app
