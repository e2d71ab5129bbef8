"""``doctor`` on another host: what it can do, over the connection of ``up``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from other_host import OtherHost

from kvmcompose.core.model import Host
from kvmcompose.effects.survey import Finding
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.remote import SshRunner
from kvmcompose.providers.host_survey import survey_host
from kvmcompose.providers.libvirt.interface import HypervisorFacts
from kvmcompose.providers.ovs.chassis import FoundChassis


class Answering:
    """libvirt, Open vSwitch, ovn-controller: they answer or do not; another program has set ``remote``."""

    def __init__(self, error: DriverError | None = None, remote: str = "") -> None:
        self._error = error
        self._remote = remote

    async def observe(self) -> FoundChassis:
        return FoundChassis(remote=self._remote)

    async def facts(self) -> HypervisorFacts:
        if self._error is not None:
            raise self._error
        return HypervisorFacts(cpus=4, memory_mb=8192, version="9.0.0")

    async def check(self) -> None:
        if self._error is not None:
            raise self._error


def survey(runner: object, host: Host, services: Answering) -> dict[str, Finding]:
    found = asyncio.run(survey_host(host, runner, services, services, services))  # type: ignore[arg-type]
    return {each.name: each for each in found}


HOST = Host(name="two", ip="192.0.2.2", virt_type="qemu")
SILENT = DriverError("libvirt on two does not answer", hint="start it")


def test_what_a_host_lacks_is_named_with_what_mends_it() -> None:
    found = survey(LocalRunner("two"), HOST, Answering(SILENT))
    assert (found["libvirt"].ok, found["libvirt"].detail, found["libvirt"].mend) == (
        False, "libvirt on two does not answer", "start it",
    )  # fmt: skip
    assert not found["Open vSwitch"].ok
    assert found["qemu-img"].ok
    assert "version" in found["qemu-img"].detail
    assert found["KVM"].needed_for == "extras"
    assert "GiB free" in found["disk space"].detail


def test_what_networks_of_ovn_lack_is_named_with_what_mends_it() -> None:
    def found(services: Answering, ip: str = "127.0.0.1") -> Finding:
        return survey(LocalRunner("two"), msgspec.structs.replace(HOST, ip=ip), services)["OVN controller"]

    assert found(Answering()).ok
    silent = found(Answering(DriverError("ovn-controller does not run on two", hint="start it")))
    assert (silent.ok, silent.mend, silent.needed_for) == (False, "start it", "extras")
    foreign = found(Answering(remote="tcp:198.51.100.1:6642"))
    assert not foreign.ok
    assert foreign.detail.startswith("a chassis of another OVN: tcp:198.51.100.1:6642")
    elsewhere = found(Answering(), "198.51.100.77")
    assert not elsewhere.ok
    assert elsewhere.detail.startswith("no interface has the address 198.51.100.77")


def test_kvm_is_needed_where_the_config_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = tmp_path / "qemu-system-x86_64"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    kvm = Host(name="two", ip="192.0.2.2", virt_type="kvm")
    for status, works in ((33, True), (1, False)):
        # the disk that it is given is the boot sector
        qemu.write_text(
            f"#!/bin/sh\nfor last; do :; done\nfile=${{last#file=}}\nfile=${{file%,*}}\n"
            f'[ "$(wc -c <"$file")" = 512 ] || exit 9\necho "no kvm" >&2\nexit {status}\n'
        )
        qemu.chmod(0o755)
        found = survey(LocalRunner("two"), kvm, Answering())["KVM"]
        assert (found.ok, found.needed_for) == (works, "up")
    assert found.detail == "no kvm"
    assert '"virt_type": "qemu" for two' in (found.mend or "")


class Lying(LocalRunner):
    """A host that answers with whatever it likes."""

    async def run(self, argv: object, **_options: object) -> Completed:  # type: ignore[override]
        return Completed(0, b"\x1b[2J" + b"x" * 100_000 + b"\n" * 100, b"\xff" * 10_000)


def test_a_hostile_host_only_lacks_things() -> None:
    found = survey(Lying("two"), HOST, Answering())
    assert all(len(each.detail) < 400 for each in found.values())
    assert not found["disk space"].ok


def test_a_host_that_is_not_reached_is_one_finding(tmp_path: Path) -> None:
    async def check() -> list[Finding]:
        other = OtherHost(tmp_path)
        await other.boot()
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
        stranger = Host(
            name="two", ip="127.0.0.1", user="ann", ssh_port=other.host.ssh_port,
            identity_file=other.host.identity_file, host_key=key,
        )  # fmt: skip
        connection = HostConnection(stranger)
        services = Answering()
        try:
            return await survey_host(stranger, SshRunner(connection), services, services, services)  # type: ignore[arg-type]
        finally:
            await connection.close()
            other.halt()

    (found,) = asyncio.run(check())
    assert (found.name, found.ok) == ("connection", False)
    assert "host key" in found.detail
