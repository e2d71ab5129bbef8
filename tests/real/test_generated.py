"""A guest with Debian's own cloud-init, booted by libvirt from nothing but what ``generate`` made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts import TestHost
from hosts.guest import Login, ssh, wait_for_ssh

pytestmark = pytest.mark.real

YAML = """\
machines:
  - name: server
    interfaces:
      - bridge: br0
    libvirt:
      cpus: 1
      memory_mb: 512
      username: tester
      libvirt_type:
        cloud_image:
          path: debian.qcow2
          expand_gigabytes: 1
          context: ./files
          environment: {GREETING: "two words & a 'quote'", NUMBER: 010}
          setup_script: ./setup.sh
network:
  bridges:
    - name: br0
  external_bridge: br0
"""

CONFIG = {
    "testbed_host_ssh_config": {
        "main": {"ip": "127.0.0.1", "is_main_host": True, "virt_type": "qemu", "datapath_type": "netdev"}
    },
    "ssh_public_key_location": "key.pub",
    "ssh_private_key_location": "key",
}


def compose(project: Path, *words: str) -> None:
    """Run ``kvm-compose`` in a project, as a user would."""
    argv = [sys.executable, "-m", "kvmcompose", "-C", str(project), *words]
    subprocess.run(argv, check=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path, debian_image: Path, ssh_key: Path) -> Path:
    """A generated project with one guest."""
    folder = tmp_path / "seedtest"
    (folder / "files" / "deep").mkdir(parents=True)
    (folder / "files" / "deep" / "note.txt").write_text("from the context\n")
    (folder / "setup.sh").write_text("echo set up > /etc/set-up\n")
    (folder / "kvm-compose.yaml").write_text(YAML)
    (folder / "kvm-compose-config.json").write_text(json.dumps(CONFIG))
    (folder / "debian.qcow2").symlink_to(debian_image)
    shutil.copy(ssh_key, folder / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), folder / "key.pub")
    compose(folder, "generate")
    (folder / ".kvm-compose" / "consoles").mkdir()
    return folder


@pytest.fixture
def server(real_host: TestHost, project: Path) -> Iterator[tuple[TestHost, str, Login]]:
    """The guest, running, reachable from its host by its address in the state."""
    guest = json.loads((project / "state.json").read_text())["testbed_guests"]["server"]
    nic = guest["interfaces"][0]
    real_host.link_project("seedtest", project)
    real_host.add_bridge(nic["source"], address=f"{nic['gateway']}/{nic['prefix_length']}")
    real_host.virsh("create", str(project / "artefacts" / "server-domain.xml"))
    try:
        yield real_host, guest["hostname"], Login(nic["ip"], "tester", project / "key")
    finally:
        real_host.virsh("destroy", guest["hostname"], check=False)
        real_host.run(["ovs-vsctl", "--if-exists", "del-br", nic["source"]])


def test_real_cloud_init_takes_everything_from_the_seed(
    server: tuple[TestHost, str, Login], project: Path
) -> None:
    host, name, login = server
    wait_for_ssh(host, name, login)
    ssh(host, login, ["cloud-init", "status", "--wait"], timeout=240)

    def guest(*command: str) -> str:
        return ssh(host, login, command).stdout.strip()

    assert guest("hostname") == "seedtest-server"
    assert login.address in guest("ip", "-4", "-o", "addr", "show", "eth0")
    assert "mtu 1442" in guest("ip", "link", "show", "eth0")
    assert guest("cat", "/etc/nocloud/context/deep/note.txt") == "from the context"
    assert guest("/etc/nocloud/env.sh", "GREETING") == "two words & a 'quote'"
    assert guest("/etc/nocloud/env.sh", "NUMBER") == "010"
    assert guest("cat", "/etc/nocloud/setup/00-setup.sh") == "echo set up > /etc/set-up"
    assert guest("test", "-e", "/etc/nocloud/ready", "&&", "echo", "ready") == "ready"
    assert guest("sudo", "-n", "id", "-u") == "0"

    # the guest has run: its disk is kept, and a new recipe is refused
    host.virsh("destroy", name)
    yaml = project / "kvm-compose.yaml"
    yaml.write_text(yaml.read_text().replace("expand_gigabytes: 1", "expand_gigabytes: 2"))
    with pytest.raises(subprocess.CalledProcessError):
        compose(project, "generate", "disk:server")
    before = (project / "artefacts" / "server-cloud-init.img").stat().st_ino
    compose(project, "generate", "--provision", "disk:server")
    assert (project / "artefacts" / "server-cloud-init.img").stat().st_ino != before
