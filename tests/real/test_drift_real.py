"""Changes by hand on a real host that leave a guest on: ``status`` names them, and ``up`` undoes them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kvm import Project
from running_lab import Lab

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

YAML = """\
machines:
  - name: web
    depends_on: {db: {condition: healthy}}
    interfaces: [{bridge: br0}, {bridge: br1, vlan: 10, mtu: 1400}]
    libvirt:
      cpus: 1
      max_cpus: 2
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro}}
  - name: db
    interfaces: [{bridge: br0}, {bridge: br1, vlan: 10}, {bridge: br1, model: rtl8139, link: down}]
    healthcheck: {command: "test -e /tmp/works", interval: 0.5s, retries: 2, start_period: 2m}
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro, run_script: run.sh}}
network:
  bridges: [{name: br0}, {name: br1}]
  external_bridge: br0
"""
#: The second interface of db, and of no other guest.
DB_NIC = "{bridge: br1, vlan: 10}"


@pytest.fixture(scope="module")
def lab(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    files = {"kvm-compose.yaml": YAML, "run.sh": "touch /tmp/works; chmod 666 /tmp/works\n"}
    project = Project(real_host, tmp_path_factory.mktemp("drift"), "drift", files)
    try:
        project.run("up")
        yield Lab(project)
    finally:
        project.run("down", "--purge", "--timeout", "0", status=None)


def repaired(lab: Lab, drift: str) -> None:
    assert lab.differences() == [drift]
    before = lab.qemu()
    lab.project.run("up")
    assert lab.differences() == []
    assert lab.qemu() == before


def test_a_guest_starts_after_the_one_that_it_depends_on_was_healthy(lab: Lab) -> None:
    uptime = {each["name"]: each["uptime"] for each in lab.project.json("status")["guests"]}
    assert uptime["db"] - uptime["web"] > 1  # it boots in two seconds
    assert health(lab) == {"web": None, "db": "healthy"}


def test_a_guest_that_turns_unhealthy(lab: Lab) -> None:
    before = lab.qemu()
    lab.project.inside("db", "sudo", "rm", "/tmp/works")  # noqa: S108 (in the guest)
    end = time.monotonic() + 30
    while lab.differences() != ["guest db: is unhealthy (exit status 1)"]:
        assert time.monotonic() < end
        time.sleep(0.6)
    assert "db" in lab.project.run("status").stdout
    assert "unhealthy" in lab.project.run("status").stdout
    lab.project.run("status", "--exit-status", status=1)
    lab.project.inside("db", "sudo", "touch", "/tmp/works")  # noqa: S108 (in the guest)
    lab.project.run("up")
    assert lab.differences() == []
    assert health(lab) == {"web": None, "db": "healthy"}
    assert lab.qemu() == before


def health(lab: Lab) -> dict[str, str | None]:
    return {each["name"]: each["health"] for each in lab.project.json("status")["guests"]}


def test_a_port_that_was_made_again_by_hand(lab: Lab) -> None:
    tap, bridge = lab.tap("web"), lab.bridge("br0")
    noted = lab.ovs("get", "interface", tap, "external_ids")
    assert "iface-id" in noted
    lab.ovs("del-port", tap)
    lab.ovs("add-port", bridge, tap)
    assert lab.ovs("get", "interface", tap, "external_ids") == "{}"
    repaired(lab, "guest web: iface-id of its port on the bridge br0 is missing")
    assert lab.ovs("get", "interface", tap, "external_ids") == noted
    assert lab.project.inside("web", "hostname")


def test_a_network_whose_definition_was_edited(lab: Lab) -> None:
    network = lab.project.state()["network"]["libvirt_network_name"]
    xml = lab.host.virsh("net-dumpxml", "--inactive", network).stdout
    path = lab.project.root / "edited.xml"
    path.write_text(re.sub(r"<range [^>]*/>", "", xml))
    lab.host.virsh("net-define", str(path))
    repaired(lab, f"network {network}: its definition in libvirt has changed")
    assert "<range " in lab.host.virsh("net-dumpxml", "--inactive", network).stdout


def test_the_memory_that_a_guest_uses_is_less_than_it_has(lab: Lab) -> None:
    end = time.monotonic() + 60
    while (web := lab.project.json("status")["guests"][0]).get("used_mb") is None:
        assert time.monotonic() < end
        time.sleep(1)
    assert 10 < web["used_mb"] < 128


def alive(lab: Lab, before: str, after: str) -> str:
    """Edit the testbed, and bring it up without a restart; return what was said."""
    lab.edit(before, after)
    guests = lab.qemu()
    said = lab.project.run("up").stderr
    assert lab.differences() == [], said
    assert lab.qemu() == guests, said
    return said


def reaches(lab: Lab) -> bool:
    """Whether web reaches db on br1."""
    address = lab.project.state()["testbed_guests"]["db"]["interfaces"][1]["ip"]
    script = f"ping -c 1 -W 2 {address} >/dev/null; echo $?"
    return lab.project.inside("web", "sh", "-c", script).strip() == "0"


def test_vlans_part_a_bridge(lab: Lab) -> None:
    assert "mtu 1400" in lab.project.inside("web", "ip", "link", "show", "dev", "eth1")
    assert reaches(lab)
    alive(lab, DB_NIC, "{bridge: br1, vlan: 20}")
    assert lab.ovs("get", "port", lab.tap("db", 1), "tag") == "20"
    assert not reaches(lab)
    alive(lab, "vlan: 10, mtu: 1400", "vlan: {trunk: [10, 30], native: 20}, mtu: 1400")
    assert reaches(lab)
    assert [carries(lab, "web", vlan) for vlan in (10, 30, 40)] == [True, True, False]
    lab.edit("vlan: {trunk: [10, 30], native: 20}, mtu: 1400", "vlan: 10, mtu: 1400")
    alive(lab, "{bridge: br1, vlan: 20}", DB_NIC)
    assert reaches(lab)


def carries(lab: Lab, guest: str, vlan: int) -> bool:
    """Whether a port takes frames with a tag from its guest: Open vSwitch says what it would do."""
    port = lab.ovs("get", "interface", lab.tap(guest, 1), "ofport")
    flow = f"in_port={port},dl_vlan={vlan},dl_dst=ff:ff:ff:ff:ff:ff"
    said = lab.host.run(["ovs-appctl", "ofproto/trace", lab.bridge("br1"), flow]).stdout
    return "dropping" not in said


def carrier(lab: Lab, guest: str) -> str:
    return lab.project.inside(guest, "cat", "/sys/class/net/eth1/carrier").strip()


def shaped(lab: Lab) -> bool:
    """Whether Linux limits what db receives to 500 KiB/s."""
    return "ceil 4Mbit" in lab.host.run(["tc", "class", "show", "dev", lab.tap("db", 1)]).stdout


def test_a_link_goes_down_and_throughput_is_limited(lab: Lab) -> None:
    tap, limited = (
        lab.tap("db", 1),
        "{bridge: br1, vlan: 7, link: down, bandwidth: {inbound: {average: 500}}}",
    )
    said = alive(lab, DB_NIC, limited)
    assert "link of interface 1: up -> down" in said
    assert (carrier(lab, "db"), shaped(lab)) == ("0", True)
    lab.host.virsh("domif-setlink", "drift-db", tap, "up")
    lab.ovs("clear", "port", tap, "qos", "tag")
    assert (carrier(lab, "db"), shaped(lab)) == ("1", False)
    repaired(
        lab,
        "guest db: link of interface 1: up -> down, bandwidth of interface 1 (inbound) in Open vSwitch is "
        "missing, vlan of interface 1: (none) -> 7",
    )
    assert (carrier(lab, "db"), shaped(lab)) == ("0", True)
    lab.ovs("del-port", tap)
    repaired(lab, "guest db: its port on the bridge br1 is missing")
    assert (lab.ovs("get", "port", tap, "tag"), shaped(lab)) == ("7", True)
    alive(lab, limited, DB_NIC)
    assert (carrier(lab, "db"), shaped(lab)) == ("1", False)
    assert reaches(lab)


def test_processors_come_while_it_runs_and_go_when_it_restarts(lab: Lab) -> None:
    before = lab.qemu()
    lab.edit("cpus: 1\n      max", "cpus: 2\n      max")
    lab.project.run("up")
    assert lab.differences() == []
    assert lab.qemu() == before
    assert lab.host.virsh("vcpucount", "drift-web", "--live", "--current").stdout.strip() == "2"
    lab.edit("cpus: 2\n      max", "cpus: 1\n      max")
    assert "guest web: restart: cpus: 2 -> 1" in lab.project.run("up").stderr
    assert lab.differences() == []
    assert lab.qemu() != before
    assert lab.host.virsh("vcpucount", "drift-web", "--live", "--current").stdout.strip() == "1"


@pytest.mark.long_only
def test_a_guest_restored_from_before_another_seed_is_entered(lab: Lab) -> None:
    key = ("sh", "-c", "cat /etc/dropbear/*_host_key | sha256sum")
    before = lab.project.inside("web", "sudo", *key)
    lab.project.run("snapshot", "create", "--guest", "web", "before")
    lab.project.write("setup.sh", "true\n")
    lab.edit("{name: micro}", "{name: micro, setup_script: setup.sh}")
    lab.project.run("up")
    lab.project.run("restart", "web")
    assert lab.project.inside("web", "sudo", *key) != before
    said = lab.project.run("snapshot", "restore", "--guest", "web", "before").stderr
    assert "its seed has changed since" in said
    assert lab.project.inside("web", "sudo", *key) == before
    lab.project.run("restart", "web")
    assert lab.project.inside("web", "sudo", *key) != before


def test_a_guest_that_sleeps_is_woken(lab: Lab) -> None:
    """After that it ignores its power button: a test that stops it would wait for a minute."""
    lab.project.run("exec", "web", "--", "sudo", "sh", "-c", "(sleep 1; echo mem >/sys/power/state) &")
    end = time.monotonic() + 30
    while lab.project.states()["web"] != "pmsuspended":
        assert time.monotonic() < end
        time.sleep(1)
    repaired(lab, "guest web: is pmsuspended")
    assert lab.project.inside("web", "hostname")


def test_a_guest_that_was_started_by_hand(lab: Lab) -> None:
    lab.host.virsh("destroy", "drift-web")
    lab.host.virsh("start", "drift-web")
    missing = (f"arp_ignore of its interface on {bridge} is missing" for bridge in ("br0", "br1"))
    repaired(lab, f"guest web: {', '.join(missing)}")
    lab.project.run("stop", "web", "--timeout", "0")
    lab.host.virsh("start", "drift-web")
    assert lab.differences() == ["guest web: is running"]
    lab.project.run("up")
    assert lab.project.states() == {"web": "shut off", "db": "running"}
    assert lab.differences() == []
