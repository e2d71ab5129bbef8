"""The request that creates a container, and the files that go with it (format: Docker Engine API, v1.41).

The request is the body of ``POST /containers/create``, as Docker and Podman's service read it. Labels are no
part of it. A container has no network of the engine's, and so nothing but a file of ours as
``/etc/resolv.conf``: Podman ignores ``HostConfig.Dns`` without one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, BinaryIO

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.environment import parse_environment
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import GuestState
from kvmcompose.render.archive import end, pack_context, packed_files
from kvmcompose.render.inputs import Sources
from kvmcompose.render.seed import CONTEXT, ENVIRONMENT_FILE, numbered

#: The keys of the request in the order in which the API documents them.
_ORDER = (
    "Hostname", "User", "Env", "Cmd", "Healthcheck", "Image", "WorkingDir", "Entrypoint", "StopSignal",
    "HostConfig",
)  # fmt: skip


class ContainerValues(msgspec.Struct, frozen=True, kw_only=True):
    """What the request is made from: all of it but ``Env``, and the variables of the YAML.

    No recipe has the values of ``environment``, only their digests.
    """

    request: dict[str, Any]
    environment: dict[str, str]


class ResolverValues(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses of resolvers, and the domain in which names without a dot are looked up."""

    nameservers: tuple[str, ...]
    search: str | None = None


class FilesValues(msgspec.Struct, frozen=True, kw_only=True):
    """Permission bits of members of the context, in octal digits, by their paths in it."""

    context_modes: dict[str, str] = {}


def write_request(content: Rendered, sources: Sources, out: BinaryIO) -> None:
    """Write the request. Raises InputError for a file of variables that has problems."""
    values: ContainerValues = content.values
    variables = values.environment
    if ENVIRONMENT_FILE in sources.files:
        found, problems = parse_environment(sources.files[ENVIRONMENT_FILE], content.files[ENVIRONMENT_FILE])
        if problems:
            raise InputError(problems)
        variables = variables | found
    body = dict(values.request)
    if variables:
        body["Env"] = [f"{name}={value}" for name, value in sorted(variables.items())]
    ordered = {key: body[key] for key in _ORDER if key in body}
    out.write(msgspec.json.format(msgspec.json.encode(ordered), indent=2) + b"\n")


def write_resolvers(content: Rendered, _sources: Sources, out: BinaryIO) -> None:
    """Write resolv.conf(5)."""
    values: ResolverValues = content.values
    lines = [f"search {values.search}"] if values.search is not None else []
    lines += [f"nameserver {each}" for each in values.nameservers]
    out.write("".join(f"{line}\n" for line in lines).encode())


def write_files(_content: Rendered, sources: Sources, out: BinaryIO) -> None:
    """Write the archive: the context first, as in a seed, then the scripts."""
    if sources.context is None:
        pack_context((), sources.epoch, out)
    else:
        with sources.context.open() as packed:
            while data := packed.read(io.DEFAULT_BUFFER_SIZE << 4):
                out.write(data)
    out.write(packed_files({name: (data, True) for name, data in sources.files.items()}, sources.epoch))
    out.write(end(out.tell()))


def container_request(
    guest: GuestState,
    request: dict[str, Any],
    environment: dict[str, str],
    environment_file: str | None,
) -> Artefact:
    """Return the request of a container."""
    files = {ENVIRONMENT_FILE: environment_file} if environment_file is not None else {}
    return Artefact(
        task=f"container:{guest.name}",
        path=request_path(guest.identity),
        policy=Policy.TEXT,
        content=Rendered("container", ContainerValues(request=request, environment=environment), files=files),
        summary=f"container of {guest.name}",
        guest=guest.name,
        mode=0o600,  # it has the values of variables
    )


def resolver_file(guest: GuestState, nameservers: Sequence[str], search: str | None) -> Artefact:
    """Return the ``/etc/resolv.conf`` of a container. Any user in it has to be able to read it."""
    return Artefact(
        task=f"resolv-conf:{guest.name}",
        path=f"artefacts/{guest.identity}-resolv.conf",
        policy=Policy.TEXT,
        content=Rendered("resolv-conf", ResolverValues(nameservers=tuple(nameservers), search=search)),
        summary=f"resolvers of {guest.name}",
        guest=guest.name,
    )


def container_files(
    guest: GuestState,
    *,
    context: str | None,
    context_modes: dict[str, str],
    setup_scripts: Sequence[str],
    run_scripts: Sequence[str],
) -> Artefact:
    """Return the archive with the scripts and the context of a container."""
    files = {
        **({CONTEXT: context} if context is not None else {}),
        **numbered("setup", setup_scripts),
        **numbered("run", run_scripts),
    }
    return Artefact(
        task=f"container-files:{guest.name}",
        path=f"artefacts/{guest.identity}-container.tar",
        policy=Policy.REPRODUCIBLE,
        content=Rendered("container-files", FilesValues(context_modes=context_modes), files=files),
        summary=f"scripts and context of {guest.name}",
        guest=guest.name,
        mode=0o600,
    )


def request_path(identity: str) -> str:
    """Return the path of the request of the container with that identity."""
    return f"artefacts/{identity}-container.json"
