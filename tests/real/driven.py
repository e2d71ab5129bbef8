"""Run drivers inside a test host: a scenario is an async function that runs there, in its own process.

What a scenario asserts fails the test outside, with its traceback; so does anything printed on stderr, by
libvirt or by asyncio, and any warning.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hosts import TestHost
from kvmcompose.core.deployable import NetworkPlan
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.guest.interface import GuestShell, Login
from kvmcompose.providers.ovs.interface import SwitchChange
from kvmcompose.providers.real import RealDrivers
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

HERE = Path(__file__).resolve().parent
RUN = """\
import asyncio, importlib, json, sys
module, name, arguments = sys.argv[1:]
asyncio.run(getattr(importlib.import_module(module), name)(**json.loads(arguments)))
"""

YAML = """\
machines:
{machines}
network:
  bridges: [{bridges}]
  bridge_connections: {connections}
  external_bridge: br0
"""

MACHINE = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}{more}}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      {also}
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
"""

CONFIG = {
    "testbed_host_ssh_config": {
        "main": {"ip": "127.0.0.1", "is_main_host": True, "virt_type": "qemu", "datapath_type": "netdev"}
    },
    "ssh_public_key_location": "key.pub",
    "ssh_private_key_location": "key",
}


def inside(
    host: TestHost,
    scenario: Callable[..., Coroutine[Any, Any, None]],
    *,
    timeout: float = 600,
    **arguments: object,
) -> None:
    """Run a scenario of a test module inside a host. Its arguments are passed as JSON, paths as text."""
    module = Path(inspect.getfile(scenario)).stem
    argv = [
        sys.executable, "-W", "error", "-c", RUN,
        module, scenario.__name__, json.dumps(arguments, default=str),
    ]  # fmt: skip
    path = ":".join(map(str, (Path(inspect.getfile(scenario)).parent, HERE, HERE.parent, HERE.parent.parent)))
    done = host.run(
        argv, env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, timeout=timeout, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"


def make_project(
    folder: Path,
    image: Path,
    key: Path,
    guests: dict[str, str],
    *,
    dynamic: Collection[str] = (),
    also: str | Mapping[str, str] = "",
) -> Path:
    """Generate a project of micro guests (name -> bridge) on a chain of bridges; br0 is the external one.

    The ``dynamic`` ones have their address by DHCP. ``also`` are more lines of each ``libvirt`` section, or
    of some of them by name.
    """
    lines = {name: also if isinstance(also, str) else also.get(name, "") for name in guests}
    bridges = sorted({"br0", *guests.values()})
    folder.mkdir()
    (folder / "kvm-compose.yaml").write_text(
        YAML.format(
            machines="".join(
                MACHINE.format(
                    name=name,
                    bridge=bridge,
                    also=lines[name],
                    more=", ip: dynamic" if name in dynamic else "",
                )
                for name, bridge in guests.items()
            ),
            bridges=", ".join(f"{{name: {bridge}}}" for bridge in bridges),
            connections=json.dumps(dict(itertools.pairwise(bridges))),
        )
    )
    (folder / "kvm-compose-config.json").write_text(json.dumps(CONFIG))
    (folder / "micro.qcow2").symlink_to(image)
    shutil.copy(key, folder / "key")
    shutil.copy(key.with_suffix(".pub"), folder / "key.pub")
    argv = [sys.executable, "-m", "kvmcompose", "-C", str(folder), "generate"]
    subprocess.run(argv, check=True, timeout=120, capture_output=True)
    return folder


# -- for scenarios, inside the host --------------------------------------------------------------------


def plan_of(testbed: LoadedTestbed) -> SwitchChange:
    network_plan: NetworkPlan = testbed.network_plan
    return SwitchChange(
        project=testbed.project,
        datapath_type="netdev",
        bridges=network_plan.bridges,
        veths=network_plan.veths,
        nics=network_plan.nics,
    )


class Up:
    """A testbed that the drivers bring up, without a server."""

    def __init__(self, testbed: LoadedTestbed, host: HostDrivers, shell: GuestShell) -> None:
        self.testbed, self.host, self.shell = testbed, host, shell

    def login(self, name: str, address: str | None = None) -> Login:
        guest = self.testbed.guests[name]
        assert address or guest.address
        return self.testbed.login(guest, address or guest.address or "")

    async def run(self, name: str, *argv: str, seconds: float | None = 60) -> tuple[int, list[str]]:
        lines: list[str] = []
        return await self.shell.run(self.login(name), argv, lines.append, seconds=seconds), lines

    async def network(self) -> None:
        network_plan, plan = self.testbed.network_plan, plan_of(self.testbed)
        await self.host.project_folders.link(self.testbed.project, self.testbed.folder)
        await self.host.hypervisor.networks.start(self.testbed.read(network_plan.network.xml))
        await self.host.links.apply(network_plan.veths, up=[], mtu=network_plan.mtu)
        await self.host.switches.change(plan)

    async def power_on(self, *names: str) -> None:
        """Start domains, and do not wait for what boots in them."""
        for name in names:
            run = self.testbed.guests[name].run
            assert run
            await self.host.hypervisor.domains.start(self.testbed.read(run.domain_xml))

    async def start(self, *names: str) -> None:
        await self.power_on(*names)
        await asyncio.gather(*(self.shell.wait_ready(self.login(name), 120) for name in names))

    async def down(self) -> None:
        network_plan, hypervisor = self.testbed.network_plan, self.host.hypervisor
        for name in await hypervisor.domains.states(self.testbed.project):
            await hypervisor.domains.destroy(name)
            await hypervisor.domains.undefine(name)
        await self.host.links.remove([end for pair in network_plan.veths for end in (pair.left, pair.right)])
        await self.host.switches.remove(list(await self.host.switches.observe(self.testbed.project)))
        await hypervisor.networks.remove(network_plan.network.name)
        await self.host.project_folders.unlink(self.testbed.project, self.testbed.folder)


@asynccontextmanager
async def brought_up(folder: str) -> AsyncIterator[Up]:
    """Create the network of a generated project; the scenario starts the guests."""
    path = Path(folder)
    testbed = LoadedTestbed(path, (path / "state.json").read_bytes())
    drivers = RealDrivers()
    up = Up(testbed, drivers.host(testbed.main_host), drivers.shell())
    try:
        await up.network()
        yield up
    finally:
        await up.down()
        await drivers.close()


def seen_on_the_host() -> dict[str, list[str]]:
    """Return everything that a testbed could leave behind, as other programs report it."""

    def lines(*argv: str) -> list[str]:
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
        return sorted(filter(None, (line.strip() for line in done.stdout.splitlines())))

    virsh = ("virsh", "-q", "-c", "qemu:///system")
    return {
        "domains": lines(*virsh, "list", "--all", "--name"),
        "networks": lines(*virsh, "net-list", "--all", "--name"),
        "switches": lines("ovs-vsctl", "--columns=name", "-f", "csv", "list", "Bridge"),
        "ports": lines("ovs-vsctl", "--columns=name", "-f", "csv", "list", "Port"),
        "controllers": lines("ovs-vsctl", "--columns=target", "-f", "csv", "list", "Controller"),
        "links": [line.split(": ")[1] for line in lines("ip", "-o", "link", "show")],
        "programs": [
            line for line in lines("ps", "-e", "-o", "comm=") if line.startswith(("qemu", "dnsmasq", "ssh"))
        ],
        "projects": sorted(path.name for path in Path("/var/lib/kvm-compose").iterdir()),
        "files": sorted(
            str(path)
            for folder in ("/run/libvirt", "/run/openvswitch", "/var/lib/libvirt", "/etc/libvirt")
            for path in Path(folder).rglob("*")
            if not path.is_dir()
            and "/domain-" not in str(path)  # sockets of a QEMU, kept by a libvirtd that was killed meanwhile
        ),
    }


def assert_as_before(before: dict[str, list[str]], seconds: float = 10) -> None:
    """Wait for programs to end."""
    deadline = time.monotonic() + seconds
    while (found := seen_on_the_host()) != before and time.monotonic() < deadline:
        time.sleep(0.2)
    differing = {key: set(before[key]) ^ set(found[key]) for key in before if before[key] != found[key]}
    assert not differing, differing
