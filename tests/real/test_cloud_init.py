"""A guest with Debian's own cloud-init, UEFI and guest agent goes through the same `up` as any other."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING

import pytest
from kvm import Project

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
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
      firmware: uefi
      username: tester
      ready: agent
      ready_timeout_seconds: 1000
      libvirt_type:
        cloud_image:
          path: debian.qcow2
          expand_gigabytes: 1
          context: ./files
          environment: {GREETING: "two words & a 'quote'", NUMBER: 010}
          setup_script: ./setup.sh
          run_script: ./run.sh
      shares: [{source: shared, target: /srv/shared}, {source: shared, target: /srv/read, readonly: true}]
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


RESULT = "/run/cloud-init/result.json"
#: Questions are shell commands of the guest's user. cloud-init ends after the scripts that `up` waits for.
COMMON = {
    "cloud-init": f"until [ -e {RESULT} ]; do sleep 1; done; cat {RESULT}",
    "firmware": "ls /sys/firmware",
    "shared": "cat /srv/shared/note",
    "shares": "findmnt -n -o FSTYPE /srv/shared; findmnt -n -o FSTYPE,OPTIONS /srv/read",
    "context": "cat /etc/nocloud/context/deep/note.txt",
    "set-up": "cat /etc/set-up",
    "size": "df --output=size -BM / | tail -n 1",
}
FIRST = {
    "host": "hostname",
    "address": "ip -4 -o addr show eth0",
    "link": "ip link show eth0",
    "greeting": "/etc/nocloud/env.sh GREETING",
    "number": "/etc/nocloud/env.sh NUMBER",
    "root": "sudo -n id -u",
    "agent": "dpkg-query --show --showformat '${Status}' qemu-guest-agent",
    "ran": "cat /etc/own/ran",
    "vendor": "cat /etc/own/vendor",
    "text": "cat /etc/own/text",
    "owner": "stat -c '%U:%G %a' /etc/own/file",
    "file": "sudo -n cat /etc/own/file",
    "zone": "readlink /etc/localtime",
    "groups": "id -nG ada",
    "ada": "sudo -n -u ada sudo -n id -u",
    "bob": "getent passwd bob",
    "passwords": "sudo -n getent shadow ada tester | cut -d: -f2",
}


def answers(project: Project, questions: Mapping[str, str]) -> dict[str, str]:
    """Return what shell commands print in the guest: all at once, as each way into it takes seconds."""
    script = "".join(f"echo; echo '=== {name}'\n{command}\n" for name, command in questions.items())
    said = project.run("exec", "--user", "tester", "server", "--", "sh", "-c", script).stdout
    parts = re.split(r"^=== (.+)\n", said, flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def assert_common(found: Mapping[str, str], gigabytes: int) -> None:
    assert json.loads(found["cloud-init"])["v1"]["errors"] == []
    assert "efi" in found["firmware"].split()
    assert found["shared"] == "from the project"
    virtiofs, by_9p = found["shares"].splitlines()
    assert virtiofs == "virtiofs"
    assert by_9p.split()[0] == "9p"
    assert by_9p.split()[1].startswith("ro,")
    # and 1.5 GiB of the image
    assert int(found["size"].rstrip("M")) > gigabytes * 1000 + 1200, (
        "the file system did not grow with the disk"
    )


def assert_own_data(found: Mapping[str, str]) -> None:
    """What the user has cloud-init do, in every way there is, has happened beside what is ours."""
    assert found["ran"] == "seedtest-server größe"
    assert found["vendor"] == "vendor"
    assert found["text"] == "größe {{ not a template }}"
    assert found["owner"] == "ada:ada 600"
    assert found["file"] == "from a file"
    assert found["zone"].endswith("/Europe/Vienna")
    assert "audio" in found["groups"].split()
    assert found["ada"] == "0"
    assert found["bob"].endswith(":/bin/sh")
    assert found["passwords"].splitlines() == [HASH, "!"]


def assert_another_seed(found: Mapping[str, str], gigabytes: int) -> None:
    """What came with the second seed is there, and what the guest wrote in its life."""
    assert_common(found, gigabytes)
    assert found["context"] == "another"
    assert found["set-up"] == "mine"


@pytest.mark.long
def test_real_cloud_init_goes_through_up(project: Project) -> None:
    said = project.run("up", timeout=1200).stderr
    assert "server | run by /bin/bash" in said
    assert project.inside("server", "id", "-u") == "0", "the guest is not entered by its agent"

    found = answers(project, COMMON | FIRST)
    assert_common(found, 1)
    assert_own_data(found)
    assert found["host"] == "seedtest-server"
    assert project.address("server") in found["address"]
    assert "mtu 1442" in found["link"]
    assert found["context"] == "from the context"
    assert found["greeting"] == found["set-up"] == "two words & a 'quote'"
    assert found["number"] == "010"
    assert found["root"] == "0"
    assert found["agent"] == "install ok installed"
    assert HASH not in (project.folder / "state.json").read_text()
    # by SSH; and of the guest's life
    command = "echo mine | sudo tee /etc/set-up; dpkg-query --show cloud-init"
    assert "cloud-init" in project.run("ssh", "server", command).stdout
    console = project.folder / ".kvm-compose" / "consoles" / "server.log"
    end = time.monotonic() + 300  # the guest is ready before its consoles are
    while "seedtest-server login:" not in console.read_text(errors="replace"):
        assert time.monotonic() < end
        time.sleep(0.5)

    # another seed for the same disk: cloud-init applies it, `up` waits for that, and the guest's life goes on
    project.edit("      ready: agent\n", "")  # `up` waits by SSH
    project.write("files/deep/note.txt", "another\n")
    if _LONG:  # else at the boot that follows: an emulated one takes a minute
        project.run("down")
        project.run("up", timeout=1200)
        assert_another_seed(answers(project, COMMON), 1)

    # a larger disk: it grows in place, and so does the file system at the next boot
    project.edit("expand_gigabytes: 1", "expand_gigabytes: 2")
    disk = project.folder / "artefacts" / "server-cloud-init.img"
    while_running = project.run("generate").stderr
    assert "data kept, while its guest runs: kvm-compose up" in while_running
    inode = disk.stat().st_ino
    project.run("down")
    project.run("up", timeout=1200)
    assert disk.stat().st_ino == inode
    assert_another_seed(answers(project, COMMON), 2)

    # the guest has run: its disk is kept, and a smaller one is refused
    project.run("down", "--timeout", "0")
    project.edit("expand_gigabytes: 2", "expand_gigabytes: 1")
    assert "do not shrink" in project.run("generate", "disk:server", status=1).stderr
    project.run("generate", "--provision", "disk:server")
    assert disk.stat().st_ino != inode
