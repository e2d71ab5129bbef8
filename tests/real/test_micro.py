"""The micro guest: built by the command line, named in a project, booted from what ``generate`` made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hosts import TestHost
from hosts.guest import Login, ssh, wait_for_ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

YAML = """\
machines:
  - name: node
    interfaces:
      - bridge: br0
      - bridge: br1
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type:
        cloud_image:
          name: micro
          expand_gigabytes: 1
          context: ./files
          environment: {GREETING: "two words & a 'quote'", NUMBER: 010}
          setup_script: ./setup.sh
          run_script: ./run.sh
      shares: [{source: shared, target: /srv/shared folder}]
  - name: worker
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image:
          name: micro
      scaling:
        count: 2
        shared_setup: ./setup.sh
        interfaces:
          - bridge: br0
            clones: [0, 1]
network:
  bridges:
    - name: br0
    - name: br1
  external_bridge: br0
"""

CONFIG = {
    "testbed_host_ssh_config": {
        "main": {"ip": "127.0.0.1", "is_main_host": True, "virt_type": "qemu", "datapath_type": "netdev"}
    },
    "ssh_public_key_location": "key.pub",
    "ssh_private_key_location": "key",
}

# with nothing else to do it takes about 4 s to boot and half a second to be off; other tests may run beside
BOOT_SECONDS = 180
OFF_SECONDS = 30


def kvm_compose(folder: Path, store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``kvm-compose`` as a user would, with an image store of its own."""
    argv = [sys.executable, "-m", "kvmcompose", *words]
    env = {**os.environ, "KVM_COMPOSE_STORE": str(store)}
    return subprocess.run(argv, cwd=folder, env=env, check=False, capture_output=True, text=True, timeout=300)


@dataclass(frozen=True)
class Guest:
    """One guest of the project."""

    host: TestHost
    domain: str
    xml: Path
    login: Login

    def start(self) -> float:
        """Power on; the seconds until it lets us in."""
        started = time.monotonic()
        self.host.virsh("create", self.xml)
        wait_for_ssh(self.host, self.domain, self.login, timeout=BOOT_SECONDS)
        return time.monotonic() - started

    def press_power_button(self) -> float:
        """The seconds until it is off."""
        started = time.monotonic()
        self.host.virsh("shutdown", self.domain)
        while self.domain in self.host.virsh("list", "--name").stdout.split():
            assert time.monotonic() - started < OFF_SECONDS, "the guest did not obey its power button"
            time.sleep(0.05)
        return time.monotonic() - started

    def run(self, command: str) -> str:
        return ssh(self.host, self.login, [command]).stdout.strip()

    def host_key(self) -> str:
        scan = self.host.run(["ssh-keyscan", "-t", "ed25519", self.login.address]).stdout
        return next(line for line in scan.splitlines() if not line.startswith("#")).split()[2]

    def console(self, project: Path) -> str:
        log = f"{self.xml.name.removesuffix('-domain.xml')}.log"
        return (project / ".kvm-compose" / "consoles" / log).read_text(errors="replace")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store with nothing in it but the micro image, just built."""
    folder = tmp_path_factory.mktemp("store")
    built = kvm_compose(folder, folder, "cloud-images", "build", "micro")
    assert built.returncode == 0, built.stderr
    assert built.stdout == ""
    return folder


@pytest.fixture(scope="module")
def project(
    store: Path, real_host: TestHost, ssh_key: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A generated project, linked to where domains look for it, and its bridges."""
    folder = tmp_path_factory.mktemp("microtest") / "microtest"
    (folder / "files" / "deep").mkdir(parents=True)
    (folder / "files" / "deep" / "note.txt").write_text("from the context\n")
    (folder / "shared").mkdir()
    (folder / "shared" / "from-host").write_text("written on the host\n")
    (folder / "setup.sh").write_text("#!/bin/bash\necho set up > /etc/set-up\n")
    (folder / "run.sh").write_text("true\n")
    (folder / "kvm-compose.yaml").write_text(YAML)
    (folder / "kvm-compose-config.json").write_text(json.dumps(CONFIG))
    shutil.copy(ssh_key, folder / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), folder / "key.pub")
    made = kvm_compose(folder, store, "generate")
    assert made.returncode == 0, made.stderr
    (folder / ".kvm-compose" / "consoles").mkdir()
    real_host.link_project("microtest", folder)
    for name in ("br0", "br1"):
        real_host.add_bridge(f"microtest-{name}")
    real_host.virsh("net-define", folder / "artefacts" / "microtest-network.xml")
    real_host.virsh("net-start", "microtest-network")
    return folder


@pytest.fixture
def guests(project: Path, real_host: TestHost) -> dict[str, Guest]:
    """All guests by name; those on br0 reachable from their host."""
    found = {}
    state = json.loads((project / "state.json").read_text())["testbed_guests"]
    for name, guest in state.items():
        nic = guest["interfaces"][0]
        login = Login(nic["ip"], "tester" if name == "node" else "nocloud", project / "key")
        xml = project / "artefacts" / f"{name}-domain.xml"
        found[name] = Guest(real_host, guest["hostname"], xml, login)
    nic = state["node"]["interfaces"][0]
    # an address of its own: the NAT network has the gateway's
    address = f"{nic['gateway'].rpartition('.')[0]}.250"
    for name, guest in state.items():
        if name != "worker":
            real_host.run(["ip", "route", "replace", guest["interfaces"][0]["ip"], "dev", nic["source"]])
    real_host.run(["ip", "address", "replace", f"{address}/32", "dev", nic["source"]])
    return found


@pytest.fixture(autouse=True)
def all_off(real_host: TestHost) -> Iterator[None]:
    yield
    for name in real_host.virsh("list", "--name").stdout.split():
        if name.startswith("microtest-"):
            real_host.virsh("destroy", name, check=False)


def test_takes_everything_from_the_seed(guests: dict[str, Guest], project: Path, tmp_path: Path) -> None:
    node = guests["node"]
    node.start()
    state = json.loads((project / "state.json").read_text())["testbed_guests"]["node"]

    assert node.run("hostname") == "microtest-node"
    for index, nic in enumerate(state["interfaces"]):
        shown = node.run(f"ip address show eth{index}")
        assert f"inet {nic['ip']}/{nic['prefix_length']} " in shown
        assert nic["mac"] in shown
        assert f"mtu {nic['mtu']} " in shown
        assert ",UP" in shown
    gateway = state["interfaces"][0]["gateway"]
    assert f"default via {gateway} dev eth0" in node.run("ip route")
    assert f"nameserver {gateway}" in node.run("cat /etc/resolv.conf")
    assert "127.0.1.1 microtest-node" in node.run("cat /etc/hosts")
    assert node.run("id -un; echo $SHELL").split() == ["tester", "/bin/bash"]
    assert set(node.run("id -Gn").split()) == {"tester", "users"}
    assert node.run("sudo -n id -un; sudo -u tester id -un; sudo A=b -E sh -c 'echo $A $HOME'").split() == [
        "root", "tester", "b", "/root",
    ]  # fmt: skip
    assert node.run("cat /etc/nocloud/context/deep/note.txt") == "from the context"
    assert node.run("/etc/nocloud/env.sh GREETING; /etc/nocloud/env.sh NUMBER").splitlines() == [
        "two words & a 'quote'",
        "010",
    ]
    assert node.run("sudo /etc/nocloud/setup/00-setup.sh; cat /etc/set-up") == "set up"
    assert node.run("ls /etc/nocloud/run /etc/nocloud/ready").splitlines()[0] == "/etc/nocloud/ready"
    assert node.run("cat '/srv/shared folder/from-host'") == "written on the host"
    node.run("echo written in the guest | sudo tee '/srv/shared folder/from-guest'")
    assert (project / "shared" / "from-guest").read_text() == "written in the guest\n"
    assert node.run("cloud-init status --wait") == "status: done"
    assert node.run("ping -c 1 -W 1 127.0.0.1 >/dev/null && echo pong") == "pong"
    size = int(node.run("df -m /").split()[-5])
    assert size > 1900, f"the root file system of {size} MiB did not grow with the disk"
    assert_files_go_both_ways_by_sftp(node, tmp_path)
    assert_the_agent_answers(node)
    assert_console_shows_the_boot_and_lets_root_in(node, project)


def assert_files_go_both_ways_by_sftp(node: Guest, folder: Path) -> None:
    (folder / "there").write_bytes(bytes(range(256)) * 4096)
    options = ["-q", "-s", "-i", node.login.identity_file, "-o", "BatchMode=yes"]
    options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    remote = f"tester@{node.login.address}:copied"
    node.host.run(["scp", *options, folder / "there", remote])
    node.host.run(["scp", *options, remote, folder / "back"])
    assert (folder / "back").read_bytes() == (folder / "there").read_bytes()


def assert_the_agent_answers(node: Guest) -> None:
    """It starts when the guest has booted."""
    ask = ["qemu-agent-command", node.domain, '{"execute":"guest-get-osinfo"}']
    deadline = time.monotonic() + BOOT_SECONDS
    while (done := node.host.virsh(*ask, check=False)).returncode != 0:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.5)
    assert "kernel-release" in done.stdout


def assert_console_shows_the_boot_and_lets_root_in(node: Guest, project: Path) -> None:
    terminal = re.search(r"<source path='(/dev/pts/\d+)'", node.host.virsh("dumpxml", node.domain).stdout)
    assert terminal
    # QEMU looks once a second whether somebody is at the terminal: it stays open for some
    keys = "stty raw -echo <&3; sleep 2; printf 'root\\r' >&3; sleep 2; printf 'echo I am $(id -un)\\r' >&3"
    node.host.run(["timeout", "30", "bash", "-c", f"exec 3<>{terminal[1]}; {keys}; sleep 2"])
    shown = node.console(project)
    assert f"micro guest: eth0 has {node.login.address}/" in shown
    assert "micro guest: ready as microtest-node" in shown
    assert "microtest-node login: " in shown
    assert "I am root" in shown


def test_restart_keeps_the_disk_and_the_host_key_and_takes_seconds(
    guests: dict[str, Guest], record_testsuite_property: Callable[[str, object], None]
) -> None:
    node = guests["node"]
    to_ssh = [node.start()]
    key = node.host_key()
    node.run("echo kept >kept; sudo touch /opt-kept; echo lost >/tmp/lost")
    to_off = [node.press_power_button()]
    to_ssh.append(node.start())
    assert node.run("cat kept; ls /opt-kept; ls /tmp") == "kept\n/opt-kept"
    assert node.run("cat '/srv/shared folder/from-host'") == "written on the host"
    assert node.host_key() == key
    # a machine that loses its power keeps what was written a moment ago
    node.run("echo again >again; echo more >>kept; sleep 4")
    node.host.virsh("destroy", node.domain)
    to_ssh.append(node.start())
    assert node.run("cat again kept") == "again\nkept\nmore"
    assert node.host_key() == key
    to_off.append(node.press_power_button())
    # where other tests run beside, one of them may be late
    record_testsuite_property("micro_seconds_to_ssh", [round(seconds, 2) for seconds in to_ssh])
    record_testsuite_property("micro_seconds_to_off", [round(seconds, 2) for seconds in to_off])
    assert min(to_ssh) < 60
    assert min(to_off) < 8


def test_clones_have_what_the_golden_image_has_and_their_own_identity(guests: dict[str, Guest]) -> None:
    golden = guests["worker"]
    golden.start()
    assert golden.run("hostname") == "microtest-worker"
    golden.run("sudo sh /etc/nocloud/setup/00-setup.sh")
    keys = {golden.host_key()}
    golden.press_power_button()
    for number in (0, 1):
        clone = guests[f"worker-{number}"]
        clone.start()
        assert clone.run("hostname; cat /etc/set-up") == f"microtest-worker-{number}\nset up"
        assert clone.run("ip -4 -o address show eth0").split()[3].partition("/")[0] == clone.login.address
        keys.add(clone.host_key())
        if number:
            break
        # a clone that loses its power as soon as it is there is still itself
        clone.host.virsh("destroy", clone.domain)
        clone.start()
        assert clone.run("hostname; cat /etc/set-up") == f"microtest-worker-{number}\nset up"
        assert clone.host_key() in keys
    assert len(keys) == 3
    assert guests["worker-0"].run(f"ping -c 1 -W 2 {guests['worker-1'].login.address} | grep -c ttl=") == "1"


def test_guest_without_a_seed_says_so_on_its_console(
    real_host: TestHost, project: Path, store: Path, tmp_path: Path
) -> None:
    xml = (project / "artefacts" / "node-domain.xml").read_text()
    without, number = re.subn(r"<disk(?:(?!</disk>).)*vdb.*?</disk>", "", xml, flags=re.DOTALL)
    assert number == 1
    overlay = tmp_path / "bare.qcow2"
    image = next(path for path in (store / "sha256").rglob("*") if path.is_file())
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay],  # noqa: S607
        check=True,
        timeout=60,
    )
    without = without.replace(
        "/var/lib/kvm-compose/microtest/artefacts/node-cloud-init.img", str(overlay)
    ).replace("consoles/node.log", "consoles/bare.log")
    (tmp_path / "bare.xml").write_text(without.replace("<name>microtest-node<", "<name>microtest-bare<"))
    real_host.virsh("create", tmp_path / "bare.xml")
    log = project / ".kvm-compose" / "consoles" / "bare.log"
    deadline = time.monotonic() + BOOT_SECONDS
    while "login: " not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.2)
    assert "micro guest: there is no seed: no disk is labelled CIDATA" in log.read_text(errors="replace")


def test_same_packages_give_the_same_bytes(store: Path, tmp_path: Path) -> None:
    (image,) = (store / "sha256").glob("*/*")
    again = kvm_compose(tmp_path, store, "cloud-images", "build", "--refresh", "micro")
    assert again.returncode == 0, again.stderr
    assert "making the disk" in again.stderr
    assert f"micro is here already, sha256 {image.name}" in again.stderr
    assert list((store / "sha256").glob("*/*")) == [image]
