"""What a cloud-init seed is made of (format: cloud-init's NoCloud datasource, network config version 2).

The seed carries everything a guest is set up with, so that nobody has to look at the project folder
again: besides cloud-init's own three files a tar of what lands below ``/etc/nocloud`` in the guest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Protocol

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.state import GuestState, Interface, Shared
from kvmcompose.render.cloud_init import PREFIX, CloudInitValues

#: The names by which the seed's renderer knows its files.
KEY_FILE = "ssh_public_key"
CONTEXT = "context"
ENVIRONMENT_FILE = "environment_file"

#: The labels of the images, by the source of data that a guest looks for.
LABELS = {"nocloud": "CIDATA", "configdrive": "config-2"}
TEMPLATES = ("user-data.j2", "network-config.j2", "meta-data.j2")


class SeedRoute(msgspec.Struct, frozen=True):
    """A route: destination, and the address of the router."""

    to: str
    via: str


class SeedAddresses(msgspec.Struct, frozen=True):
    """What an interface has on a logical switch, where there can be two families of addresses.

    ``dhcp`` are the versions of IP with DHCP; ``routed`` is whether DHCP's default route counts.
    ``addresses`` have prefix lengths.
    """

    dhcp: tuple[int, ...]
    routed: bool
    addresses: tuple[str, ...]
    routes: tuple[SeedRoute, ...]
    nameservers: tuple[str, ...]


class SeedInterface(msgspec.Struct, frozen=True, omit_defaults=True):
    """An interface as the guest's system configures it. ``ovn`` is in place of the addresses before it."""

    name: str
    mac: str
    ip: str
    prefix_length: int
    mtu: int
    gateway: str | None
    ovn: SeedAddresses | None = None


class WindowsSeed(msgspec.Struct, frozen=True):
    """What differs in a guest with cloudbase-init: ``datasource`` is ``nocloud`` or ``configdrive``."""

    datasource: str


class SeedValues(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the templates see, beside ``instance_id`` and ``ssh_authorized_keys``.

    ``context_modes`` are permission bits in octal digits, by paths in the context; it is no part of a recipe
    where the YAML gives none. ``identity`` and ``domain`` stand for ``guest`` and ``hostname`` in the
    instance-id, where they differ, so that a new name is no new instance. ``mounts`` are the commands that
    mount the guest's shares.
    """

    project: str
    guest: str
    hostname: str
    username: str
    interfaces: tuple[SeedInterface, ...]
    environment: dict[str, str]
    context_modes: dict[str, str] = {}
    identity: str | None = None
    domain: str | None = None
    cloud_init: CloudInitValues | None = None
    windows: WindowsSeed | None = None
    mounts: tuple[tuple[str, ...], ...] = ()


class HasModes(Protocol):
    """The values of a seed, or of another archive with a context."""

    @property
    def context_modes(self) -> dict[str, str]:
        """Permission bits in octal digits, by paths in the context."""


def context_modes(content: Rendered) -> Mapping[str, str]:
    """The modes of the context in a seed or another archive."""
    values: HasModes = content.values
    return values.context_modes


def numbered(folder: str, scripts: Sequence[str]) -> Mapping[str, str]:
    """Return the scripts of ``setup`` or ``run`` by their paths below ``/etc/nocloud``."""
    digits = max(2, len(str(len(scripts) - 1)))  # they are run in the order of their names
    return {
        f"{folder}/{number:0{digits}}-{PurePosixPath(script).name}": script
        for number, script in enumerate(scripts)
    }


def script_paths(folder: str, scripts: Sequence[str]) -> tuple[str, ...]:
    """Where the scripts of ``setup`` or ``run`` are inside the guest, in order."""
    return tuple(f"/etc/nocloud/{path}" for path in numbered(folder, scripts))


def _on_switch(nic: Interface) -> SeedAddresses | None:
    """Return what an interface has on a logical switch; None for one that is on a bridge or network."""
    if nic.attach != "ovn":
        return None
    static = [f"{nic.ip}/{nic.prefix_length}", nic.ipv6]
    routers = [
        each
        for each, is_static in ((nic.gateway, nic.ip != "dynamic"), (nic.ipv6_gateway, nic.ipv6 != "dynamic"))
        if each is not None and is_static
    ]
    return SeedAddresses(
        dhcp=tuple(sorted({6 if ":" in lease else 4 for lease in nic.leases})),
        routed=nic.gateway is not None or nic.ipv6_gateway is not None,
        addresses=tuple(each for each in static if each and not each.startswith("dynamic")),
        routes=tuple(SeedRoute("::/0" if ":" in via else "0.0.0.0/0", via) for via in routers),
        nameservers=nic.nameservers,
    )


def seed_iso(
    guest: GuestState,
    shared: Shared,
    *,
    username: str,
    environment: Mapping[str, str],
    environment_file: str | None,
    context: str | None,
    context_modes: Mapping[str, str],
    setup_scripts: Sequence[str],
    run_scripts: Sequence[str],
    cloud_init: CloudInitValues | None = None,
    cloud_init_files: Mapping[str, str] = MappingProxyType({}),
    windows: WindowsSeed | None = None,
    mounts: tuple[tuple[str, ...], ...] = (),
) -> Artefact:
    """The seed of a guest with cloud-init in it. ``cloud_init_files`` are paths by what they are for."""
    # a golden image is off, so that its name is no reason to set it up again
    by_id = guest.id is None or guest.is_golden_image
    values = SeedValues(
        project=shared.project_name,
        guest=guest.identity if by_id else guest.name,
        hostname=guest.domain if by_id else guest.hostname,
        username=username,
        interfaces=tuple(
            SeedInterface(
                f"eth{index}", nic.mac, nic.ip, nic.prefix_length, nic.mtu, nic.gateway, _on_switch(nic)
            )
            for index, nic in enumerate(guest.interfaces)
        ),
        environment=dict(environment),
        context_modes=dict(context_modes),
        identity=None if by_id else guest.identity,
        domain=None if by_id else guest.domain,
        cloud_init=cloud_init,
        windows=windows,
        mounts=mounts,
    )
    files = {
        KEY_FILE: shared.guest_config.ssh_public_key_location,
        **({ENVIRONMENT_FILE: environment_file} if environment_file is not None else {}),
        **({CONTEXT: context} if context is not None else {}),
        **numbered("setup", setup_scripts),
        **numbered("run", run_scripts),
        **{PREFIX + name: path for name, path in cloud_init_files.items()},
    }
    return Artefact(
        task=f"seed-iso:{guest.name}",
        path=f"artefacts/{guest.identity}-cloud-init.iso",
        policy=Policy.REPRODUCIBLE,
        content=Rendered("seed", values, templates=TEMPLATES, files=files),
        summary=f"cloud-init seed of {guest.name}",
        guest=guest.name,
        # contexts and environments hold what is nobody else's business
        mode=0o600,
    )
