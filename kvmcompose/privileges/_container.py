"""The request for a container that is known to be harmless (Docker Engine API v1.41, ``ContainerCreate``).

The names of keys are compared as they are written. The engine does not mind their case, so that a key in
other letters is one that is not known here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from kvmcompose.core.deployable import SNAPSHOT_REPOSITORY
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.image_build import BUILD_REPOSITORY
from kvmcompose.core.privilege import Privilege, PrivilegeKind


class Bind(msgspec.Struct, frozen=True):
    """A file or folder of the project that a guest sees; ``path`` is relative to the project's folder."""

    path: str
    writable: bool

    @property
    def is_ours(self) -> bool:
        """Whether artefacts are in it: XML and disks, which the host opens."""
        return self.path.partition("/")[0] in (".", "artefacts")


#: The largest request, in bytes.
REQUEST_LIMIT = 1 << 20
_SHOWN = 120

#: The capabilities that Docker gives each container (docker run, "Runtime privilege and Linux capabilities").
USUAL_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
        "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    }
)  # fmt: skip

#: An image by its ID, or by the beginning of that, which is a name, too.
_ID = re.compile(r"(sha256:)?[0-9a-f]{1,64}")

#: What is permitted: whether a value is harmless, or what is permitted in it.
_Check = Callable[[Any], bool]
_Grammar = Mapping[str, "_Check | _Grammar"]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _by_name(check: _Check, pattern: str = r"[^\0]+") -> _Check:
    """Return a check of mappings from names of that form."""
    name = re.compile(pattern)
    return lambda value: (
        isinstance(value, dict)
        and all(name.fullmatch(key) is not None and check(each) for key, each in value.items())
    )


def _one_of(*values: str) -> _Check:
    return lambda value: isinstance(value, str) and value in values


def _is_command(value: Any) -> bool:
    return _is_text(value) or _TEXTS(value)


def _is_limit(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(each) if key == "Name" else key in ("Soft", "Hard") and _is_number(each)
        for key, each in value.items()
    )


def _is_target(value: Any) -> bool:
    """Return whether it is a path in a container, to Podman, too.

    That makes one text of a mount, a record of CSV: a comma in a path would add options to it, such as
    another source, and the end of a line would end it, before its ``ro``.
    """
    return isinstance(value, str) and value.startswith("/") and _is_one_field(value)


def _is_one_field(path: str) -> bool:
    return path.isprintable() and not {",", '"'} & set(path)


def _is_variable(value: Any) -> bool:
    """Return whether it has a value: Podman takes others, and those of ``*``, from its own environment."""
    return isinstance(value, str) and "=" in value


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict) and not value


_TEXTS = _list_of(_is_text)
#: Without a colon: to Podman, ``/etc:/x`` in ``Volumes`` is ``/etc`` of the host.
_PATHS = r"/[^\0:]*"

_HOST: _Grammar = {
    "NetworkMode": _one_of("none"),
    "Memory": _is_number, "MemoryReservation": _is_number, "MemorySwap": _is_number,
    "MemorySwappiness": _is_number, "NanoCpus": _is_number, "CpuShares": _is_number, "CpuPeriod": _is_number,
    "CpuQuota": _is_number, "CpusetCpus": _is_text, "PidsLimit": _is_number, "BlkioWeight": _is_number,
    "ShmSize": _is_number, "Ulimits": _list_of(_is_limit),
    "Init": _is_flag, "ReadonlyRootfs": _is_flag, "AutoRemove": _is_flag,
    "RestartPolicy": {"Name": _is_text, "MaximumRetryCount": _is_number},
    "CapDrop": _TEXTS, "SecurityOpt": _list_of(_one_of("no-new-privileges", "no-new-privileges:true")),
    "Tmpfs": _by_name(_is_text, _PATHS), "Sysctls": _by_name(_is_text, r"net\.[a-zA-Z0-9_./-]+"),
    "IpcMode": _one_of("", "private", "none"), "PidMode": _one_of(""), "UTSMode": _one_of(""),
    "UsernsMode": _one_of(""), "CgroupnsMode": _one_of("", "private"),
    "Dns": _TEXTS, "DnsOptions": _TEXTS, "DnsSearch": _TEXTS, "ExtraHosts": _TEXTS,
    "LogConfig": {
        "Type": _one_of("", "json-file", "local", "none"),
        "Config": _by_name(_is_text, "max-size|max-file|compress"),
    },
}  # fmt: skip
_GRAMMAR: _Grammar = {
    "Hostname": _is_text, "Domainname": _is_text, "User": _is_text, "Image": _is_text,
    "Env": _list_of(_is_variable), "Cmd": _is_command, "Entrypoint": _is_command, "Shell": _TEXTS,
    "WorkingDir": _is_text,
    "Healthcheck": {
        "Test": _TEXTS, "Interval": _is_number, "Timeout": _is_number, "Retries": _is_number,
        "StartPeriod": _is_number,
    },
    "StopSignal": _is_text, "StopTimeout": _is_number,
    "Tty": _is_flag, "OpenStdin": _is_flag, "StdinOnce": _is_flag, "NetworkDisabled": _is_flag,
    "AttachStdin": _is_flag, "AttachStdout": _is_flag, "AttachStderr": _is_flag,
    "Volumes": _by_name(_is_empty, _PATHS), "ExposedPorts": _by_name(_is_empty),
    "HostConfig": _HOST,
}  # fmt: skip
_BIND: _Grammar = {
    "Type": _one_of("bind"),
    "Source": _is_text, "Target": _is_target, "ReadOnly": _is_flag,
    "Consistency": _one_of("default", "consistent"),
}  # fmt: skip
_TMPFS: _Grammar = {
    "Type": _one_of("tmpfs"),
    "Source": _one_of(""), "Target": _is_target, "ReadOnly": _is_flag,
    "TmpfsOptions": {"SizeBytes": _is_number, "Mode": _is_number},
}  # fmt: skip


def parse_request(data: bytes, where: str) -> dict[str, Any]:
    """Return the request in the artefact ``where``. Raises KvmComposeError when it is none."""
    if len(data) > REQUEST_LIMIT:
        raise KvmComposeError(f"{where} is larger than {REQUEST_LIMIT >> 10} KiB", hint=_rebuild(where))
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KvmComposeError(f"{where}{_place(data)}", hint=_rebuild(where)) from None


def _rebuild(where: str) -> str:
    return f"rebuild it: kvm-compose generate --overwrite {where} (yours is kept as .orig)"


def _place(data: bytes) -> str:
    """Return what is wrong with a text that is no JSON object, and where."""
    try:
        found = json.loads(data)
    except json.JSONDecodeError as error:
        return f":{error.lineno}:{error.colno}: is not JSON: {error.msg.lower()}"
    except (UnicodeDecodeError, RecursionError, ValueError):
        return " is not JSON that can be read"
    return " is not JSON that can be read" if isinstance(found, dict) else ":1:1: is not a JSON object"


def privileges_in(
    request: Mapping[str, Any], where: str, folder: str, *, for_member: bool
) -> Iterator[Privilege]:
    """Yield what is not known to be harmless; ``folder`` is the project's on the host."""
    host = request.get("HostConfig")
    known = dict(request)
    image = request.get("Image")
    if for_member and isinstance(image, str) and _is_private(image):
        yield Privilege(PrivilegeKind.RIGHT, f"an image that may be another project's: {image!r}", where)
    if isinstance(host, dict):
        special = {"Privileged", "CapAdd", "Devices", "Mounts"}
        known["HostConfig"] = {key: value for key, value in host.items() if key not in special}
        yield from _rights(host, where)
        yield from _mounts(host.get("Mounts"), where, folder, for_member=for_member)
    yield from _unknown(known, _GRAMMAR, "", where)
    if not isinstance(host, dict) or host.get("NetworkMode") is None:
        yield Privilege(
            PrivilegeKind.SETTING, "no HostConfig.NetworkMode: the engine connects it to its own", where
        )


def _is_private(image: str) -> bool:
    """Return whether an image has no name in a registry, or was made by a project: all share an engine."""
    made = any(each in image for each in (SNAPSHOT_REPOSITORY, BUILD_REPOSITORY))
    return made or _ID.fullmatch(image) is not None


def _unknown(found: Mapping[str, Any], grammar: _Grammar, at: str, where: str) -> Iterator[Privilege]:
    for key, value in found.items():
        check = grammar.get(key)
        if value is None and check is not None:
            continue  # the same as without the key
        if isinstance(check, Mapping) and isinstance(value, dict):
            yield from _unknown(value, check, f"{at}{key}.", where)
        elif check is None or isinstance(check, Mapping) or not check(value):
            yield _setting(f"{at}{key}", value, where)


def _setting(name: str, value: Any, where: str) -> Privilege:
    if name == "Env":  # its values are nobody else's
        return Privilege(PrivilegeKind.SETTING, "Env, which is no list of NAME=value", where)
    text = f"{name}: {msgspec.json.encode(value).decode()}"
    if len(text) <= _SHOWN:
        return Privilege(PrivilegeKind.SETTING, text, where)
    return Privilege(
        PrivilegeKind.SETTING, f"{text[:_SHOWN]}…", where, hashlib.sha256(text.encode()).hexdigest()
    )


def _rights(host: Mapping[str, Any], where: str) -> Iterator[Privilege]:
    if host.get("Privileged") not in (None, False):
        yield Privilege(PrivilegeKind.RIGHT, "all devices and capabilities (privileged)", where)
    capabilities = host.get("CapAdd")
    if not _TEXTS(capabilities or []):
        yield _setting("HostConfig.CapAdd", capabilities, where)
    else:
        for each in capabilities or ():
            if each.upper().removeprefix("CAP_") not in USUAL_CAPABILITIES:
                yield Privilege(PrivilegeKind.RIGHT, f"capability {each!r}", where)
    devices = host.get("Devices")
    if not isinstance(devices or [], list):
        yield _setting("HostConfig.Devices", devices, where)
    else:
        for each in devices or ():
            path = each.get("PathOnHost") if isinstance(each, dict) else each
            yield Privilege(PrivilegeKind.DEVICE, repr(path), where)


def _mounts(mounts: Any, where: str, folder: str, *, for_member: bool) -> Iterator[Privilege]:
    if mounts is None:
        return
    if not isinstance(mounts, list) or not all(isinstance(each, dict) for each in mounts):
        yield _setting("HostConfig.Mounts", mounts, where)
        return
    for index, mount in enumerate(mounts):
        grammar = _TMPFS if mount.get("Type") == "tmpfs" else _BIND
        missing = {} if mount.get("Type") is not None else {"Type": None}
        unknown = list(_unknown({**mount, **missing}, grammar, f"HostConfig.Mounts[{index}].", where))
        if missing:
            unknown.append(_setting(f"HostConfig.Mounts[{index}].Type", None, where))
        yield from unknown
        if unknown or grammar is _TMPFS:
            continue
        source = mount.get("Source")
        inside = inside_project(source, folder)
        if inside is None:
            yield Privilege(PrivilegeKind.FILE, repr(source), where)
        elif mount.get("ReadOnly") is not True and (for_member or Bind(inside, writable=True).is_ours):
            yield Privilege(PrivilegeKind.RIGHT, f"to write to {source!r}", where)


def inside_project(source: Any, folder: str) -> str | None:
    """Return the path of a mount relative to the project's folder; None if it is elsewhere, or may be."""
    if not isinstance(source, str) or not _is_one_field(source):
        return None
    if source == folder:
        return "."
    inside = source.removeprefix(f"{folder}/")
    steps = inside.split("/")
    return None if inside == source or {"", ".", ".."} & set(steps) else inside


def binds(request: Mapping[str, Any], folder: str) -> Iterator[Bind]:
    """Yield the mounts of a container that lead into the project."""
    host = request.get("HostConfig")
    mounts = host.get("Mounts") if isinstance(host, dict) else None
    for mount in mounts if isinstance(mounts, list) else ():
        inside = inside_project(mount.get("Source"), folder) if isinstance(mount, dict) else None
        if inside is not None and mount.get("Type") == "bind":
            yield Bind(inside, writable=mount.get("ReadOnly") is not True)


def replaceable(found: Iterable[tuple[str, Bind]]) -> Iterator[Privilege]:
    """Yield mounts of a folder that a guest can write to the parent of, as it could put a link there.

    ``found`` are all mounts of a testbed, each with the artefact that has it.
    """
    known = list(found)
    writable = {bind.path for _, bind in known if bind.writable}
    for where, bind in known:
        steps = bind.path.split("/")
        parents = {"/".join(steps[:count]) for count in range(1, len(steps))} | {"."}
        for parent in sorted(parents & writable - {bind.path}):
            yield Privilege(
                PrivilegeKind.FILE, f"{bind.path!r}, if a guest puts a link into {parent!r}", where
            )
