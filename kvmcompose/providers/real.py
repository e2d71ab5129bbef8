"""The real drivers of a deployment's hosts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmcompose.core.chassis import Remotes
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.libvirt_uri import LibvirtInstance, LibvirtUri
from kvmcompose.core.model import Host
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.forwarding import ForwardedSocket
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.local_blobs import LocalBlobStore
from kvmcompose.hosts.remote import SshRunner
from kvmcompose.hosts.remote_blobs import RemoteBlobStore
from kvmcompose.hosts.volume_store import RemoteVolumeStore, VolumeStore
from kvmcompose.providers.capture.driver import TcpdumpCaptures
from kvmcompose.providers.console_logs.driver import HostConsoleLogs
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.driver import HostEngine
from kvmcompose.providers.containers.interface import ContainerEngine
from kvmcompose.providers.disks.driver import HostDisks
from kvmcompose.providers.drivers import HostDrivers, OvnDrivers
from kvmcompose.providers.guest.driver import SshShell
from kvmcompose.providers.guest.interface import GuestShell
from kvmcompose.providers.iplink.driver import IpLinks
from kvmcompose.providers.libvirt.driver import Libvirt
from kvmcompose.providers.netns.container_nics import VethNics
from kvmcompose.providers.netns.driver import Namespaces
from kvmcompose.providers.ovn.central import OvnCentral
from kvmcompose.providers.ovn.driver import OvnNorthbound
from kvmcompose.providers.ovn.session import Tls
from kvmcompose.providers.ovs.chassis import OvsChassis
from kvmcompose.providers.ovs.driver import OvsSwitches
from kvmcompose.providers.ovs.host_ports import OvsHostPorts
from kvmcompose.providers.ovs.mirrors import OvsMirrors
from kvmcompose.providers.ovs.outside import OvsOutsides
from kvmcompose.providers.project_folder.driver import HostProjectFolders

#: Where libvirtd listens, or virtqemud where libvirt is split up (libvirt.org, "Daemons").
_LIBVIRT_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
#: Where Docker and Podman listen; below it, those of a user (podman-system-service(1), dockerd-rootless).
_ENGINE_SOCKETS = ("/run/docker.sock", "/run/podman/podman.sock")
_USER_SOCKETS = ("docker.sock", "podman/podman.sock")


class RealDrivers:
    """libvirt, Open vSwitch, ip-link, qemu-img and SSH. Connections are opened when they are needed."""

    name = "real"

    def __init__(self) -> None:
        self._hosts: dict[tuple[Host, int | None], HostDrivers] = {}
        self._runners: dict[Host, CommandRunner] = {}
        self._started: list[LocalRunner | SshRunner] = []
        self._sockets: list[ForwardedSocket] = []
        self._connections: list[HostConnection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._surveyed: list[HostEngine] = []
        self._shell = SshShell()
        self._ovn: dict[tuple[Host, Remotes], tuple[OvnNorthbound, OvnCentral]] = {}

    def host(self, host: Host, member: OwnerFiles | None = None) -> HostDrivers:
        """Return the drivers of this machine for the main host, else of another one; the same ones each time.

        A connection that was opened with one user's keys serves no other user.
        """
        key = host, member.uid if member is not None else None
        if key not in self._hosts:
            if host.is_main_host:
                runner = LocalRunner(host.name)
                self._started.append(runner)
                if member is None:
                    self._runners[host] = runner
                blobs = LocalBlobStore(runner, member) if member is not None else None
                engine = EngineConnection(
                    [Path(each) for each in engine_sockets(host, [*map(str, _local_engines())])]
                )
                drivers = _drive(runner, Libvirt(host.libvirt, runner), engine, blobs)
            else:
                drivers = self._elsewhere(host, member)
            self._hosts[key] = drivers
        return self._hosts[key]

    def _elsewhere(self, host: Host, member: OwnerFiles | None) -> HostDrivers:
        connection = HostConnection(host, member)
        self._connections.append(connection)
        runner = SshRunner(connection)
        self._started.append(runner)
        if member is None:
            self._runners[host] = runner
        where = f"on {host.name}"
        hypervisor = Libvirt(self._forward_libvirt(connection), runner, where)
        # each alone: one that does not answer for a moment must not be taken for another
        shown = {self._forward(connection, (path,)): path for path in engine_sockets(host, _ENGINE_SOCKETS)}
        engine = EngineConnection(list(shown), where, runner.reach, shown=shown)
        blobs = RemoteBlobStore(runner)
        return _drive(runner, hypervisor, engine, blobs, RemoteVolumeStore(blobs))

    def _forward_libvirt(self, connection: HostConnection) -> LibvirtUri:
        """Return the local URI of the other host's libvirt. Raises RefusedError."""
        path = self._forward(connection, libvirt_sockets(connection.host))
        return LibvirtUri(connection.host.libvirt.instance, str(path))

    def _forward(self, connection: HostConnection, targets: tuple[str, ...]) -> Path:
        """Return a local socket that leads to the first of the other host's that accepts."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="kvm-compose-")  # mode 0700
        path = Path(self._folder.name) / f"{len(self._sockets)}.sock"
        self._sockets.append(ForwardedSocket(connection, path, targets))
        return path

    def runner(self, host: Host) -> CommandRunner:
        """Return what runs programs on a host."""
        self.host(host)
        return self._runners[host]

    def engines(self, host: Host) -> Mapping[str, ContainerEngine]:
        """Return what may be the container engines of a host, by the paths of their sockets on it."""
        self.host(host)
        given = host.container_engine or ""
        if host.is_main_host:
            paths = [each for each in map(str, _local_engines()) if Path(each).exists()]
            at = {path: Path(path) for path in (*paths, *[given][: given.startswith("/")])}
        else:
            connection = next(each for each in self._connections if each.host == host)
            paths = [*_ENGINE_SOCKETS, *[given][: given.startswith("/")]]
            at = {path: self._forward(connection, (path,)) for path in paths}
        where = "" if host.is_main_host else f"on {host.name}"
        found = {
            path: HostEngine(EngineConnection([local], where, shown={local: path}), self._runners[host])
            for path, local in at.items()
        }
        self._surveyed += found.values()
        return found

    def ovn(self, main: Host, databases: Remotes) -> OvnDrivers:
        """Return the databases of an OVN; connections are opened when they are needed."""
        key = main, databases
        if key not in self._ovn:
            tls = None
            keys = (databases.ovn_private_key, databases.ovn_certificate, databases.ovn_ca_certificate)
            if keys[0]:
                tls = Tls(*(Path(each or "") for each in keys))
            north = OvnNorthbound(",".join(databases.ovn_northbound), ",".join(databases.ovn_southbound), tls)
            self._ovn[key] = north, OvnCentral(LocalRunner(main.name), north.south)
        return OvnDrivers(*self._ovn[key])

    def shell(self) -> GuestShell:
        return self._shell

    async def close(self) -> None:
        hosts, self._hosts = list(self._hosts.values()), {}
        for host in hosts:
            await host.hypervisor.close()
            await host.engine.close()
        for engine in self._surveyed:
            await engine.close()
        await self._shell.close()
        for northbound, _ in self._ovn.values():
            await northbound.close()
        for runner in self._started:
            await runner.close()
        for socket in self._sockets:
            await socket.close()
        for connection in self._connections:
            await connection.close()
        if self._folder is not None:
            self._folder.cleanup()


def _local_engines() -> list[Path]:
    """Return where an engine may listen here: root's, and one of the user."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    return [Path(each) for each in _ENGINE_SOCKETS] + [folder / each for each in _USER_SOCKETS]


def engine_sockets(host: Host, known: Sequence[str]) -> Sequence[str]:
    """Return those of the known sockets on which the engine of a host listens, or the one that it names."""
    engine = host.container_engine
    if engine is None:
        return known
    return [each for each in known if each.endswith(f"/{engine}.sock")] if "/" not in engine else [engine]


def _drive(
    runner: CommandRunner,
    hypervisor: Libvirt,
    engine: EngineConnection,
    blobs: RemoteBlobStore | None,
    volumes: VolumeStore | None = None,
) -> HostDrivers:
    return HostDrivers(
        name=runner.name,
        hypervisor=hypervisor,
        switches=OvsSwitches(runner),
        links=IpLinks(runner),
        project_folders=HostProjectFolders(runner),
        disks=HostDisks(runner),
        console_logs=HostConsoleLogs(runner),
        captures=TcpdumpCaptures(runner, OvsMirrors(runner)),
        chassis=OvsChassis(runner),
        outsides=OvsOutsides(runner),
        host_ports=OvsHostPorts(runner),
        management=Namespaces(runner),
        engine=HostEngine(engine, runner),
        nics=VethNics(runner),
        blobs=blobs,
        volumes=volumes,
    )


def libvirt_sockets(host: Host) -> tuple[str, ...]:
    """Return the sockets on which another host's libvirt may listen. Raises RefusedError."""
    uri = host.libvirt
    if uri.socket is not None:
        return (uri.socket,)
    if uri.instance is not LibvirtInstance.SYSTEM:
        raise RefusedError(
            f"the libvirt_uri of {host.name} is {host.libvirt_uri}, and {host.name} is another host",
            hint="use the URI as seen on that host: qemu:///system (the SSH connection forwards it)",
        )
    return _LIBVIRT_SOCKETS
