"""Containers: each is created by an engine, Docker's or Podman's, from a request that is an artefact."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import ContainerBuild, ContainerGuest, Mount
from kvmcompose.core.environment import LARGEST_FILE, file_digest
from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.image_build import ImageBuild
from kvmcompose.core.image_lock import LARGEST_LOCK, LOCK_PATH, ImageLock, is_pinned, read_lock
from kvmcompose.core.image_source import image_file, is_reference
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.project import FileKind, ProjectFiles
from kvmcompose.core.state import GuestState, Shared
from kvmcompose.guests import _files, _image_build, _nics, _scaling
from kvmcompose.guests._containers import ContainerSection, DockerSection, request, resolvers, words
from kvmcompose.guests._context import ContextSection, check_context
from kvmcompose.guests._mounts import check_mounts
from kvmcompose.render.build_context import build_context
from kvmcompose.render.container import container_files, container_request, request_path
from kvmcompose.render.seed import script_paths

Definition = DockerSection
HAS_DHCP_CLIENT = False


def _relative(source: str) -> str:
    """Return ``${PWD}/html`` as ``./html``: paths in the state are relative to the project folder."""
    for variable in ("${PWD}", "$PWD"):
        if source == variable or source.startswith(f"{variable}/"):
            return "." + source.removeprefix(variable)
    return source


def _with_relative_paths(body: DockerSection) -> DockerSection:
    paths = {
        key: _relative(value)
        for key in ("build", "env_file", "context", "setup_script", "run_script")
        if isinstance(value := getattr(body, key), str)
    }
    volumes = tuple(msgspec.structs.replace(each, source=_relative(each.source)) for each in body.volumes)
    if body.image is not None and (source := image_file(body.image)) is not None:
        paths["image"] = str(msgspec.structs.replace(source, path=_relative(source.path)))
    relative = msgspec.structs.replace(body, volumes=volumes, **paths)
    if isinstance(body.context, ContextSection):
        context = msgspec.structs.replace(body.context, path=_relative(body.context.path))
        relative = msgspec.structs.replace(relative, context=context)
    if isinstance(body.build, ImageBuild):
        build = msgspec.structs.replace(body.build, context=_relative(body.build.context))
        relative = msgspec.structs.replace(relative, build=build)
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


#: Many containers of one project ask for the same lock.
_read_lock = lru_cache(maxsize=1)(read_lock)


def _lock(files: ProjectFiles) -> ImageLock | None:
    """Return the lock of the project, None where it has none that can be read."""
    if files.kind(LOCK_PATH) is not FileKind.FILE or not files.is_inside(LOCK_PATH):
        return None
    data = files.content(LOCK_PATH, LARGEST_LOCK)
    return _read_lock(data) if data is not None else None


def complete(guest: Guest, files: ProjectFiles) -> Guest:
    """Return the guest with the digests of its image and of its file of variables in its definition."""
    definition: ContainerSection = guest.definition
    path = definition.env_file
    data = files.content(path, LARGEST_FILE) if path is not None else None
    image, source = definition.image, definition.image_file
    lock = _lock(files) if image is not None and source is None and not is_pinned(image) else None
    image_id = files.image_id(source) if source is not None else None
    completed = msgspec.structs.replace(
        definition,
        env_digest=file_digest(data, path) if path is not None and data is not None else None,
        image_digest=lock.digests.get(image) if lock is not None and image is not None else None,
        image_id=image_id if isinstance(image_id, str) else None,
        build_digest=_image_build.digest(definition.image_build, files),
    )
    return msgspec.structs.replace(guest, definition=completed)


def check(machine: Machine, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of files that are missing, or that a container must not have."""
    body = _with_relative_paths(machine.body)
    if body.image is not None:
        yield from _check_image((machine.kind, "image"), body.image, files)
    if body.build is not None:
        yield from _image_build.check(body.build, (machine.kind, "build"), files)
    for key in ("command", "entrypoint"):
        yield from _check_command((machine.kind, key), getattr(body, key))
    if body.env_file is not None:
        yield from _files.environment_file(files, (machine.kind, "env_file"), body.environment, body.env_file)
    yield from check_mounts((machine.kind, "volumes"), "volume", body.volumes, files)
    for key in ("setup_script", "run_script"):
        yield from _files.script(files, (machine.kind, key), getattr(body, key))
    if body.context is not None:
        yield from check_context(body.context, (machine.kind, "context"), files)
    yield from _nics.check_container(machine)
    if body.scaling is not None:
        yield from _scaling.check(machine, body.scaling)


def _check_image(at: tuple[str, ...], image: str, files: ProjectFiles) -> Iterator[Complaint]:
    if is_reference(image):
        yield from _check_lock(at, image, files)
        return
    if (source := image_file(image)) is not None:
        yield from _files.container_image(files, at, source)
        return
    yield Complaint(
        code="bad-value",
        path=at,
        message="this names neither an image of a registry nor one in a file",
        found=repr(image),
        wanted="a reference like 'nginx:1.25', in lower case, or docker-archive:, oci-archive: or oci:PATH",
    )


def _check_lock(at: tuple[str, ...], image: str, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of a lock that cannot be read, or that does not have the image."""
    kind = files.kind(LOCK_PATH)
    if is_pinned(image) or kind is FileKind.MISSING:
        return
    lock = _lock(files)
    if lock is None:
        what = (
            "is no regular file in the project folder"
            if kind is not FileKind.UNREADABLE
            else "cannot be read"
        )
        yield Complaint(
            code="bad-lock",
            path=at,
            message=f"{LOCK_PATH} {what}",
            hint=f"begin again: rm {LOCK_PATH}; kvm-compose pull",
        )
        return
    for each in lock.problems[:1]:  # one is enough: every container of the project would repeat them
        yield Complaint(
            code=each.code,
            path=at,
            message=each.message,
            wanted=each.wanted,
            hint=each.hint,
            location=each.location,
        )
    if not lock.problems and image not in lock.digests:
        yield Complaint(
            code="not-in-lock",
            path=at,
            message=f"{LOCK_PATH} does not have the image {image!r}: it can change",
            hint="to pin it: kvm-compose pull",
            severity=Severity.WARNING,
        )


def _check_command(at: tuple[str, ...], command: str | tuple[str, ...] | None) -> Iterator[Complaint]:
    try:
        if words(command) == []:  # the engine would take the image's own
            yield Complaint(code="empty-value", path=at, message="there is no word in it")
    except ValueError as error:
        yield Complaint(
            code="bad-value",
            path=at,
            message=f"this cannot be split into words as a shell does it: {str(error).lower()}",
            wanted="words with matching quotes, or a list of words",
            hint="write a list: [sh, -c, 'echo \"hello\"']",
        )


def _archive(guest: GuestState) -> Artefact | None:
    """Return the archive with scripts and context; None for a container with neither."""
    definition: ContainerSection = guest.definition
    setup, run = definition.scripts
    if not (setup or run or definition.context_path is not None):
        return None
    return container_files(
        guest,
        context=definition.context_path,
        context_modes=definition.context_modes,
        setup_scripts=setup,
        run_scripts=run,
    )


def artefacts(guest: GuestState, shared: Shared) -> Iterator[Artefact]:
    """Yield the request, and the files of the container's own that go with it."""
    definition: ContainerSection = guest.definition
    resolver_file = resolvers(guest, shared)
    yield container_request(
        guest, request(guest, shared, resolver_file), definition.environment, definition.env_file
    )
    yield from (each for each in (resolver_file, _archive(guest)) if each is not None)
    if (build := definition.image_build) is not None:
        yield build_context(build)


def deployable(guest: GuestState, shared: Shared) -> ContainerGuest:
    """Return how an engine runs the container."""
    definition = msgspec.convert(guest.definition, ContainerSection)
    guest = msgspec.structs.replace(guest, definition=definition)
    resolver_file, archive = resolvers(guest, shared), _archive(guest)
    setup, run = definition.scripts
    own = (each.path for each in (resolver_file, archive) if each is not None)
    build = definition.image_build
    return ContainerGuest(
        request=request_path(guest.identity),
        image=definition.reference(shared.project_name),
        image_file=definition.image_file if definition.image_id is not None else None,
        build=ContainerBuild(build, definition.build_digest or "") if build is not None else None,
        files=(request_path(guest.identity), *own),
        mounts=tuple(Mount(each.source, each.target, each.read_only) for each in definition.volumes),
        resolv_conf=resolver_file.path if resolver_file is not None else None,
        archive=archive.path if archive is not None else None,
        username=(definition.user or "root").partition(":")[0],
        setup_scripts=script_paths("setup", setup),
        run_scripts=script_paths("run", run),
        memory_mb=definition.memory_mb or 0,
        cpus=math.ceil(definition.cpus or 0),
    )


def privileges(guest: GuestState, shared: Shared) -> Iterator[Privilege]:  # noqa: ARG001 (as other kinds)
    """Yield how its image is built, and files outside the project that go into either of the two."""
    definition = msgspec.convert(guest.definition, ContainerSection)
    setup, run = definition.scripts
    paths = [*setup, *run, *(each for each in (definition.context_path, definition.env_file) if each)]
    if (source := definition.image_file) is not None:
        paths.append(source.path)
    if (build := definition.image_build) is not None:
        yield _image_build.privilege(build)
        paths.append(build.context)
    for path in dict.fromkeys(paths):
        if path.startswith(("/", "~")) or posixpath.normpath(path).split("/")[0] == "..":
            yield Privilege(PrivilegeKind.FILE, repr(path), f"guest {guest.name}")
