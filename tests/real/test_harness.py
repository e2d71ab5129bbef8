"""The harness itself, proven with XML written by hand."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hosts import CommandError, MissingPrograms, NoAgent, TestHost, TestHosts, prerequisites
from hosts.guest import GuestError, Login, ssh, wait_for_ssh, write_seed

pytestmark = pytest.mark.real

TESTS = Path(__file__).resolve().parent.parent

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    {devices}
    <interface type='bridge'>
      <source bridge='{bridge}'/>
      <virtualport type='openvswitch'/>
      <mac address='{mac}'/>
      <model type='virtio'/>
      <!-- The userspace datapath passes packets on without the checksums a guest left to its device. -->
      <driver><host csum='off'/></driver>
    </interface>
    <serial type='pty'/>
    <console type='pty'/>
  </devices>
</domain>
"""

DISK = """\
<disk type='file' device='disk'>
  <driver name='qemu' type='{kind}'/><source file='{file}'/><target dev='{device}' bus='virtio'/>{extra}
</disk>
"""

NETWORK = """\
<network>
  <name>{name}</name>
  <forward mode='nat'/>
  <bridge name='{bridge}'/>
  <ip address='10.67.0.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='10.67.0.100' end='10.67.0.200'/>
      <host mac='52:54:00:00:67:05' name='someone' ip='10.67.0.5'/>
    </dhcp>
  </ip>
</network>
"""

USER_DATA = """\
#cloud-config
users:
  - name: nocloud
    shell: /bin/bash
    sudo: "ALL=(ALL) NOPASSWD:ALL"
    ssh_authorized_keys: ["{key}"]
runcmd:
  - [sh, -c, "echo a b >/etc/from-runcmd"]
"""

NETWORK_CONFIG = """\
version: 2
ethernets:
  nic0:
    match: {{macaddress: "{mac}"}}
    addresses: [{address}/24]
"""


def disk(file: Path, device: str, *, kind: str = "qcow2", extra: str = "") -> str:
    return DISK.format(file=file, device=device, kind=kind, extra=extra)


def make_disk(path: Path, size: str = "16M", backing: Path | None = None) -> Path:
    origin = ["-b", str(backing), "-F", "qcow2"] if backing else []
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", *origin, str(path), size]
    subprocess.run(argv, check=True, timeout=60)
    return path


def domain_file(folder: Path, **values: object) -> Path:
    path = folder / f"{values['name']}.xml"
    path.write_text(DOMAIN.format(**{"memory": 128, "mac": "52:54:00:00:00:01", **values}))
    return path


def processes_in(namespaces: dict[str, str]) -> list[str]:
    """The processes on this machine that live in one of the namespaces."""
    argv = ["find", "/proc", "-maxdepth", "3", "-path", "/proc/[0-9]*/ns/*", "-printf", "%h %l\\n"]
    # Its status is not asked for: processes end while it looks at them.
    found = subprocess.run(
        prerequisites.as_root(argv), check=False, capture_output=True, text=True, timeout=60
    )
    pairs = (line.split(" ") for line in found.stdout.splitlines())
    return sorted({folder for folder, identity in pairs if identity in namespaces.values()})


def leftovers(folder: Path, namespaces: dict[str, str]) -> list[str]:
    links = [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith("kvmc")]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    sockets = [str(path) for path in folder.rglob("*") if path.is_socket()]
    projects = [str(path) for path in Path("/var/lib/kvm-compose").glob("t-*")]
    return processes_in(namespaces) + links + mounts + sockets + projects


def assert_nothing_left(folder: Path, namespaces: dict[str, str]) -> None:
    """Nobody tells a caller that was killed when all has ended: ask for some seconds."""
    deadline = time.monotonic() + 10
    while (found := leftovers(folder, namespaces)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == []


def test_libvirt_answers_inside_and_outside(real_host: TestHost) -> None:
    assert real_host.virsh("uri").stdout.strip() == "qemu:///system"
    outside = ["virsh", "-c", real_host.libvirt_uri, "list", "--all", "--name"]
    assert subprocess.run(outside, check=True, capture_output=True, timeout=30).stderr == b""


def test_host_has_no_kvm_and_a_name_of_its_own(real_host: TestHost) -> None:
    assert real_host.run(["ls", "/dev/kvm"], check=False).returncode != 0
    assert real_host.run(["hostname"]).stdout.strip() == "h1"


def test_domain_on_an_openvswitch_bridge_reads_its_disk_through_the_project_link(
    real_host: TestHost, tmp_path: Path
) -> None:
    (tmp_path / "artefacts").mkdir()
    make_disk(tmp_path / "artefacts" / "t-disk.qcow2")
    real_host.add_bridge("t-hbr0")
    link = real_host.link_project("t-project", tmp_path)
    file = link / "artefacts" / "t-disk.qcow2"
    real_host.virsh(
        "define", domain_file(tmp_path, name="t-defined", bridge="t-hbr0", devices=disk(file, "vda"))
    )
    real_host.virsh("start", "t-defined")
    try:
        assert "vnet" in real_host.run(["ovs-vsctl", "list-ports", "t-hbr0"]).stdout
        pid = real_host.run(["cat", "/run/libvirt/qemu/t-defined.pid"]).stdout.strip()
        opened = real_host.run(["bash", "-c", f"readlink /proc/{pid}/fd/*"], check=False).stdout
        assert str(tmp_path / "artefacts" / "t-disk.qcow2") in opened.splitlines()
    finally:
        real_host.virsh("destroy", "t-defined")
        real_host.virsh("undefine", "t-defined")
    assert real_host.run(["ovs-vsctl", "list-ports", "t-hbr0"]).stdout == ""


def test_network_starts_with_dhcp_and_nat(real_host: TestHost, tmp_path: Path) -> None:
    path = tmp_path / "network.xml"
    path.write_text(NETWORK.format(name="t-network", bridge="t-prjbr0"))
    real_host.virsh("net-define", path)
    real_host.virsh("net-start", "t-network")
    try:
        assert "10.67.0.1/24" in real_host.run(["ip", "-br", "address", "show", "t-prjbr0"]).stdout
    finally:
        real_host.virsh("net-destroy", "t-network")
        real_host.virsh("net-undefine", "t-network")


def start_guest(
    host: TestHost, folder: Path, image: Path, key: Path, *, name: str, number: int, memory: int
) -> Login:
    """Start a guest on a bridge of its own, with the address 10.<number>.0.5 from a hand-made seed."""
    mac, address, bridge = f"52:54:00:00:{number:02x}:05", f"10.{number}.0.5", f"t-hbr{number}"
    seed, overlay = folder / f"{name}.iso", make_disk(folder / f"{name}.qcow2", "3G", image)
    write_seed(
        seed,
        user_data=USER_DATA.format(key=key.with_suffix(".pub").read_text().strip()),
        meta_data=f"instance-id: {name}-1\nlocal-hostname: {name}\n",
        network_config=NETWORK_CONFIG.format(mac=mac, address=address),
    )
    host.add_bridge(bridge, address=f"10.{number}.0.1/24")
    devices = disk(overlay, "vda") + disk(seed, "vdb", kind="raw", extra="<readonly/>")
    host.virsh(
        "define", domain_file(folder, name=name, memory=memory, bridge=bridge, mac=mac, devices=devices)
    )
    host.virsh("start", name)
    return Login(address, "nocloud", key)


def shut_down(host: TestHost, name: str) -> None:
    """Press the guest's power button and wait until it is off."""
    host.virsh("shutdown", name)
    deadline = time.monotonic() + 60
    while name in host.virsh("list", "--name").stdout.split():
        assert time.monotonic() < deadline, "the guest did not obey its power button"
        time.sleep(0.2)


def remove_guest(host: TestHost, name: str) -> None:
    host.virsh("destroy", name, check=False)
    host.virsh("undefine", name)


@pytest.mark.long_only  # tests/real/test_micro.py uses the same helpers, and has a seed and a restart, too
def test_micro_guest_applies_a_seed_and_keeps_its_disk(
    real_host: TestHost, micro_image: Path, ssh_key: Path, tmp_path: Path
) -> None:
    name = "t-micro"
    login = start_guest(real_host, tmp_path, micro_image, ssh_key, name=name, number=67, memory=128)
    try:
        wait_for_ssh(real_host, name, login, timeout=60)
        assert ssh(real_host, login, ["hostname"]).stdout.strip() == name
        assert ssh(real_host, login, ["id", "-un", ";", "sudo", "id", "-un"]).stdout.split() == [
            "nocloud",
            "root",
        ]
        assert ssh(real_host, login, ["cat", "/etc/from-runcmd"]).stdout.strip() == "a b"
        ssh(real_host, login, ["echo", "kept", ">kept"])
        shut_down(real_host, name)
        real_host.virsh("start", name)
        wait_for_ssh(real_host, name, login, timeout=60)
        assert ssh(real_host, login, ["cat", "kept"]).stdout.strip() == "kept"
    finally:
        remove_guest(real_host, name)


def test_unreachable_guest_is_reported_with_its_console(real_host: TestHost, tmp_path: Path) -> None:
    real_host.add_bridge("t-hbr2", address="10.68.0.1/24")
    empty = make_disk(tmp_path / "empty.qcow2")
    path = domain_file(tmp_path, name="t-empty", bridge="t-hbr2", devices=disk(empty, "vda"))
    real_host.virsh("create", path)
    try:
        with pytest.raises(GuestError, match=r"within 3 s\n--- the end of its console"):
            wait_for_ssh(real_host, "t-empty", Login("10.68.0.5", "nocloud", tmp_path / "no-key"), timeout=3)
    finally:
        real_host.virsh("destroy", "t-empty")


def test_hosts_reach_each_other_by_ssh_and_leave_nothing(tmp_path: Path) -> None:
    with TestHosts(2, directory=tmp_path, ssh=True, tunnels=True) as hosts:
        first, second = hosts
        assert hosts.identity_file
        login = Login(second.address, "root", hosts.identity_file)
        assert ssh(first, login, ["hostname"]).stdout.strip() == "h2"
        namespaces = [host.namespaces() for host in hosts]
        assert all(processes_in(each) for each in namespaces)
    for each in namespaces:
        assert_nothing_left(tmp_path, each)
    with pytest.raises(NoAgent):
        first.run(["true"])


def crash_open_vswitch(host: TestHost) -> None:
    """Abort it, and wait until it runs again."""
    pid_file = "/run/openvswitch/ovs-vswitchd.pid"
    crashed = host.run(["cat", pid_file]).stdout
    host.run(["kill", "-ABRT", crashed.strip()])
    deadline = time.monotonic() + 10
    while host.run(["cat", pid_file], check=False).stdout in ("", crashed):
        assert time.monotonic() < deadline, "it was not started again"


def test_rebooted_host_keeps_its_disks_and_forgets_what_ran(tmp_path: Path) -> None:
    with TestHosts(2, directory=tmp_path, ssh=True, tunnels=True) as hosts:
        host, key = hosts[1], hosts[1].host_key
        crash_open_vswitch(host)
        hosts[0].run(["ping", "-c", "1", "-w", "10", host.address])
        host.add_bridge("kept")
        host.run(["ip", "link", "add", "gone", "type", "veth", "peer", "name", "gone-too"])
        with host.popen(["sh", "-c", "echo runs; exec sleep 1000"], stdout=subprocess.PIPE) as sleep:
            assert sleep.stdout
            assert sleep.stdout.readline() == b"runs\n"  # one that comes after the reboot would go on
            host.reboot()
            assert sleep.wait(10) != 0
        assert host.run(["ovs-vsctl", "list-br"]).stdout.split() == ["br-phy", "kept"]
        assert host.run(["ip", "link", "show", "gone"], check=False).returncode != 0
        assert host.virsh("list", "--all").returncode == 0
        hosts[0].run(["ping", "-c", "1", "-W", "5", host.address])
        assert host.host_key == key
        crash_open_vswitch(host)
        hosts[0].run(["ping", "-c", "1", "-w", "10", host.address])


def test_exception_leaves_nothing(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    def fail_with_a_host() -> None:
        with TestHosts(1, directory=tmp_path) as hosts:
            seen.append(hosts[0].namespaces())
            hosts[0].run(["setsid", "--fork", "sleep", "1000"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_a_host()
    assert_nothing_left(tmp_path, seen[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_caller_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import pathlib, sys, time; from hosts import TestHosts\n"
        f"with TestHosts(1, directory=pathlib.Path({str(tmp_path)!r})) as hosts:\n"
        "    print(hosts[0].namespaces(), flush=True)\n"
        "    hosts[0].run(['sleep', '1000'], timeout=1000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as caller:
        assert caller.stdout
        line = caller.stdout.readline()
        caller.send_signal(number)
    namespaces = dict(pair.strip("{'} \n").split("': '") for pair in line.split(","))
    assert set(namespaces) == {"net", "mnt", "pid", "uts", "ipc"}
    assert_nothing_left(tmp_path, namespaces)


def test_command_that_fails_says_what_it_said(real_host: TestHost) -> None:
    with pytest.raises(CommandError, match="no such thing"):
        real_host.run(["sh", "-c", "echo no such thing >&2; exit 3"])


def test_command_out_of_time_is_killed_inside(real_host: TestHost) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        real_host.run(["sleep", "4321"], timeout=0.5)
    assert "sleep 4321" not in real_host.run(["ps", "-e", "-o", "args"]).stdout


def test_terminated_client_passes_the_signal_on(real_host: TestHost, tmp_path: Path) -> None:
    script = "trap 'echo ended; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    with real_host.popen(["bash", "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.read() == b"ended\n"
        assert process.wait(30) == 5


def test_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(
        MissingPrograms, match=r"not installed: no-such\nhint: sudo apt-get install .* its-package"
    ):
        prerequisites.require({"no-such": "its-package", "sh": "dash"})
