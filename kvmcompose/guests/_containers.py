"""What the YAML says of a container, and the request that an engine creates it from."""

from __future__ import annotations

import posixpath
import shlex
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.image_build import ImageBuild, build_key, build_tag
from kvmcompose.core.image_lock import pinned
from kvmcompose.core.image_source import ImageFile, image_file
from kvmcompose.core.order import Healthcheck
from kvmcompose.core.state import GuestState, Shared
from kvmcompose.guests import _scaling
from kvmcompose.guests._context import ContextSection, GivenFiles
from kvmcompose.guests._image_build import in_full
from kvmcompose.render.container import resolver_file

#: Where the file with the resolvers is in a container.
RESOLV_CONF = "/etc/resolv.conf"
_NANO = 1_000_000_000


class Volume(msgspec.Struct, frozen=True, omit_defaults=True):
    """A folder or file of the project to mount in the container; ``${PWD}`` is the project folder."""

    source: str
    target: str
    read_only: bool = False


class DockerSection(GivenFiles, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ``docker`` section of a machine.

    ``cpus`` may be a fraction; ``memory_mb`` is in MiB; None is without a limit.
    """

    image: str | None = None
    build: str | ImageBuild | None = None
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


class ContainerSection(DockerSection, frozen=True, kw_only=True, omit_defaults=True):
    """The section of a container in the state.

    ``env_digest`` represents the content of ``env_file``. ``image_digest`` is the digest that the lock gives
    the image, see ``core.image_lock``. ``build_digest`` is that of the context of an image that is built,
    ``image_id`` the ID of an image in a file.
    """

    env_digest: str | None = None
    image_digest: str | None = None
    build_digest: str | None = None
    image_id: str | None = None

    @property
    def image_build(self) -> ImageBuild | None:
        """How the image is built, None for one that is not."""
        return in_full(self.build)

    @property
    def image_file(self) -> ImageFile | None:
        """The file that the image is in, None for one that is in none."""
        return image_file(self.image or "")

    def reference(self, project: str) -> str:
        """Return the image: by its digest where the project pins it, its ID in a file, its key if built."""
        if (build := self.image_build) is not None:
            return build_tag(project, build_key(build, self.build_digest or ""))
        if self.image_id is not None:
            return self.image_id
        image = self.image or ""
        return image if self.image_digest is None else pinned(image, self.image_digest)

    @property
    def scripts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The scripts that run once, and those that run at each start."""
        setup = (self.setup_script,) if self.setup_script is not None else ()
        run = (self.run_script,) if self.run_script is not None else ()
        return setup, run


def words(command: str | tuple[str, ...] | None) -> list[str] | None:
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
        found["NanoCpus"] = round(definition.cpus * _NANO)
    return found


def _healthcheck(check: Healthcheck | None) -> dict[str, Any] | None:
    """Return a health check as the API has it: times are in nanoseconds."""
    if check is None:
        return None
    line = isinstance(check.command, str)
    return {
        "Test": ["CMD-SHELL", check.command] if line else ["CMD", *check.command],
        "Interval": round(check.interval * _NANO),
        "Timeout": round(check.timeout * _NANO),
        "Retries": check.retries,
        "StartPeriod": round(check.start_period * _NANO),
    }


#: What a container prints is kept up to 30 MB: without a limit it could fill the disk of its host. Podman,
#: which calls the type k8s-file, keeps 10 MB.
LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def request(guest: GuestState, shared: Shared, resolver: Artefact | None) -> dict[str, Any]:
    """Return the request but for ``Env``."""
    definition: ContainerSection = guest.definition
    mounts = [
        _bind(_on_host(each.source, shared), each.target, read_only=each.read_only)
        for each in definition.volumes
    ]
    if resolver is not None:
        mounts.append(_bind(_on_host(resolver.path, shared), RESOLV_CONF, read_only=True))
    host = {
        "NetworkMode": "none",
        "LogConfig": LOG_CONFIG,
        **_limits(definition),
        "Privileged": definition.privileged,
        **({"CapAdd": list(definition.capabilities)} if definition.capabilities else {}),
        **({"Devices": [_device(each) for each in definition.device]} if definition.device else {}),
        **({"Mounts": mounts} if mounts else {}),
    }
    body = {
        "Hostname": guest.hostname,
        "User": definition.user,
        "Cmd": words(definition.command),
        "Healthcheck": _healthcheck(guest.healthcheck),
        "Image": definition.reference(shared.project_name),
        "Entrypoint": words(definition.entrypoint),
        "HostConfig": host,
    }
    return {key: value for key, value in body.items() if value is not None}


def resolvers(guest: GuestState, shared: Shared) -> Artefact | None:
    """Return the ``/etc/resolv.conf`` with the resolvers of its networks, unless a volume takes its place."""
    definition: ContainerSection = guest.definition
    if any(posixpath.normpath(each.target) == RESOLV_CONF for each in definition.volumes):
        return None
    on_switches = [each for nic in guest.interfaces for each in nic.nameservers]
    # the router of a bridge is libvirt's network, whose dnsmasq knows the guests' names
    routers = [nic.gateway for nic in guest.interfaces if nic.attach != "ovn" and nic.gateway is not None]
    servers = tuple(dict.fromkeys((*on_switches, *routers)))
    return resolver_file(guest, servers, shared.project_name if on_switches else None) if servers else None
