"""Docker containers. They are placed and in the state, but have no artefacts and cannot run yet."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, Shared
from kvmcompose.guests import _files, _scaling


class Volume(msgspec.Struct, frozen=True):
    """A folder or file of the project to mount in the container; ``${PWD}`` is the project folder."""

    source: str
    target: str


class DockerSection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ``docker`` section of a machine, and of the state."""

    image: str
    command: str | None = None
    entrypoint: str | None = None
    environment: dict[str, str] = {}
    env_file: str | None = None
    volumes: tuple[Volume, ...] = ()
    privileged: bool = False
    user: str | None = None
    device: tuple[str, ...] = ()
    scaling: _scaling.Scaling | None = None

    def __post_init__(self) -> None:
        """Sort the variables, so that the order of keys in the YAML does not affect the state."""
        msgspec.structs.force_setattr(self, "environment", dict(sorted(self.environment.items())))


Definition = DockerSection
CANNOT_RUN_YET = True


def _relative(source: str) -> str:
    """Return ``${PWD}/html`` as ``./html``: paths in the state are relative to the project folder."""
    for variable in ("${PWD}", "$PWD"):
        if source == variable or source.startswith(f"{variable}/"):
            return "." + source.removeprefix(variable)
    return source


def expand(machine: Machine) -> Iterator[Guest]:
    """Yield the container, or as many as ``scaling`` says."""
    body: DockerSection = machine.body
    volumes = tuple(Volume(_relative(volume.source), volume.target) for volume in body.volumes)
    guest = Guest(
        name=machine.name,
        kind=machine.kind,
        definition=msgspec.structs.replace(body, volumes=volumes, scaling=None),
        attachments=machine.attachments,
        machine=machine,
    )
    if body.scaling is None:
        yield guest
        return
    for number, attachments in enumerate(_scaling.attachments_of(machine)):
        yield msgspec.structs.replace(
            guest, name=_scaling.clone_name(machine, number), attachments=tuple(attachments)
        )


def check(machine: Machine, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of files that are missing, or that a container must not have."""
    body: DockerSection = machine.body
    if body.env_file is not None:
        yield from _files.carried(files, (machine.kind, "env_file"), body.env_file)
    for index, volume in enumerate(body.volumes):
        path = (machine.kind, "volumes", index, "source")
        yield from _files.mounted(files, path, _relative(volume.source))
    if body.scaling is not None:
        yield from _scaling.check(machine, body.scaling)


def artefacts(_guest: GuestState, _shared: Shared) -> Iterator[Artefact]:
    """Yield nothing: a container is created from its image when the testbed comes up."""
    yield from ()
