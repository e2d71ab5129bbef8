"""The ``cloud_init`` section: data of the user's own for cloud-init, and short keys for parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from kvmcompose.core.environment import file_digest
from kvmcompose.core.project import ProjectFiles
from kvmcompose.render.cloud_init import DATA, CloudInitValues
from kvmcompose.render.seed import WindowsSeed

#: The largest file that goes into user-data, vendor-data or a network configuration, in bytes.
LARGEST = 2**20
#: Keys that are in the state as they are, or the path of a file.
_NO_VALUES = ("os", "datasource", "password_file")


class GuestUser(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user of the guest. ``sudo`` is a rule, or whether all commands are allowed."""

    name: str
    gecos: str = ""
    uid: int = 0
    shell: str = ""
    groups: tuple[str, ...] = ()
    sudo: bool | str = False
    ssh_authorized_keys: tuple[str, ...] = ()
    hashed_passwd_file: str | None = None


class GuestFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file in the guest: exactly one of ``content`` and ``source`` is set. ``mode`` is in octal digits."""

    path: str
    content: str | None = None
    source: str | None = None
    mode: str = "0644"
    owner: str = "root:root"


class Ntp(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a guest takes the time from: names or addresses."""

    servers: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()


class Apt(msgspec.Struct, frozen=True, omit_defaults=True):
    """URLs of Debian's mirrors, and of the proxy to them."""

    mirror: str | None = None
    security_mirror: str | None = None
    proxy: str | None = None


class Repository(msgspec.Struct, frozen=True, omit_defaults=True):
    """A repository of dnf; ``baseurl`` and ``gpgkey`` are URLs."""

    baseurl: str
    name: str | None = None
    enabled: bool = True
    gpgcheck: bool = True
    gpgkey: str | None = None


class Dnf(msgspec.Struct, frozen=True):
    """Repositories by their IDs."""

    repos: dict[str, Repository]


class CloudInit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The section in the YAML. ``ca_certs`` are paths; data is the path of a file or a mapping.

    ``os`` and ``datasource`` say what reads the seed: cloud-init, or cloudbase-init in Windows.
    """

    os: Literal["linux", "windows"] = "linux"
    datasource: Literal["nocloud", "configdrive"] = "nocloud"
    password_file: str | None = None
    user_data: str | dict[str, Any] | None = None
    vendor_data: str | dict[str, Any] | None = None
    network_config: str | dict[str, Any] | None = None
    packages: tuple[str | tuple[str, str], ...] = ()
    users: tuple[GuestUser, ...] = ()
    files: tuple[GuestFile, ...] = ()
    timezone: str | None = None
    ntp: Ntp | None = None
    ca_certs: tuple[str, ...] = ()
    apt: Apt | None = None
    dnf: Dnf | None = None

    def paths(self) -> Mapping[tuple[str | int, ...], str]:
        """Return the files of the project, by the keys that name them."""
        found: dict[tuple[str | int, ...], str] = {}
        for key in DATA:
            if isinstance(path := getattr(self, key), str):
                found[(key,)] = path
        if self.password_file is not None:
            found["password_file",] = self.password_file
        for number, user in enumerate(self.users):
            if user.hashed_passwd_file is not None:
                found["users", number, "hashed_passwd_file"] = user.hashed_passwd_file
        for number, file in enumerate(self.files):
            if file.source is not None:
                found["files", number, "source"] = file.source
        return found | {("ca_certs", number): path for number, path in enumerate(self.ca_certs)}


class StoredCloudInit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The section in the state.

    ``values`` are JSON by key, and in ``state.json`` digests of it. ``paths`` are the files, and ``digests``
    those of their contents, by what they are for: ``user_data`` or ``files/0``.
    """

    os: Literal["linux", "windows"] = "linux"
    datasource: Literal["nocloud", "configdrive"] = "nocloud"
    values: dict[str, str] = {}
    paths: dict[str, str] = {}
    digests: dict[str, str] = {}

    @property
    def windows(self) -> WindowsSeed | None:
        """What the seed of a Windows guest is; None for other guests."""
        return WindowsSeed(self.datasource) if self.os == "windows" else None

    def for_seed(self) -> CloudInitValues:
        """Return what the seed is made of, beside the files."""
        return CloudInitValues(self.values)


def stored(section: CloudInit | None) -> StoredCloudInit | None:
    """Return a section as the state has it."""
    if section is None:
        return None
    values = {
        key: msgspec.json.encode(value, order="deterministic").decode()
        for key in CloudInit.__struct_fields__
        if key not in _NO_VALUES
        and (value := getattr(section, key))
        and not (key in DATA and isinstance(value, str))
    }
    paths = {_use(key): path for key, path in section.paths().items()}
    return StoredCloudInit(os=section.os, datasource=section.datasource, values=values, paths=paths)


def _use(key: tuple[str | int, ...]) -> str:
    """Return what a file is for, from the keys that name it: ``users/0``."""
    return "/".join(str(step) for step in key[:2]).removesuffix("_file")


def with_digests(section: StoredCloudInit, files: ProjectFiles) -> StoredCloudInit:
    """Return the section with the digests of its files, as far as they can be read."""
    read = ((name, path, files.content(path, LARGEST)) for name, path in section.paths.items())
    digests = {name: file_digest(data, path) for name, path, data in read if data is not None}
    return msgspec.structs.replace(section, digests=digests)
