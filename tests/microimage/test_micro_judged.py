"""Parts of the micro image, checked by programs that are not ours: cpio, sfdisk, PyYAML and a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import microimage
from kvmcompose.render.cloud_init import CloudInitValues, user_data
from microimage import disk
from microimage.filetree import cpio, file, folder, link

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.real

AWK = Path(microimage.__file__).parent / "root/usr/lib/micro/seed.awk"

META_DATA = "instance-id: lab-web-0123\nlocal-hostname: lab-web\n"
NETWORK = """\
version: 2
ethernets:
  eth0:
    match:
      macaddress: 52:54:00:AA:BB:01
    set-name: eth0
    mtu: 1442
    addresses:
      - 10.0.0.5/24
    routes:
      - to: 0.0.0.0/0
        via: 10.0.0.1
      - {to: 10.9.0.0/16, via: 10.0.0.9, metric: 5}
    nameservers:
      addresses: [10.0.0.1, 10.0.0.2]
      search:
      - lab.example
  nic1:
    match: {macaddress: "52:54:00:00:00:02"}
    dhcp4: true
"""
USER_DATA = """\
#cloud-config
hostname: lab-web
users:
  - name: tester
    shell: /bin/bash
    groups: [users]
    sudo: "ALL=(ALL) NOPASSWD:ALL"
    ssh_authorized_keys: ["ssh-ed25519 AAAA+/= it's me", "ssh-rsa BBBB"]
  - default
bootcmd:
  - [sh, -c, "mount \\"$1\\"", x, "a \\"tag\\""]
runcmd:
  # the seed is found by its label
  - [mkdir, -p, "/a, b", '/c''d']
  - echo one; echo two # not this
  - |
    if true; then
      echo three: [x]
    fi
final_message: done
"""

#: What a guest does with a seed, in a form that can be compared.
RECORD = """
for name in instance name_guest interface bring_up address route dns dhcp user key bootcmd runcmd; do
    eval "$name() { printf '%s\\\\0' \\"$name\\" \\"\\$@\\"; printf '\\\\1\\\\0'; }"
done
new=yes
. "$1"
set_up
"""

ODD_WORDS = (
    "plain", "two words", "it's", 'a "quote"', "a, b", "[x]", "{y: z}", "# no comment", "a #b", "key: value",
    " before", "after ", "", "-", "--x=y", "$HOME `id` \\ \\n", "ü", "tab\there", "true", "010", "*",
    "!x", "&y", "%z", "@", "|", ">", "a:b", "x:", "'", '"', "''", "\\", "http://h/p?q#f", "[", "]", "}", ", ",
)  # fmt: skip


def calls(folder: Path, meta_data: str, network: str, user_data: str) -> list[list[str]]:
    """The calls that a seed is translated into, as a shell makes them; empty words at the end left out."""
    files = {"meta-data": meta_data, "network-config": network, "user-data": user_data}
    for name, text in files.items():
        (folder / name).write_text(text)
    script = folder / "seed.sh"
    script.write_bytes(run(["busybox", "awk", "-f", AWK, *(folder / name for name in files)]))
    said = run(["busybox", "sh", "-c", RECORD, "sh", script]).decode().split("\1\0")
    assert said.pop() == ""
    found = [words.removesuffix("\0").split("\0") for words in said]
    return [words if words[0] == "runcmd" else [word for word in words if word] for words in found]


def run(argv: Sequence[str | Path], stdin: bytes = b"") -> bytes:
    return subprocess.run(argv, check=True, capture_output=True, input=stdin, timeout=60).stdout


def test_a_seed_becomes_calls(tmp_path: Path) -> None:
    assert calls(tmp_path, META_DATA, NETWORK, USER_DATA) == [
        ["instance", "lab-web-0123"],
        ["name_guest", "lab-web"],
        ["interface", "eth0", "52:54:00:aa:bb:01"],
        ["bring_up", "1442"],
        ["address", "10.0.0.5/24"],
        ["dns", "nameserver", "10.0.0.1"],
        ["dns", "nameserver", "10.0.0.2"],
        ["dns", "search", "lab.example"],
        ["route", "default", "10.0.0.1"],
        ["route", "10.9.0.0/16", "10.0.0.9", "5"],
        ["interface", "nic1", "52:54:00:00:00:02"],
        ["bring_up"],
        ["dhcp"],
        ["bootcmd", "sh", "-c", 'mount "$1"', "x", 'a "tag"'],
        ["user", "tester"],
        ["key", "ssh-ed25519 AAAA+/= it's me"],
        ["key", "ssh-rsa BBBB"],
        ["runcmd", "mkdir", "-p", "/a, b", "/c'd"],
        ["runcmd", "sh", "-c", "echo one; echo two"],
        ["runcmd", "sh", "-c", "if true; then\n  echo three: [x]\nfi\n"],
    ]


def test_cloud_configs_of_all_parts_are_read_and_nothing_else(tmp_path: Path) -> None:
    files = {"cloud-init/user_data": b"#!/bin/sh\ncase [ in\nruncmd:\n  - wrong\n"}
    values = {
        "users": '[{"name": "ada", "ssh_authorized_keys": ["ssh-rsa CCCC"]}]',
        "files": '[{"path": "/x", "content": "runcmd: [wrong]"}]',
    }
    several = user_data(CloudInitValues(values), files, USER_DATA).decode()
    found = calls(tmp_path, META_DATA, NETWORK, several)
    alone = calls(tmp_path, META_DATA, NETWORK, USER_DATA)
    ada = [["user", "ada"], ["key", "ssh-rsa CCCC"]]
    at = alone.index(["user", "tester"])
    assert found == [*alone[:at], *ada, *alone[at:]]


@pytest.mark.parametrize("style", [True, None, False], ids=["braces", "mixed", "blocks"])
@pytest.mark.parametrize("indent", [2, 4])
def test_odd_words_are_read_as_pyyaml_writes_them(tmp_path: Path, style: bool | None, indent: int) -> None:
    commands = [["echo", word, "end"] for word in ODD_WORDS]
    document: dict[str, Any] = {"hostname": "h", "runcmd": commands, "users": [{"name": "u"}]}
    text = yaml.safe_dump(
        document, default_flow_style=style, indent=indent, width=10**6, allow_unicode=True, sort_keys=False
    )
    found = [words[1:] for words in calls(tmp_path, "", "", f"#cloud-config\n{text}") if words[0] == "runcmd"]
    assert found == commands


def test_words_of_a_seed_are_never_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = f"'; touch {trap}; '$(touch {trap})`touch {trap}`"
    user = {"name": evil, "ssh_authorized_keys": [evil]}
    user_data = yaml.safe_dump({"hostname": evil, "users": [user], "runcmd": [["echo", evil]]}, width=10**6)
    nic = {"match": {"macaddress": evil}, "mtu": evil, "addresses": [evil], "set-name": evil}
    network = yaml.safe_dump({"ethernets": {"eth0": nic}}, width=10**6)
    found = calls(tmp_path, yaml.safe_dump({"instance-id": evil}, width=10**6), network, user_data)
    for words in (
        ["instance"],
        ["user"],
        ["key"],
        ["name_guest"],
        ["address"],
        ["bring_up"],
        ["runcmd", "echo"],
    ):
        assert [*words, evil] in found
    assert not trap.exists()


def test_a_seed_without_a_network_is_no_obstacle(tmp_path: Path) -> None:
    assert calls(tmp_path, META_DATA, "", "") == [["instance", "lab-web-0123"], ["name_guest", "lab-web"]]


def test_cpio_reads_our_archives(tmp_path: Path) -> None:
    tree = [
        file("init", b"#!/bin/sh\n"),
        file("bin/a", b"12345"),
        link("bin/b", "a"),
        folder("dev"),
    ]
    listed = run(["cpio", "-itv", "--numeric-uid-gid"], stdin=cpio(tree, mtime=0)).decode().splitlines()
    assert [(words[0], words[2], words[4], " ".join(words[8:])) for words in map(str.split, listed)] == [
        ("drwxr-xr-x", "0", "0", "bin"),
        ("-rw-r--r--", "0", "5", "bin/a"),
        ("lrwxrwxrwx", "0", "1", "bin/b -> a"),
        ("drwxr-xr-x", "0", "0", "dev"),
        ("-rwxr-xr-x", "0", "10", "init"),
    ]


def test_sfdisk_reads_our_partition_table(tmp_path: Path) -> None:
    layout = disk.Layout(boot_size=24 * disk.MIB, root_size=64 * disk.MIB)
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.write(disk.master_boot_record(disk.boot_code(), layout))
        file.truncate(layout.size)
    table = run(["/sbin/sfdisk", "--dump", image]).decode().replace(" ", "")
    assert "label:dos" in table
    assert "start=2048,size=49152,type=e,bootable" in table
    assert "start=51200,size=4294916095,type=0" in table
