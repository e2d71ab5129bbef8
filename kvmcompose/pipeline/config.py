"""The config: the testbed hosts and the SSH keys, and the checks that a schema cannot express."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from kvmcompose.core import libvirt_uri
from kvmcompose.core.errors import Complaint, KvmComposeError, Severity
from kvmcompose.core.libvirt_uri import LibvirtUri, parse_libvirt_uri
from kvmcompose.core.model import Host, SshKeys
from kvmcompose.core.project import FileKind, ProjectFiles
from kvmcompose.core.public_keys import LARGEST_KEY_FILE, parse_public_keys
from kvmcompose.pipeline.ovn_config import check_mappings

_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_HOST_AND_PORT = re.compile(r"[^:]+:\d+")


def parse_hosts(config: dict[str, Any]) -> tuple[Host, ...]:
    """Return the testbed hosts, in file order."""
    return tuple(
        msgspec.convert(
            {"ip": entry.get("hostname"), **_given(entry), "name": name, **_usual_uri(entry)}, Host
        )
        for name, entry in (config.get("testbed_host_ssh_config") or {}).items()
    )


def _given(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that have a value: TestbedOS writes ``is_main_host: null``."""
    return {
        key: _given(value) if isinstance(value, dict) else value
        for key, value in entry.items()
        if value is not None
    }


def _usual_uri(entry: dict[str, Any]) -> dict[str, str]:
    """Return the default URI to replace one that is not permitted, which ``check_hosts`` reports."""
    return {} if _is_uri(entry.get("libvirt_uri")) else {"libvirt_uri": str(LibvirtUri())}


def _is_uri(text: str | None) -> bool:
    try:
        return text is None or bool(parse_libvirt_uri(text))
    except KvmComposeError:
        return False


def parse_keys(config: dict[str, Any], default: SshKeys) -> SshKeys:
    """Return the guests' SSH keys; a key that is not given is the other one with or without ``.pub``."""
    public = config.get("ssh_public_key_location")
    private = config.get("ssh_private_key_location")
    if public is None and private is not None:
        public = f"{private}.pub"
    if private is None and public is not None:
        private = public.removesuffix(".pub")
    return default if public is None or private is None else SshKeys(public, private)


def check_hosts(
    hosts: Sequence[Host], config: dict[str, Any] | None, files: ProjectFiles | None
) -> Iterator[Complaint]:
    """Yield the problems of the hosts themselves, and of the files that a ``config`` names for them."""
    at = "testbed_host_ssh_config"
    main = [host.name for host in hosts if host.is_main_host]
    if not main:
        yield Complaint(
            code="no-main-host",
            path=(at,),
            message="no host is the main host",
            wanted="`is_main_host: true` at exactly one host",
        )
    for name in main[1:]:
        yield Complaint(
            code="two-main-hosts",
            path=(at, name, "is_main_host"),
            message=f"{main[0]!r} is already the main host",
            wanted="`is_main_host: true` at exactly one host",
        )
    yield from check_mappings(hosts)
    owners: dict[str, str] = {}
    for host in hosts:
        address = _spelling(host.ip)
        if address in owners:
            yield Complaint(
                code="duplicate-address",
                path=(at, host.name, "ip"),
                message=f"{owners[address]!r} already has the address {host.ip}",
            )
        owners.setdefault(address, host.name)
        written = config["testbed_host_ssh_config"][host.name].get("libvirt_uri") if config else None
        if not _is_uri(written):
            yield Complaint(
                code="bad-libvirt-uri",
                path=(at, host.name, "libvirt_uri"),
                message="this URI may run a program or connect to another machine",
                found=repr(written),
                wanted=libvirt_uri.WANTED,
                hint=libvirt_uri.HINT,
            )
        if len(hosts) > 1 and _is_loopback(address):
            yield Complaint(
                code="loopback-address",
                path=(at, host.name, "ip"),
                message=f"{host.ip} is a loopback address: other hosts cannot reach {host.name!r} at it",
                wanted="an address that the other testbed hosts reach, for the tunnels between them",
            )
        elif len(hosts) > 1 and (flaw := _address_flaw(address)):
            yield Complaint(
                code="bad-value",
                path=(at, host.name, "ip"),
                message=f"{host.ip} is {flaw}",
                wanted="an address that the other testbed hosts reach, or a host name",
                hint="the port of the SSH server is ssh_port" if _HOST_AND_PORT.fullmatch(host.ip) else None,
            )
        if config is not None and files is not None:
            yield from _check_host_keys(host, (at, host.name), files)


def _check_host_keys(host: Host, at: tuple[str, ...], files: ProjectFiles) -> Iterator[Complaint]:
    """Yield problems of the keys that authenticate a host and this user."""
    for problem in parse_public_keys(host.host_key.encode(), host.name)[1] if host.host_key else ():
        yield Complaint(
            code=problem.code,
            path=(*at, "host_key"),
            message=problem.message,
            wanted="a host key: ssh-ed25519 AAAA…",
            hint="on that host: ssh-keyscan -t ed25519 localhost",
        )
    if host.identity_file is not None and files.kind(host.identity_file) is FileKind.MISSING:
        yield Complaint(
            code="missing-file",
            path=(*at, "identity_file"),
            message=f"{host.identity_file!r} does not exist; `up` will need it",
            severity=Severity.WARNING,
        )


def _spelling(address: str) -> str:
    """Return an address or a host name in its usual spelling."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower().removesuffix(".")


def _is_loopback(address: str) -> bool:
    return address in ("localhost", "::1") or address.startswith("127.")


def _address_flaw(address: str) -> str | None:
    """Return why no other host reaches an address in its usual spelling; None for host names."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        if ":" in address:
            return "not an IPv6 address"
        # such names cannot exist (RFC 3696, section 2), and programs read them as addresses, each in its way
        return "not an IPv4 address" if _NUMBER.fullmatch(address.rpartition(".")[2]) else None
    if found.is_unspecified or found.is_multicast or found == _BROADCAST:
        return "not the address of one host"
    if found.version == 6 and found.is_link_local:  # noqa: PLR2004
        return "a link-local address, which means nothing without an interface"
    return None


def check_keys(
    keys: SshKeys, default: SshKeys, config: dict[str, Any] | None, files: ProjectFiles
) -> Iterator[Complaint]:
    """Yield keys that do not exist or cannot be used. Only the public one is needed for a build."""
    if config is not None and keys != default:  # the default pair is generated when it is first needed
        yield from _check_key_files(keys, files)
    yield from _check_public_keys(keys.ssh_public_key_location, files)


def _check_public_keys(path: str, files: ProjectFiles) -> Iterator[Complaint]:
    data = files.content(path, LARGEST_KEY_FILE) if files.kind(path) is FileKind.FILE else None
    for problem in parse_public_keys(data, path)[1] if data is not None else ():
        yield Complaint(
            code=problem.code,
            path=("ssh_public_key_location",),
            message=problem.message,
            location=problem.location,
            wanted=problem.wanted,
            hint=problem.hint,
        )


def _check_key_files(keys: SshKeys, files: ProjectFiles) -> Iterator[Complaint]:
    for key, path, severity, need in (
        (
            "ssh_public_key_location",
            keys.ssh_public_key_location,
            Severity.ERROR,
            "guests are given this key",
        ),
        ("ssh_private_key_location", keys.ssh_private_key_location, Severity.WARNING, "`up` will need it"),
    ):
        kind = files.kind(path)
        if kind is not FileKind.FILE and (severity is Severity.ERROR or kind is FileKind.MISSING):
            what = "does not exist" if kind is FileKind.MISSING else "is not a file that can be read"
            yield Complaint(
                code="missing-file",
                path=(key,),
                message=f"the key {path!r} {what}; {need}",
                hint=f"make one: ssh-keygen -t ed25519 -f {path.removesuffix('.pub')}",
                severity=severity,
            )
