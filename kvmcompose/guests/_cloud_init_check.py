"""What is wrong with a ``cloud_init`` section that its schema cannot say."""

from __future__ import annotations

import codecs
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.errors import Complaint, Location, Severity
from kvmcompose.core.model import Machine
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.public_keys import parse_public_keys
from kvmcompose.guests import _files
from kvmcompose.guests._cloud_init import LARGEST, CloudInit
from kvmcompose.guests._yaml_places import YamlPlaces, yaml_places, yaml_value
from kvmcompose.render.cloud_init import (
    CLOUD_CONFIG,
    CLOUD_CONFIG_TYPE,
    NETWORK_CONFIG,
    USER_DATA,
    VENDOR_DATA,
    cloud_config,
    content_type,
    decompressed,
)

_Path = tuple[str | int, ...]

#: crypt(5): the methods that a guest's libcrypt may know, and no others.
_HASH = re.compile(r"\$(?:y|gy|7|2[abxy]|6|5|1|sha1|md5)\$[!-~]{8,}")
_PASSWORD = re.compile(rb"[^\x00-\x1f\x7f]{1,127}\r?\n?")
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
#: Lists of ours; of another type in user-data, they would take the place of ours.
_LISTS = ("users", "bootcmd", "runcmd")
#: Short keys: cloudbase-init has other names, or none, for what they are translated to.
_NOT_IN_WINDOWS = ("packages", "users", "files", "timezone", "ntp", "ca_certs", "apt", "dnf")
#: Of keys that are given several times, so many are named.
_MOST_HIDDEN = 10
#: So many characters of a value are shown.
_SHOWN = 40
#: With more, a file is not checked by the schema, which would take long.
_MOST_VALUES = 20_000
_FORMATS = "#cloud-config, #!, #include, ## template: jinja, or a MIME archive in the first line"
#: All files of a section together, in bytes: user-data is read into the guest's memory several times.
MOST = 8 * 2**20


def check_cloud_init(section: CloudInit, machine: Machine, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of a section and of its files."""
    at = (machine.kind, "cloud_init")
    if machine.body.libvirt_type.cloud_image is None:
        yield Complaint(
            code="needs-cloud-init",
            path=at,
            message="only a cloud_image has cloud-init",
            at_key=True,
        )
        return
    yield from _check_os(section, machine, at)
    contents: dict[_Path, bytes] = {}
    yield from _check_paths(section, at, files, contents)
    yield from _check_users(section, machine, contents, at)
    yield from _check_files(section, contents, at)
    for key in (USER_DATA, VENDOR_DATA, NETWORK_CONFIG):
        value = getattr(section, key)
        if isinstance(value, dict):
            yield from _Data(key, (*at, key), files, section.os).in_yaml(value)
        elif (key,) in contents:
            yield from _Data(key, (*at, key), files, section.os, value).in_file(contents[key,])


def _check_paths(
    section: CloudInit, at: _Path, files: ProjectFiles, contents: dict[_Path, bytes]
) -> Iterator[Complaint]:
    """Yield the problems of files as such, and add what those without any have to ``contents``."""
    for keys, path in section.paths().items():
        wrong = [*_files.carried(files, (*at, *keys), path)]
        data = files.content(path, LARGEST) if not wrong else None
        if wrong or data is None:
            yield from wrong or [_files.unreadable((*at, *keys), path)]
        elif len(data) > LARGEST:
            yield Complaint(
                code="too-large",
                path=(*at, *keys),
                message=f"{path!r} is larger than {LARGEST >> 20} MiB",
                hint="put it into the guest's context: cloud_image: {context: FOLDER}",
            )
        else:
            contents[keys] = data
    if ("password_file",) in contents and not _PASSWORD.fullmatch(contents["password_file",]):
        yield Complaint(
            code="bad-password",
            path=(*at, "password_file"),
            message=f"{section.password_file!r} has no password",
            wanted="one line of at most 127 characters, in UTF-8, with the password itself",
            location=Location(str(section.password_file), 1, 1),
        )


def _check_os(section: CloudInit, machine: Machine, at: _Path) -> Iterator[Complaint]:
    if section.os == "windows":
        yield from _check_windows(section, machine, at)
        return
    for key in ("password_file", "datasource"):
        if getattr(section, key) not in (None, "nocloud"):
            yield Complaint(
                code="needs-windows",
                path=(*at, key),
                message="it is for cloudbase-init, and the guest has cloud-init",
                hint="add os: windows, or leave it out",
                at_key=True,
            )


def _check_windows(section: CloudInit, machine: Machine, at: _Path) -> Iterator[Complaint]:
    """Yield the keys that cloudbase-init, or our own set-up, cannot make anything of in Windows."""
    for key in (VENDOR_DATA, *_NOT_IN_WINDOWS):
        if getattr(section, key):
            yield Complaint(
                code="not-in-windows",
                path=(*at, key),
                message=f"cloudbase-init does nothing with {key!r}",
                hint="write what it knows as user_data: a cloud-config with users, write_files, "
                "set_timezone, ntp or runcmd, or PowerShell that begins with #ps1_sysnative",
                at_key=True,
            )
    if section.datasource == "configdrive" and section.network_config is not None:
        yield Complaint(
            code="not-in-windows",
            path=(*at, NETWORK_CONFIG),
            message="the network of a config drive has OpenStack's form, and follows from the interfaces",
            hint="leave it out, or use datasource: nocloud",
            at_key=True,
        )
    cloud = machine.body.libvirt_type.cloud_image
    for key in ("setup_script", "run_script", "context", "environment", "environment_file"):
        if getattr(cloud, key):
            yield Complaint(
                code="not-in-windows",
                path=(machine.kind, "libvirt_type", "cloud_image", key),
                message=f"{key!r} needs a shell of Unix, which Windows has not",
                hint="write PowerShell that begins with #ps1_sysnative: cloud_init: {user_data: FILE}",
                at_key=True,
            )


def _check_users(
    section: CloudInit, machine: Machine, contents: dict[_Path, bytes], at: _Path
) -> Iterator[Complaint]:
    names = {machine.body.username: "the machine's username", "root": "a user of every guest"}
    numbers: dict[int, str] = {}
    for number, user in enumerate(section.users):
        here = (*at, "users", number)
        if user.name in names:
            yield Complaint(
                code="duplicate-name",
                path=(*here, "name"),
                message=f"{user.name!r} is {names[user.name]}",
                hint="what cloud-init can do to it: user_data",
            )
        names[user.name] = f"the user of number {number}, too"
        if user.uid in numbers:
            yield Complaint(
                code="duplicate-name",
                path=(*here, "uid"),
                message=f"{user.uid} is the uid of {numbers[user.uid]!r} as well",
            )
        if user.uid:
            numbers.setdefault(user.uid, user.name)
        for index, key in enumerate(user.ssh_authorized_keys):
            for problem in parse_public_keys(key.encode(), "key")[1]:
                yield Complaint(
                    code=problem.code,
                    path=(*here, "ssh_authorized_keys", index),
                    message=problem.message,
                    wanted=problem.wanted,
                    hint=problem.hint,
                )
        where = ("users", number, "hashed_passwd_file")
        if where in contents and not _HASH.fullmatch(contents[where].decode(errors="replace").strip()):
            yield Complaint(
                code="bad-password",
                path=(*at, *where),
                message=f"{user.hashed_passwd_file!r} has no hash of a password",
                wanted="one line, as mkpasswd or openssl passwd -6 prints it: $6$…",
                location=Location(str(user.hashed_passwd_file), 1, 1),
            )


def _check_files(section: CloudInit, contents: dict[_Path, bytes], at: _Path) -> Iterator[Complaint]:
    seen: dict[str, int] = {}
    for number, file in enumerate(section.files):
        path = "/" + posixpath.normpath(file.path).lstrip("/")
        if path in seen:
            yield Complaint(
                code="duplicate-path",
                path=(*at, "files", number, "path"),
                message=f"{path!r} is written by the file of number {seen[path]}, too",
            )
        seen.setdefault(path, number)
    total = sum(map(len, contents.values()))
    if total > MOST:
        yield Complaint(
            code="too-large",
            path=at,
            message=f"its files have {total >> 20} MiB together",
            wanted=f"at most {MOST >> 20} MiB",
            hint="put large ones into the guest's context: cloud_image: {context: FOLDER}",
            at_key=True,
        )
    for number, path in enumerate(section.ca_certs):
        data = contents.get(("ca_certs", number))
        if data is not None and (_CERTIFICATE not in data or not data.isascii()):
            yield Complaint(
                code="bad-certificate",
                path=(*at, "ca_certs", number),
                message=f"{path!r} has no certificate",
                wanted=f"a file in the format PEM: {_CERTIFICATE.decode()}",
                hint="openssl x509 -inform der -in FILE -out FILE.pem",
            )


class _Data(msgspec.Struct, frozen=True):
    """User-data, vendor-data or a network configuration: its ``key``, at a path, in a file or in the YAML."""

    key: str
    at: _Path
    files: ProjectFiles
    os: str
    file: str | None = None

    def in_yaml(self, value: dict[str, Any]) -> Iterator[Complaint]:
        """Yield the problems of a mapping in the YAML. An empty one is as good as none."""
        if not value and self.key != NETWORK_CONFIG:
            return
        kinds = {name: "list" if isinstance(each, list) else "value" for name, each in value.items()}
        yield from (
            self._of_keys(YamlPlaces(keys=kinds))
            or self._of_version(YamlPlaces(), value)
            or self._of_schema(YamlPlaces(), cloud_config(value))
        )

    def in_file(self, data: bytes) -> Iterator[Complaint]:
        """Yield the problems of data in a file."""
        try:
            data = decompressed(data) if self.key != NETWORK_CONFIG else data
        except ValueError as error:
            yield self._complaint(f"{self.file!r} {error}", Location(str(self.file)), code="bad-user-data")
            return
        kind = CLOUD_CONFIG_TYPE if self.key == NETWORK_CONFIG else content_type(data)
        if kind is None:
            yield self._complaint(
                f"{self.file!r} is of no format that cloud-init knows",
                Location(str(self.file), 1, 1),
                wanted=_FORMATS,
                hint="it begins with a byte-order mark: save it as UTF-8 without one"
                if data.startswith(codecs.BOM_UTF8)
                else f"the first line of a cloud-config is {CLOUD_CONFIG}",
                code="bad-user-data",
            )
        if kind != CLOUD_CONFIG_TYPE:
            return
        try:
            found = yaml_places(data.decode(), str(self.file))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            yield self._complaint("is not UTF-8", Location(str(self.file), line, 1), code="not-utf8")
            return
        if found.flaw is not None:
            yield self._complaint(*found.flaw, code="yaml-syntax")
        elif found.root != "mapping":
            message = f"{self.file!r} has no mapping at its top"
            yield self._complaint(message, Location(str(self.file), 1, 1), code="bad-user-data")
        else:
            for name, location in found.hidden[:_MOST_HIDDEN]:
                yield self._complaint(
                    f"{name!r} is given again below, and only the last one is read",
                    location,
                    hint="join the two",
                    severity=Severity.WARNING,
                    code="ignored-key",
                )
            value = (
                yaml_value(data.decode()) if self.key == NETWORK_CONFIG and found.are_few_aliases else None
            )
            yield from (
                self._of_keys(found) or self._of_version(found, value) or self._of_schema(found, data)
            )

    def _of_version(self, found: YamlPlaces, value: Any) -> list[Complaint]:
        """Return the problem of a network configuration of a version that cloud-init does not have."""
        if self.key != NETWORK_CONFIG or not isinstance(value, dict):
            return []
        at = ("network",) if isinstance(value.get("network"), dict) else ()
        network = value["network"] if at else value
        version = network.get("version")
        if str(version) in ("1", "2"):
            return []
        complaint = self._complaint(
            "cloud-init has no network configuration of this version",
            found.near((*at, "version")),
            found="nothing" if version is None else str(version)[:_SHOWN],
            wanted="version: 1 or version: 2",
            code="bad-user-data",
        )
        return [complaint]

    def _of_schema(self, found: YamlPlaces, data: bytes) -> Iterator[Complaint]:
        """Yield what cloud-init's schema says: warnings, as the guest's may be of another version."""
        if self.key == NETWORK_CONFIG or self.os == "windows":
            return
        if not found.are_few_aliases or len(found.places) > _MOST_VALUES:
            return
        for path, message in dict.fromkeys(self.files.cloud_config_errors(data)):
            yield Complaint(
                code="cloud-config-schema",
                path=(*self.at, *path) if self.file is None else self.at,
                message=f"by cloud-init's schema, {'.'.join(map(str, path)) or 'it'}: {message}",
                severity=Severity.WARNING,
                location=found.near(path) if self.file is not None else None,
            )

    def _of_keys(self, found: YamlPlaces) -> list[Complaint]:
        return [*self._keys(found)]

    def _keys(self, found: YamlPlaces) -> Iterator[Complaint]:
        if self.key == NETWORK_CONFIG:
            if not found.keys.keys() & {"version", "network"}:
                yield self._complaint(
                    "there is no 'version' in it",
                    found.near(()),
                    wanted="version: 1 or version: 2, as in cloud-init's network configuration",
                    code="bad-user-data",
                )
            return
        for name in _LISTS:
            if name not in found.keys:
                continue
            if self.key == VENDOR_DATA:
                yield self._complaint(
                    f"cloud-init ignores {name!r} of vendor_data, as user-data has it, too: ours",
                    found.near((name,)),
                    below=name,
                    hint="write it in user_data",
                    severity=Severity.WARNING,
                    code="ignored-key",
                )
            elif found.keys[name] != "list":
                yield self._complaint(
                    f"{name!r} is no list, so ours, without which nobody can log in, is not joined to it",
                    found.near((name,)),
                    below=name,
                    wanted=f"{name}: […]",
                    code="bad-user-data",
                )

    def _complaint(
        self, message: str, location: Location | None, below: str | None = None, **others: Any
    ) -> Complaint:
        in_yaml = below is not None and self.file is None
        path = (*self.at, below) if in_yaml and below is not None else self.at
        return Complaint(path=path, message=message, location=location, **others)
