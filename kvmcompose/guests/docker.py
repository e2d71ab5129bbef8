"""Containers: each is created by an engine, Docker's or Podman's, from a request that is an artefact."""

from __future__ import annotations

import math
import posixpath
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import ContainerGuest, Mount
from kvmcompose.core.environment import LARGEST_FILE, file_digest
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, Shared
from kvmcompose.guests import _files, _scaling
from kvmcompose.guests._disks import ContextSection, check_context
from kvmcompose.render.container import container_files, container_request, request_path, resolver_file
from kvmcompose.render.seed import script_paths

#: Where the file with the resolvers is in a container.
RESOLV_CONF = "/etc/resolv.conf"
#: What Podman's service would read as the end of a mount's path: it makes options of a command of them.
_NOT_IN_MOUNTS = frozenset(',"')


class Volume(msgspec.Struct, frozen=True, omit_defaults=True):
    """A folder or file of the project to mount in the container; ``${PWD}`` is the project folder."""

    source: str
    target: str
    read_only: bool = False


class DockerSection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ``docker`` section of a machine.

    ``cpus`` may be a fraction; ``memory_mb`` is in MiB; None is without a limit.
    """

    image: str
    command: str | tuple[str, ...] | None = None
    entrypoint: str | tuple[str, ...] | None = None
    environment: dict[str, str] = {}
    env_file: str | None = None
    volumes: tuple[Volume, ...] = ()
    privileged: bool = False
    user: str | None = None
    device: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    cpus: float | None = None
    memory_mb: int | None = None
    context: str | ContextSection | None = None
    setup_script: str | None = None
    run_script: str | None = None
    scaling: _scaling.Scaling | None = None

    def __post_init__(self) -> None:
        """Sort the variables, so that the order of keys in the YAML does not affect the state."""
        msgspec.structs.force_setattr(self, "environment", dict(sorted(self.environment.items())))
        if isinstance(self.context, ContextSection):
            modes = dict(sorted(self.context.modes.items()))
            context = ContextSection(self.context.path, modes) if modes else self.context.path
            msgspec.structs.force_setattr(self, "context", context)

    @property
    def context_path(self) -> str | None:
        """The path of the context."""
        return self.context.path if isinstance(self.context, ContextSection) else self.context

    @property
    def context_modes(self) -> dict[str, str]:
        """The modes of the context's members that the YAML gives."""
        return self.context.modes if isinstance(self.context, ContextSection) else {}


class ContainerSection(DockerSection, frozen=True, kw_only=True, omit_defaults=True):
    """The section of a container in the state. ``env_digest`` represents the content of ``env_file``."""

    env_digest: str | None = None


Definition = DockerSection
CANNOT_RUN_YET = True


def _relative(source: str) -> str:
    """Return ``${PWD}/html`` as ``./html``: paths in the state are relative to the project folder."""
    for variable in ("${PWD}", "$PWD"):
        if source == variable or source.startswith(f"{variable}/"):
            return "." + source.removeprefix(variable)
    return source


def _with_relative_paths(body: DockerSection) -> DockerSection:
    paths = {
        key: _relative(value)
        for key in ("env_file", "context", "setup_script", "run_script")
        if isinstance(value := getattr(body, key), str)
    }
    volumes = tuple(msgspec.structs.replace(each, source=_relative(each.source)) for each in body.volumes)
    relative = msgspec.structs.replace(body, volumes=volumes, **paths)
    if isinstance(body.context, ContextSection):
        context = msgspec.structs.replace(body.context, path=_relative(body.context.path))
        relative = msgspec.structs.replace(relative, context=context)
    return relative


def _in_state(body: DockerSection) -> ContainerSection:
    given = msgspec.structs.asdict(_with_relative_paths(body))
    return ContainerSection(**{**given, "scaling": None})


def expand(machine: Machine) -> Iterator[Guest]:
    """Yield the container, or as many as ``scaling`` says."""
    body: DockerSection = machine.body
    guest = Guest(
        name=machine.name,
        kind=machine.kind,
        definition=_in_state(body),
        attachments=machine.attachments,
        machine=machine,
        cpus=math.ceil(body.cpus or 0),
        memory_mb=body.memory_mb or 0,
    )
    if body.scaling is None:
        yield guest
        return
    for number, attachments in enumerate(_scaling.attachments_of(machine)):
        yield msgspec.structs.replace(
            guest, name=_scaling.clone_name(machine, number), attachments=tuple(attachments)
        )


def complete(guest: Guest, files: ProjectFiles) -> Guest:
    """Return the guest with the digest of its file of variables in its definition."""
    definition: ContainerSection = guest.definition
    path = definition.env_file
    data = files.content(path, LARGEST_FILE) if path is not None else None
    if path is None or data is None:
        return guest
    completed = msgspec.structs.replace(definition, env_digest=file_digest(data, path))
    return msgspec.structs.replace(guest, definition=completed)


def check(machine: Machine, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of files that are missing, or that a container must not have."""
    body = _with_relative_paths(machine.body)
    for key in ("command", "entrypoint"):
        yield from _check_command((machine.kind, key), getattr(body, key))
    for name, value in body.environment.items():
        if "\0" in value:
            yield Complaint(
                code="bad-value",
                path=(machine.kind, "environment", name),
                message=f"the value of {name} has a NUL, which no variable can have",
            )
    if body.env_file is not None:
        yield from _files.environment_file(files, (machine.kind, "env_file"), body.environment, body.env_file)
    yield from _check_volumes(machine.kind, body.volumes, files)
    for key in ("setup_script", "run_script"):
        yield from _files.script(files, (machine.kind, key), getattr(body, key))
    if body.context is not None:
        yield from check_context(body.context, (machine.kind, "context"), files)
    if body.scaling is not None:
        yield from _scaling.check(machine, body.scaling)


def _check_command(at: tuple[str, ...], command: str | tuple[str, ...] | None) -> Iterator[Complaint]:
    if any("\0" in word for word in command or ()):
        yield Complaint(code="bad-value", path=at, message="an argument has a NUL, which none can have")
        return
    try:
        _words(command)
    except ValueError as error:
        yield Complaint(
            code="bad-value",
            path=at,
            message=f"this cannot be split into words as a shell does it: {str(error).lower()}",
            wanted="words with matching quotes, or a list of words",
            hint="write a list: [sh, -c, 'echo \"hello\"']",
        )


def _check_volumes(kind: str, volumes: tuple[Volume, ...], files: ProjectFiles) -> Iterator[Complaint]:
    seen: dict[str, int] = {}
    for index, volume in enumerate(volumes):
        at = (kind, "volumes", index)
        yield from _files.mounted(files, (*at, "source"), volume.source)
        for key in ("source", "target"):
            if _NOT_IN_MOUNTS & set(getattr(volume, key)):
                yield Complaint(
                    code="bad-value",
                    path=(*at, key),
                    message=f"the {key} of a volume has a comma or a quotation mark",
                    hint="container engines use these to separate paths: choose another name",
                )
        target = posixpath.normpath(volume.target)
        if target in seen:
            yield Complaint(
                code="bad-value",
                path=(*at, "target"),
                message=f"volumes[{seen[target]}] has the same target",
                found=repr(volume.target),
            )
        seen.setdefault(target, index)


def _words(command: str | tuple[str, ...] | None) -> list[str] | None:
    """Return a command as words; one text is split as a POSIX shell does it. Raises ValueError."""
    if command is None:
        return None
    return shlex.split(command) if isinstance(command, str) else list(command)


def _device(text: str) -> dict[str, str]:
    """Return a device as the API has it: ``/dev/host[:/dev/container][:rwm]``."""
    path, *others = text.split(":")
    inside = next((each for each in others if each.startswith("/")), path)
    rights = next((each for each in others if not each.startswith("/")), "rwm")
    return {"PathOnHost": path, "PathInContainer": inside, "CgroupPermissions": rights}


def _on_host(source: str, shared: Shared) -> str:
    """Return the path of a volume on its host."""
    return posixpath.normpath(posixpath.join(shared.host_config.project_folder, source))


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _limits(definition: ContainerSection) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if definition.memory_mb is not None:
        found["Memory"] = definition.memory_mb << 20
    if definition.cpus is not None:
        found["NanoCpus"] = round(definition.cpus * 1_000_000_000)
    return found


def _request(guest: GuestState, shared: Shared, resolvers: Artefact | None) -> dict[str, Any]:
    """Return the request but for ``Env``."""
    definition: ContainerSection = guest.definition
    mounts = [
        _bind(_on_host(each.source, shared), each.target, read_only=each.read_only)
        for each in definition.volumes
    ]
    if resolvers is not None:
        mounts.append(_bind(_on_host(resolvers.path, shared), RESOLV_CONF, read_only=True))
    host = {
        "NetworkMode": "none",
        **_limits(definition),
        "Privileged": definition.privileged,
        **({"CapAdd": list(definition.capabilities)} if definition.capabilities else {}),
        **({"Devices": [_device(each) for each in definition.device]} if definition.device else {}),
        **({"Mounts": mounts} if mounts else {}),
    }
    request = {
        "Hostname": guest.hostname,
        "User": definition.user,
        "Cmd": _words(definition.command),
        "Image": definition.image,
        "Entrypoint": _words(definition.entrypoint),
        "HostConfig": host,
    }
    return {key: value for key, value in request.items() if value is not None}


def _resolvers(guest: GuestState, shared: Shared) -> Artefact | None:
    """Return the ``/etc/resolv.conf`` with the resolvers of its networks, unless a volume takes its place."""
    definition: ContainerSection = guest.definition
    if any(posixpath.normpath(each.target) == RESOLV_CONF for each in definition.volumes):
        return None
    on_switches = [each for nic in guest.interfaces for each in nic.nameservers]
    # the router of a bridge is libvirt's network, whose dnsmasq knows the guests' names
    routers = [nic.gateway for nic in guest.interfaces if nic.attach != "ovn" and nic.gateway is not None]
    servers = tuple(dict.fromkeys((*on_switches, *routers)))
    return resolver_file(guest, servers, shared.project_name if on_switches else None) if servers else None


def _archive(guest: GuestState) -> Artefact | None:
    """Return the archive with scripts and context; None for a container with neither."""
    definition: ContainerSection = guest.definition
    setup, run = _scripts(definition)
    if not (setup or run or definition.context_path is not None):
        return None
    return container_files(
        guest,
        context=definition.context_path,
        context_modes=definition.context_modes,
        setup_scripts=setup,
        run_scripts=run,
    )


def _scripts(definition: ContainerSection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the scripts that run once, and those that run at each start."""
    setup = (definition.setup_script,) if definition.setup_script is not None else ()
    run = (definition.run_script,) if definition.run_script is not None else ()
    return setup, run


def artefacts(guest: GuestState, shared: Shared) -> Iterator[Artefact]:
    """Yield the request, and the files of the container's own that go with it."""
    definition: ContainerSection = guest.definition
    resolvers = _resolvers(guest, shared)
    yield container_request(
        guest, _request(guest, shared, resolvers), definition.environment, definition.env_file
    )
    yield from (each for each in (resolvers, _archive(guest)) if each is not None)


def deployable(guest: GuestState, shared: Shared) -> ContainerGuest:
    """Return how an engine runs the container."""
    definition = msgspec.convert(guest.definition, ContainerSection)
    guest = msgspec.structs.replace(guest, definition=definition)
    resolvers, archive = _resolvers(guest, shared), _archive(guest)
    setup, run = _scripts(definition)
    return ContainerGuest(
        request=request_path(guest.identity),
        image=definition.image,
        files=tuple(each.path for each in artefacts(guest, shared)),
        mounts=tuple(Mount(each.source, each.target, each.read_only) for each in definition.volumes),
        resolv_conf=resolvers.path if resolvers is not None else None,
        archive=archive.path if archive is not None else None,
        username=(definition.user or "root").partition(":")[0],
        setup_scripts=script_paths("setup", setup),
        run_scripts=script_paths("run", run),
        memory_mb=definition.memory_mb or 0,
        cpus=math.ceil(definition.cpus or 0),
    )


def privileges(guest: GuestState, shared: Shared) -> Iterator[Privilege]:  # noqa: ARG001 (as other kinds)
    """Yield the files outside the project that go into the container, beside those in its request."""
    definition = msgspec.convert(guest.definition, ContainerSection)
    setup, run = _scripts(definition)
    paths = [*setup, *run, *(each for each in (definition.context_path, definition.env_file) if each)]
    for path in dict.fromkeys(paths):
        if path.startswith(("/", "~")) or posixpath.normpath(path).split("/")[0] == "..":
            yield Privilege(PrivilegeKind.FILE, repr(path), f"guest {guest.name}")
