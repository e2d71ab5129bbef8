"""A guest with Debian's own cloud-init goes through the same `up` as any other."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from kvm import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hosts import TestHost

pytestmark = pytest.mark.real

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))

YAML = """\
machines:
  - name: server
    interfaces:
      - bridge: br0
    libvirt:
      cpus: 1
      memory_mb: 512
      username: tester
      ready_timeout_seconds: 1000
      libvirt_type:
        cloud_image:
          path: debian.qcow2
          expand_gigabytes: 1
          context: ./files
          environment: {GREETING: "two words & a 'quote'", NUMBER: 010}
          setup_script: ./setup.sh
          run_script: ./run.sh
      shares: [{source: shared, target: /srv/shared}]
      cloud_init:
        user_data: own/user-data.yaml
        vendor_data: own/vendor.sh
        timezone: Europe/Vienna
        users:
          - {name: ada, sudo: true, groups: [audio], hashed_passwd_file: own/ada.hash}
        files:
          - {path: /etc/own/text, content: "größe {{ not a template }}"}
          - {path: /etc/own/file, source: own/file, owner: "ada:ada", mode: "0600"}
network:
  bridges:
    - name: br0
  external_bridge: br0
"""

USER_DATA = """\
## template: jinja
#cloud-config
users:
  - {name: bob, shell: /bin/sh}
bootcmd:
  - mkdir -p /etc/own
runcmd:
  - [sh, -c, "echo {{ v1.local_hostname }} größe >/etc/own/ran"]
"""
HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"

CONFIG = {
    "testbed_host_ssh_config": {
        "main": {"ip": "127.0.0.1", "is_main_host": True, "virt_type": "qemu", "datapath_type": "netdev"}
    }
}


@pytest.fixture
def project(real_host: TestHost, tmp_path: Path, debian_image: Path) -> Iterator[Project]:
    files = {
        "kvm-compose.yaml": YAML,
        "kvm-compose-config.json": json.dumps(CONFIG),
        "files/deep/note.txt": "from the context\n",
        "shared/note": "from the project\n",
        "setup.sh": 'echo "$GREETING" >/etc/set-up\n',
        "run.sh": "#!/bin/bash\necho run by $BASH\n",
        "own/user-data.yaml": USER_DATA,
        "own/vendor.sh": "#!/bin/sh\necho vendor >/etc/own/vendor\n",
        "own/ada.hash": f"{HASH}\n",
        "own/file": "from a file\n",
    }
    project = Project(real_host, tmp_path, "seedtest", files)
    (project.folder / "debian.qcow2").symlink_to(debian_image)
    yield project
    project.run("down", "--purge", "--timeout", "0", status=None)


def assert_own_data(guest: Callable[..., str]) -> None:
    """What the user has cloud-init do, in every way there is, has happened beside what is ours."""
    assert guest("cat", "/etc/own/ran") == "seedtest-server größe"
    assert guest("cat", "/etc/own/vendor") == "vendor"
    assert guest("cat", "/etc/own/text") == "größe {{ not a template }}"
    assert guest("stat", "-c", "%U:%G %a", "/etc/own/file") == "ada:ada 600"
    assert guest("sudo", "-n", "cat", "/etc/own/file") == "from a file"
    assert guest("readlink", "/etc/localtime").endswith("/Europe/Vienna")
    assert "audio" in guest("id", "-nG", "ada").split()
    assert guest("sudo", "-n", "-u", "ada", "sudo", "-n", "id", "-u") == "0"
    assert guest("getent", "passwd", "bob").endswith(":/bin/sh")
    shadow = guest("sudo", "-n", "getent", "shadow", "ada", "tester").splitlines()
    assert [line.split(":")[1] for line in shadow] == [HASH, "!"]
    assert guest("cat", "/srv/shared/note") == "from the project"
    assert guest("cloud-init", "status") == "status: done"


def assert_another_seed(guest: Callable[..., str]) -> None:
    """What came with the second seed is there, and what the guest wrote in its life."""
    assert guest("cat", "/etc/nocloud/context/deep/note.txt") == "another"
    assert guest("cat", "/etc/set-up") == "mine"
    assert guest("cat", "/srv/shared/note") == "from the project"


@pytest.mark.long
def test_real_cloud_init_goes_through_up(project: Project) -> None:
    said = project.run("up", timeout=1200).stderr
    assert "server | run by /bin/bash" in said

    def guest(*command: str) -> str:
        return project.inside("server", *command)

    assert guest("hostname") == "seedtest-server"
    assert project.address("server") in guest("ip", "-4", "-o", "addr", "show", "eth0")
    assert "mtu 1442" in guest("ip", "link", "show", "eth0")
    assert guest("cat", "/etc/nocloud/context/deep/note.txt") == "from the context"
    assert guest("/etc/nocloud/env.sh", "GREETING") == "two words & a 'quote'"
    assert guest("/etc/nocloud/env.sh", "NUMBER") == "010"
    assert guest("cat", "/etc/set-up") == "two words & a 'quote'"
    assert guest("sudo", "-n", "id", "-u") == "0"
    assert_own_data(guest)
    assert HASH not in (project.folder / "state.json").read_text()
    size = guest("df", "--output=size", "-BM", "/").split()[-1]
    assert int(size.rstrip("M")) > 2200, "the root file system did not grow with the disk"
    assert "cloud-init" in project.run("ssh", "server", "dpkg-query --show cloud-init").stdout
    console = project.folder / ".kvm-compose" / "consoles" / "server.log"
    end = time.monotonic() + 300  # the guest is ready before its consoles are
    while "seedtest-server login:" not in console.read_text(errors="replace"):
        assert time.monotonic() < end
        time.sleep(0.5)

    # another seed for the same disk: cloud-init applies it, `up` waits for that, and the guest's life goes on
    project.inside("server", "sudo", "sh", "-c", "echo mine >/etc/set-up")
    project.write("files/deep/note.txt", "another\n")
    if _LONG:  # else at the boot that follows: an emulated one takes a minute
        project.run("down")
        project.run("up", timeout=1200)
        assert_another_seed(guest)

    # a larger disk: it grows in place, and so does the file system at the next boot
    project.edit("expand_gigabytes: 1", "expand_gigabytes: 2")
    disk = project.folder / "artefacts" / "server-cloud-init.img"
    while_running = project.run("generate").stderr
    assert "data kept, while its guest runs: kvm-compose up" in while_running
    inode = disk.stat().st_ino
    project.run("down")
    project.run("up", timeout=1200)
    assert disk.stat().st_ino == inode
    assert_another_seed(guest)
    size = guest("df", "--output=size", "-BM", "/").split()[-1]
    assert int(size.rstrip("M")) > 3200, "the root file system did not grow with the disk"

    # the guest has run: its disk is kept, and a smaller one is refused
    project.run("down")
    project.edit("expand_gigabytes: 2", "expand_gigabytes: 1")
    assert "do not shrink" in project.run("generate", "disk:server", status=1).stderr
    project.run("generate", "--provision", "disk:server")
    assert disk.stat().st_ino != inode
