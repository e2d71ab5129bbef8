"""``inventory`` for Ansible: ansible-inventory itself reads what is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvmcompose.cli.inventory import ansible, hosts
from kvmcompose.core.access import GuestAccess

JUDGE = Path(sys.executable).with_name("ansible-inventory")


def access(name: str, *groups: str) -> GuestAccess:
    """A guest that is in these groups."""
    known = {"name": name, "host": "one", "domain": f"lab-{name}", "libvirt_uri": "qemu:///system"}
    return msgspec.convert(
        {**known, "user": "nocloud", "address": "10.0.0.2", "known_hosts": "/k", "groups": groups},
        GuestAccess,
    )


def read(folder: Path, text: str) -> dict[str, Any]:
    """What Ansible makes of an inventory that it may not find fault with."""
    (folder / "inventory.yaml").write_text(text)
    environment = {**os.environ, "ANSIBLE_HOME": str(folder), "LC_ALL": "C.UTF-8"}
    argv = [JUDGE, "-i", folder / "inventory.yaml", "--list"]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=environment, check=True)
    assert ran.stderr == ""
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(
    ("bridge", "group"),
    [
        ("br0", "br0"),
        ("all", "bridge_all"),
        ("ungrouped", "bridge_ungrouped"),
        ("web", "bridge_web"),
        ("br-0", "br_0"),
    ],
)
def test_a_bridge_of_any_name_is_a_group(tmp_path: Path, bridge: str, group: str) -> None:
    document = read(tmp_path, ansible([access("web", bridge), access("db", bridge)]))
    assert document[group] == {"hosts": ["web", "db"]}
    assert set(document["_meta"]["hostvars"]) == {"web", "db"}


def test_bridges_that_ansible_would_call_the_same_stay_apart(tmp_path: Path) -> None:
    document = read(tmp_path, ansible([access("web", "all", "bridge-all"), access("db", "all", "web")]))
    groups = {name: entry["hosts"] for name, entry in document.items() if "hosts" in entry}
    assert groups == {"bridge_all": ["web"], "bridge_bridge_all": ["web", "db"], "bridge_web": ["db"]}


def test_guests_with_the_names_of_ansibles_groups_hide_no_others(tmp_path: Path) -> None:
    guests = [access(name, "br0", "guest-all") for name in ("all", "web", "ungrouped")]
    document = read(tmp_path, ansible(guests))
    hosts = ["guest_all", "web", "guest_ungrouped"]
    assert document["br0"]["hosts"] == hosts
    assert document["bridge_guest_all"]["hosts"] == hosts
    assert set(document["_meta"]["hostvars"]) == set(hosts)


def test_a_guest_called_localhost_does_not_replace_it() -> None:
    assert hosts([access("localhost", "br0"), access("web", "br0")]) == (
        "10.0.0.2\tlab-localhost\n10.0.0.2\tweb lab-web\n"
    )


def test_a_guest_of_any_name_is_a_host(tmp_path: Path) -> None:
    text = ansible([access(name, "br0") for name in ("localhost", "hosts", "vars")])
    assert read(tmp_path, text)["br0"]["hosts"] == ["localhost", "hosts", "vars"]


def test_containers_are_entered_through_their_engines(tmp_path: Path) -> None:
    elsewhere = {"address": "192.0.2.2", "user": "lab", "port": 2222, "identity_file": "/keys/a key"}
    words: dict[tuple[str, str | None, bool], str | None] = {
        ("docker", None, False): None,
        ("podman", None, False): None,
        ("docker", "/run/user/1/docker.sock", False): "-H unix:///run/user/1/docker.sock",
        ("podman", "/run/user/1/podman.sock", False): "--url unix:///run/user/1/podman.sock",
        ("docker", None, True): "-H ssh://lab@192.0.2.2:2222",
        ("podman", None, True): "--identity '/keys/a key' --url"
        " ssh://lab@192.0.2.2:2222/run/podman/podman.sock",
        ("podman", "/p.sock", True): "--identity '/keys/a key' --url ssh://lab@192.0.2.2:2222/p.sock",
    }
    guests = [access("vm", "br0")]
    wanted: dict[str, dict[str, str]] = {}
    for number, ((program, path, away), extra) in enumerate(words.items()):
        engine = {"program": program, "socket": path}
        more: dict[str, Any] = {"runtime": "containers", "engine": engine, "user": None, "address": None}
        more |= {"via": elsewhere} if away else {}
        name = f"c{number}"
        guests.append(msgspec.convert({**msgspec.to_builtins(access(name, "br0")), **more}, GuestAccess))
        collection = "community.docker.docker" if program == "docker" else "containers.podman.podman"
        wanted[name] = {"ansible_connection": collection, "ansible_host": f"lab-{name}"}
        if extra is not None:
            wanted[name][f"ansible_{program}_extra_args"] = extra
    document = read(tmp_path, ansible(guests))
    assert document["br0"]["hosts"] == ["vm", *wanted]
    found = document["_meta"]["hostvars"]
    assert {name: found[name] for name in wanted} == wanted
