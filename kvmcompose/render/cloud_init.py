"""User-data of several parts: what the user says and what kvmcompose says, merged by cloud-init's rules.

Formats: cloud-init's "User-data formats" (MIME multi-part archive) and "Merging user-data sections". The
parts are in this order: the user's ``user_data``, a cloud-config of the short keys, and that of kvmcompose.
cloud-init merges each into what the parts before it say, and the later part says how: so the two of ours
append to lists and leave other values alone, and neither they nor the user's lose.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from kvmcompose.render.templates import to_yaml_flow

#: The names of a seed's files of this module begin like this; then comes the key, or ``files/0``.
PREFIX = "cloud-init/"
USER_DATA = "user_data"
VENDOR_DATA = "vendor_data"
NETWORK_CONFIG = "network_config"
#: The keys that are data of their own; all others are translated into a cloud-config.
DATA = (USER_DATA, VENDOR_DATA, NETWORK_CONFIG)

#: Lists are joined, mappings are merged, and a value that is there stays.
MERGE_TYPE = "list(append)+dict(no_replace, recurse_list)+str()"

CLOUD_CONFIG, CLOUD_CONFIG_TYPE = "#cloud-config", "text/cloud-config"
_GZIP = b"\x1f\x8b"
#: What a part begins with, by cloud-init's INCLUSION_TYPES_MAP; the longest first.
_TYPES = {
    "#cloud-config-archive": "text/cloud-config-archive",
    "#cloud-config-jsonp": "text/cloud-config-jsonp",
    CLOUD_CONFIG: CLOUD_CONFIG_TYPE,
    "#cloud-boothook": "text/cloud-boothook",
    "#include-once": "text/x-include-once-url",
    "#include": "text/x-include-url",
    "#part-handler": "text/part-handler",
    "## template: jinja": "text/jinja2",
    "#!": "text/x-shellscript",
    "#ps1": "text/x-shellscript",
    "rem cmd": "text/x-shellscript",
}
_PLAIN_KEY = re.compile(r"[a-z][a-z_]*")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_BLANK_LINE = re.compile(rb"(\r?\n\r?\n)")
#: The most that compressed data may have, in bytes.
MOST_DATA = 16 * 2**20
#: What MIME archives begin with, in whatever order their headers are.
_MIME = ("mime-version:", "content-type: multipart/")


class CloudInitValues(msgspec.Struct, frozen=True):
    """What the YAML says, by key, as JSON. Files are apart from it: see ``PREFIX``."""

    values: dict[str, str]


def content_type(data: bytes) -> str | None:
    """Return the type of data that is not compressed; None if cloud-init knows none.

    That of a MIME archive is ``multipart/mixed``.
    """
    start = data[:4096].decode(errors="replace").lower().lstrip()
    if start.startswith(_MIME) and "mime-version:" in start and _BLANK_LINE.search(data):
        return "multipart/mixed"
    return next((kind for mark, kind in _TYPES.items() if start.startswith(mark)), None)


def decompressed(data: bytes) -> bytes:
    """Return data without its compression, if it has one. Raises ValueError for a broken or large archive."""
    if not data.startswith(_GZIP):
        return data
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        found = reader.decompress(data, MOST_DATA)
    except zlib.error as error:
        raise ValueError("is not gzip, as it begins to be") from error
    if reader.unconsumed_tail or not reader.eof:
        raise ValueError(f"is incomplete, or has more than {MOST_DATA >> 20} MiB when it is unpacked")
    return found


def user_data(given: CloudInitValues, files: Mapping[str, bytes], ours: str) -> bytes:
    """Return the user-data: ``ours`` alone where nothing is merged with it.

    ``files`` are the contents of all files by their names in the seed.
    """
    theirs = _data(given, files, USER_DATA)
    short = _short_keys(given, files)
    if theirs is None and not short:
        return ours.encode()
    parts = []
    if theirs is not None:
        # as cloud-init unpacks it alone; in a part, it spoils what is not ASCII
        theirs = decompressed(theirs)
        parts.append(_part(theirs, content_type(theirs) or "text/plain", "user-data"))
    if short:
        parts.append(_part(cloud_config(short), CLOUD_CONFIG_TYPE, "short-keys.yaml", MERGE_TYPE))
    parts.append(_part(ours.encode(), CLOUD_CONFIG_TYPE, "kvm-compose.yaml", MERGE_TYPE))
    return _archive(parts)


def user_data_alone(given: CloudInitValues, files: Mapping[str, bytes]) -> bytes | None:
    """Return the user's data without ours, None without any."""
    return _data(given, files, USER_DATA)


def vendor_data(given: CloudInitValues, files: Mapping[str, bytes]) -> bytes | None:
    """Return the vendor-data, None without any."""
    return _data(given, files, VENDOR_DATA)


def network_config(given: CloudInitValues, files: Mapping[str, bytes]) -> bytes | None:
    """Return the network configuration that takes the place of ours, None without one."""
    return _data(given, files, NETWORK_CONFIG)


def _data(given: CloudInitValues, files: Mapping[str, bytes], key: str) -> bytes | None:
    """Return the data of a key, from its file or as the YAML has it; None without the key."""
    if PREFIX + key in files:
        return files[PREFIX + key]
    if key not in given.values:
        return None
    value = json.loads(given.values[key])
    return _yaml(value).encode() if key == NETWORK_CONFIG else cloud_config(value)


def cloud_config(value: Mapping[str, Any]) -> bytes:
    """Return a mapping as a cloud-config."""
    return f"{CLOUD_CONFIG}\n{_yaml(value)}".encode()


def _yaml(value: Mapping[str, Any]) -> str:
    """Return a mapping as YAML with an entry on each line, in ASCII, so that parts are legible."""
    text = "".join(_entry(key, each) for key, each in value.items())
    return _NOT_ASCII.sub(lambda found: f"\\U{ord(found.group()):08x}", text)


def _entry(key: str, value: Any) -> str:
    name = key if _PLAIN_KEY.fullmatch(key) else to_yaml_flow(key)
    if isinstance(value, list) and value:
        return f"{name}:\n" + "".join(f"  - {to_yaml_flow(each)}\n" for each in value)
    return f"{name}: {to_yaml_flow(value)}\n"


def _short_keys(given: CloudInitValues, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the cloud-config of the short keys."""
    found: dict[str, Any] = {}
    for key, text in given.values.items():
        if key not in DATA:
            found |= _TRANSLATED[key](json.loads(text), files)
    return found


def _packages(value: Any, _files: Mapping[str, bytes]) -> dict[str, Any]:
    return {"packages": value}


def _users(value: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {"users": [_user(number, each, files) for number, each in enumerate(value)]}


def _user(number: int, user: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    sudo = user.get("sudo", False)
    hashed = files.get(f"{PREFIX}users/{number}")
    return {
        "name": user["name"],
        "gecos": user.get("gecos", user["name"]),
        **({"uid": user["uid"]} if "uid" in user else {}),
        "shell": user.get("shell", "/bin/bash"),
        **({"groups": user["groups"]} if user.get("groups") else {}),
        **({"sudo": "ALL=(ALL) NOPASSWD:ALL" if sudo is True else sudo} if sudo else {}),
        "lock_passwd": hashed is None,
        **({"hashed_passwd": hashed.decode().strip()} if hashed is not None else {}),
        **({"ssh_authorized_keys": keys} if (keys := user.get("ssh_authorized_keys")) else {}),
    }


def _files(value: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {"write_files": [_file(number, each, files) for number, each in enumerate(value)]}


def _file(number: int, file: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    owner = file.get("owner", "root:root")
    source = files.get(f"{PREFIX}files/{number}")
    content = (
        {"content": file["content"]}
        if source is None
        else {"encoding": "b64", "content": base64.b64encode(source).decode()}
    )
    return {
        "path": file["path"],
        "permissions": f"{int(file.get('mode', '0644'), 8):04o}",
        "owner": owner,
        # other users, and those of packages, are not there when files are written at first
        **({"defer": True} if owner != "root:root" else {}),
        **content,
    }


def _timezone(value: Any, _files: Mapping[str, bytes]) -> dict[str, Any]:
    return {"timezone": value}


def _ntp(value: Any, _files: Mapping[str, bytes]) -> dict[str, Any]:
    return {"ntp": {"enabled": True, **{key: each for key, each in value.items() if each}}}


def _ca_certs(value: Any, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "ca_certs": {
            "trusted": [files[f"{PREFIX}ca_certs/{number}"].decode() for number in range(len(value))]
        }
    }


def _apt(value: Any, _files: Mapping[str, bytes]) -> dict[str, Any]:
    def mirror(key: str) -> list[dict[str, Any]]:
        return [{"arches": ["default"], "uri": value[key]}] if key in value else []

    found = {"primary": mirror("mirror"), "security": mirror("security_mirror")}
    proxy = {key: value["proxy"] for key in ("proxy", "https_proxy") if "proxy" in value}
    return {"apt": {key: each for key, each in found.items() if each} | proxy}


def _dnf(value: Any, _files: Mapping[str, bytes]) -> dict[str, Any]:
    repos = {
        name: {"name": name, "enabled": True, "gpgcheck": True, **repo}
        for name, repo in value["repos"].items()
    }
    return {"yum_repos": repos}


_TRANSLATED = {
    "packages": _packages,
    "users": _users,
    "files": _files,
    "timezone": _timezone,
    "ntp": _ntp,
    "ca_certs": _ca_certs,
    "apt": _apt,
    "dnf": _dnf,
}


class _Part(msgspec.Struct, frozen=True):
    """A part of an archive: its header and body, each with line ends, or a whole archive of the user's."""

    header: bytes
    body: bytes


def _part(data: bytes, kind: str, name: str, merge_type: str | None = None) -> _Part:
    if kind == "multipart/mixed":
        header, blank, body = _BLANK_LINE.split(data.lstrip(), 1)
        return _Part(header + blank, body)
    lines = [f"Content-Type: {kind}; charset=utf-8" if kind.startswith("text/") else f"Content-Type: {kind}"]
    if merge_type is not None:
        lines.append(f"Merge-Type: {merge_type}")
    # Python's parser, which cloud-init uses, spoils other characters that are not encoded
    is_plain = data.isascii() and b"\r" not in data and b"\0" not in data
    lines.append(f"Content-Transfer-Encoding: {'7bit' if is_plain else 'base64'}")
    if name.endswith(".yaml"):
        lines.append(f'Content-Disposition: attachment; filename="{name}"')
    body = data if is_plain else base64.encodebytes(data)
    return _Part("\n".join([*lines, "", ""]).encode(), body)


def _archive(parts: Iterable[_Part]) -> bytes:
    """Return a MIME archive of the parts, with a boundary that follows from them."""
    parts = tuple(parts)
    boundary = next(each for each in _boundaries(parts) if not any(each in part.body for part in parts))
    start = b'Content-Type: multipart/mixed; boundary="%b"\nMIME-Version: 1.0\n\n' % boundary
    body = b"".join(b"--%b\n%b%b\n" % (boundary, part.header, part.body) for part in parts)
    return start + body + b"--%b--\n" % boundary


def _boundaries(parts: Iterable[_Part]) -> Iterator[bytes]:
    digest = hashlib.sha256(b"".join(part.body for part in parts)).digest()
    while True:
        yield b"kvm-compose-" + digest.hex()[:16].encode()
        digest = hashlib.sha256(digest).digest()
