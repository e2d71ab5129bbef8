"""What a lab does to the host: named, asked for once, and refused for those who are no administrators."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kvmcompose import privileges
from kvmcompose.core.deployable import DomainGuest, LibvirtNetwork, NetworkPlan
from kvmcompose.core.deployment import Deployment, Phase
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.state import State, decode_state
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect
from kvmcompose.server.orchestrator import privileges as enforced
from kvmcompose.server.orchestrator.built_testbed import read_testbed
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.project_folder import ProjectFolder
from kvmcompose.server.people import Person, Role
from kvmcompose.server.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.bench import GOLDEN, Bench, golden_bench, tiny_qcow2

#: All but those that show what guests can ask for.
PEACEFUL = sorted(
    {path.parents[2].name for path in GOLDEN.glob("*/expected/artefacts/*-domain.xml")}
    - {"containers", "host-devices"}
)


class Built(NamedTuple):
    folder: Path
    state: State
    network_plan: NetworkPlan

    @property
    def network(self) -> LibvirtNetwork:
        assert self.network_plan.network is not None
        return self.network_plan.network

    def domains(self) -> Iterator[tuple[str, str]]:
        """Every guest that runs, with its XML."""
        for guest in self.state.testbed_guests.values():
            run = guest_kind(guest.kind).deployable(guest, self.state.shared)
            if isinstance(run, DomainGuest):
                yield guest.name, (self.folder / run.domain_xml).read_text()

    def of(self, name: str, xml: str) -> list[Privilege]:
        guest = self.state.testbed_guests[name]
        run = guest_kind(guest.kind).deployable(guest, self.state.shared)
        assert isinstance(run, DomainGuest)
        return list(privileges.of_domain(privileges.Xml(xml), guest, run, self.state, self.network_plan))


def built(folder: Path) -> Built:
    state = decode_state((folder / "state.json").read_bytes())
    return Built(folder, state, dialect(state.network["dialect"]).network_plan(state))


@pytest.mark.parametrize("case", PEACEFUL)
def test_our_own_xml_asks_for_nothing(case: str) -> None:
    project = built(GOLDEN / case / "expected")
    count = 0
    for name, xml in project.domains():
        assert project.of(name, xml) == []
        count += 1
    assert count
    network = (project.folder / project.network.xml).read_text()
    assert list(privileges.of_network(privileges.Xml(network), project.state, project.network)) == []


#: What is put into a domain's <devices>, or in the place of something; and the kind that it is named as.
DEVICES = {
    "emulator": ("<emulator>/opt/evil</emulator>", PrivilegeKind.PROGRAM),
    "script": (
        '<interface type="ethernet"><script path="/opt/evil"/><target dev="t0"/></interface>',
        PrivilegeKind.PROGRAM,
    ),
    "pci": (
        '<hostdev mode="subsystem" type="pci"><source><address domain="0" bus="0"/></source></hostdev>',
        PrivilegeKind.HOST_DEVICE,
    ),
    "usb": ('<hostdev mode="subsystem" type="usb"/>', PrivilegeKind.HOST_DEVICE),
    "rom of a device": (
        '<hostdev mode="subsystem" type="pci" managed="yes"><rom file="/opt/evil"/></hostdev>',
        PrivilegeKind.DEVICE,
    ),
    "tpm": (
        '<tpm model="tpm-tis"><backend type="passthrough"><device path="/dev/tpm0"/></backend></tpm>',
        PrivilegeKind.DEVICE,
    ),
    "evdev": ('<input type="evdev"><source dev="/dev/input/event0"/></input>', PrivilegeKind.DEVICE),
    "rng": (
        '<rng model="virtio"><backend model="egd" type="unix"><source path="/x"/></backend></rng>',
        PrivilegeKind.DEVICE,
    ),
    "rng file": (
        '<rng model="virtio"><backend model="random">/dev/sda</backend></rng>',
        PrivilegeKind.DEVICE,
    ),
    "disk": (
        '<disk type="file"><source file="/etc/shadow"/><target dev="vdz"/></disk>',
        PrivilegeKind.FILE,
    ),
    "block": (
        '<disk type="block"><source dev="/dev/sda"/><target dev="vdz"/></disk>',
        PrivilegeKind.DEVICE,
    ),
    "folder disk": ('<disk type="dir"><source dir="/etc"/><target dev="vdz"/></disk>', PrivilegeKind.FILE),
    "network disk": (
        '<disk type="network"><source protocol="nbd" name="x"/><target dev="vdz"/></disk>',
        PrivilegeKind.XML,
    ),
    "volume": ('<disk type="volume"><source pool="p" volume="v"/></disk>', PrivilegeKind.XML),
    "up and out": (
        '<disk type="file"><source file="ARTEFACTS/../../../../etc/shadow"/><target dev="vdz"/></disk>',
        PrivilegeKind.FILE,
    ),
    "another project": (
        '<disk type="file"><source file="/var/lib/kvm-compose/other/artefacts/a.img"/></disk>',
        PrivilegeKind.FILE,
    ),
    "relabelled": (
        '<disk type="file"><source file="ARTEFACTS/a.img"><seclabel relabel="no"/></source></disk>',
        PrivilegeKind.XML,
    ),
    "backing": (
        '<disk type="file"><backingStore type="file"><source file="/etc/shadow"/></backingStore></disk>',
        PrivilegeKind.FILE,
    ),
    "mirror": ('<disk type="file"><mirror file="/etc/cron.d/x"/></disk>', PrivilegeKind.FILE),
    "folder": (
        '<filesystem type="mount"><source dir="/"/><target dir="root"/></filesystem>',
        PrivilegeKind.FILE,
    ),
    "serial file": ('<serial type="file"><source path="/etc/cron.d/x"/></serial>', PrivilegeKind.FILE),
    "serial log": ('<serial type="pty"><log file="/etc/cron.d/x"/></serial>', PrivilegeKind.FILE),
    "console pipe": ('<console type="pipe"><source path="/tmp/p"/></console>', PrivilegeKind.FILE),
    "channel": (
        '<channel type="unix"><source mode="connect" path="/run/docker.sock"/></channel>',
        PrivilegeKind.FILE,
    ),
    "tcp": ('<serial type="tcp"><source mode="bind" host="0.0.0.0"/></serial>', PrivilegeKind.XML),
    "macvtap": (
        '<interface type="direct"><source dev="eth0" mode="bridge"/></interface>',
        PrivilegeKind.XML,
    ),
    "bridge": ('<interface type="bridge"><source bridge="br-lan"/></interface>', PrivilegeKind.XML),
    "network": ('<interface type="network"><source network="default"/></interface>', PrivilegeKind.XML),
    "hostdev nic": ('<interface type="hostdev"/>', PrivilegeKind.XML),
    "vhost-user": (
        '<interface type="vhostuser"><source type="unix" path="/tmp/s"/></interface>',
        PrivilegeKind.FILE,
    ),
    "filter": (
        '<interface type="network"><filterref filter="clean-traffic"/></interface>',
        PrivilegeKind.XML,
    ),
    "backend": (
        '<interface type="network"><backend tap="/dev/mem"/></interface>',
        PrivilegeKind.DEVICE,
    ),
    "rom": ('<interface type="network"><rom file="/etc/shadow"/></interface>', PrivilegeKind.FILE),
    "open screen": ('<graphics type="vnc" listen="0.0.0.0"/>', PrivilegeKind.XML),
    "screen socket": ('<graphics type="vnc" socket="/tmp/x"/>', PrivilegeKind.FILE),
    "sound": ('<audio id="1" type="file" path="/etc/cron.d/x"/>', PrivilegeKind.FILE),
    "shared memory": ('<shmem name="other"/>', PrivilegeKind.XML),
    "memory": (
        '<memory model="nvdimm"><source><path>/etc/shadow</path></source></memory>',
        PrivilegeKind.FILE,
    ),
    "smartcard": ('<smartcard mode="host"/>', PrivilegeKind.DEVICE),
    "vsock": ('<vsock model="virtio"><cid auto="yes"/></vsock>', PrivilegeKind.DEVICE),
}
ROOT = {
    "command line": (
        "</devices>",
        '</devices><q:commandline xmlns:q="http://libvirt.org/schemas/domain/qemu/1.0"/>',
    ),
    "time zone": ('<clock offset="utc"/>', '<clock offset="timezone" timezone="../../shadow"/>'),
    "kernel": ("</os>", "<kernel>/etc/shadow</kernel></os>"),
    "initrd": ("</os>", "<initrd>/etc/shadow</initrd></os>"),
    "dtb": ("</os>", "<dtb>/etc/shadow</dtb></os>"),
    "acpi table": ("</os>", '<acpi><table type="slic">/etc/shadow</table></acpi></os>'),
    "loader": ("</os>", "<loader>/opt/evil</loader></os>"),
    "nvram": ("</os>", "<nvram>/etc/cron.d/x</nvram></os>"),
    "uuid": ("<metadata>", "<uuid>11111111-2222-3333-4444-555555555555</uuid><metadata>"),
    "label": ("<metadata>", '<seclabel type="none"/><metadata>'),
    "firmware config": (
        "<metadata>",
        '<sysinfo type="fwcfg"><entry name="o" file="/etc/shadow"/></sysinfo><metadata>',
    ),
    "memory backing": ("<metadata>", '<memoryBacking><source type="file"/></memoryBacking><metadata>'),
    "core": ("<on_crash>destroy", "<on_crash>coredump-destroy"),
    "another guest": ("<name>", "<name>other"),
    "another's mark": ('project="', 'project="other'),
    "another's guest": ('" name="', '" name="other'),
    "container": ('<domain type="', '<domain type="x'),
    "pinned": ("<vcpu>", '<vcpu cpuset="0">'),
    "resource": ("<metadata>", "<resource><partition>/machine</partition></resource><metadata>"),
    "entity": ("<domain", '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/shadow">]><domain'),
    "encoding": ("<domain", '<?xml version="1.0" encoding="UTF-7"?><domain'),
    "instruction": ("<metadata>", "<?evil?><metadata>"),
    "no XML": ("</domain>", ""),
    "depth": ("</devices>", f"{'<a>' * 3000}{'</a>' * 3000}</devices>"),
}


@pytest.fixture(scope="module")
def one() -> tuple[Built, str, str]:
    """A guest and its XML."""
    project = built(GOLDEN / "base-one-host" / "expected")
    return (project, *next(project.domains()))


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_is_named(one: tuple[Built, str, str], name: str) -> None:
    project, guest, xml = one
    text, kind = DEVICES[name]
    folder = project.state.testbed_host_shared_config.project_folder
    found = project.of(
        guest, xml.replace("</devices>", f"{text}</devices>".replace("ARTEFACTS", f"{folder}/artefacts"))
    )
    assert kind in {each.kind for each in found}
    assert all(each.where.endswith("-domain.xml") and each.why for each in found)


def test_devices_of_the_host_are_named_as_in_the_yaml() -> None:
    project = built(GOLDEN / "host-devices" / "expected")
    ((guest, xml),) = project.domains()
    found = project.of(guest, xml)
    assert {each.kind for each in found} == {PrivilegeKind.HOST_DEVICE}
    assert [each.what for each in found] == ["PCI device 0000:03:00.0", "USB device 046d:c52b"]
    hidden = xml.replace("</source>", '</source><source><vendor id="0x1"/></source>', 1)
    assert "vendor" in project.of(guest, hidden)[0].what


@pytest.mark.parametrize("name", ROOT)
def test_what_else_a_domain_can_say_is_named(one: tuple[Built, str, str], name: str) -> None:
    project, guest, xml = one
    before, after = ROOT[name]
    assert before in xml
    assert project.of(guest, xml.replace(before, after, 1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('unit="MiB">', 'unit="MiB">1'),
        ("<vcpu>", '<vcpu placement="static">'),
        ("</devices>", '<graphics type="vnc" autoport="yes" listen="127.0.0.1"/></devices>'),
        ("</devices>", '<memballoon model="none"/><watchdog model="itco" action="reset"/></devices>'),
        (
            "</devices>",
            '<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel></devices>',
        ),
        ("</devices>", '<controller type="usb" model="qemu-xhci"/></devices>'),
        ("<features>", '<features><hyperv mode="custom"><relaxed state="on"/></hyperv>'),
        ('<clock offset="utc"/>', '<clock offset="utc"><timer name="hpet" present="no"/></clock>'),
        ('<clock offset="utc"/>', '<clock offset="timezone" timezone="Etc/GMT+1"/>'),
        ('discard="unmap"', 'discard="unmap" cache="none" io="native"'),
        ("<on_crash>", "<!-- mine -->\n<on_crash>"),
    ],
)
def test_a_peaceful_edit_asks_for_nothing(one: tuple[Built, str, str], before: str, after: str) -> None:
    project, guest, xml = one
    assert before in xml
    assert project.of(guest, xml.replace(before, after, 1)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('mode="nat"', 'mode="route"'),
        ("<bridge name=", '<bridge macTableManager="x" name='),
        ('<bridge name="', '<bridge name="x'),
        ("<metadata>", "<uuid>11111111-2222-3333-4444-555555555555</uuid><metadata>"),
        ("</network>", '<portgroup name="x"/></network>'),
        (
            "</network>",
            '<d:options xmlns:d="http://libvirt.org/schemas/network/dnsmasq/1.0"/></network>',
        ),
        ("<dhcp>", '<tftp root="/"/><dhcp>'),
        ('<ip address="', '<ip address="192.0.2.1" netmask="'),
        ("</network>", '<route address="8.8.8.0" prefix="24" gateway="10.0.0.1"/></network>'),
        ('project="', 'project="other'),
    ],
)
def test_what_a_network_can_say_is_named(one: tuple[Built, str, str], before: str, after: str) -> None:
    project = one[0]
    xml = (project.folder / project.network.xml).read_text()
    assert before in xml
    edited = privileges.Xml(xml.replace(before, after, 1))
    assert list(privileges.of_network(edited, project.state, project.network))


# -- the word of the user --------------------------------------------------------------------------------


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"KVM_COMPOSE_STATE_DIR": str(tmp_path / "state"), "KVM_COMPOSE_SERVER": "http://127.0.0.1:9"}


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    bench = golden_bench(tmp_path, "base-one-host")
    bench.generate()
    return bench


def edit(bench: Bench, text: str = "<emulator>/opt/evil</emulator>") -> None:
    xml = next((bench.folder / "artefacts").glob("*-domain.xml"))
    xml.write_text(re.sub("(<emulator>.*?</emulator>)?</devices>", f"{text}</devices>", xml.read_text()))


@pytest.mark.parametrize("case", sorted(set(PEACEFUL) - {"host-nics", "disks", "ovn-three-hosts"}))
def test_a_peaceful_lab_notices_nothing(tmp_path: Path, env: dict[str, str], case: str) -> None:
    bench = golden_bench(tmp_path, case)
    bench.generate()
    ran = bench.run("trust", **env)
    assert (ran.status, ran.out) == (0, "")
    assert not (tmp_path / "state").exists()


def test_of_a_network_of_ovn_only_the_host_s_own_interface_is_listed(
    tmp_path: Path, env: dict[str, str]
) -> None:
    bench = golden_bench(tmp_path, "ovn-three-hosts")
    bench.generate()
    ran = bench.run("trust", **env)
    assert ran.status == 3
    assert "port probe" in ran.out
    assert ran.out.count("interface of the host") == ran.out.count("10.0.0.250") == 1
    assert not {"XML", "provider network", "file"} & set(ran.out.split())


def test_the_list_names_it_and_the_status_tells(lab: Bench, env: dict[str, str]) -> None:
    edit(lab)
    ran = lab.run("trust", **env)
    assert ran.status == 3
    assert "/opt/evil" in ran.out
    assert "program" in ran.out


def test_a_yes_holds_for_exactly_this(lab: Bench, env: dict[str, str]) -> None:
    edit(lab)
    assert lab.run("trust", "--yes", **env).status == 0
    assert lab.run("trust", **env).status == 0
    edit(lab, "<emulator>/opt/evil2</emulator>")
    ran = lab.run("trust", **env)
    assert ran.status == 3
    assert "(new)" in ran.out
    edit(lab)
    assert lab.run("trust", **env).status == 0
    assert lab.run("trust", "--revoke", **env).status == 0
    assert lab.run("trust", **env).status == 3


def test_only_what_is_new_is_said_to_be(lab: Bench, env: dict[str, str]) -> None:
    edit(lab)
    lab.run("trust", "--yes", **env)
    edit(lab, '<emulator>/opt/evil</emulator><hostdev mode="subsystem" type="usb"/>')
    listed = json.loads(lab.run("trust", "--json", **env).out)
    assert not listed["trusted"]
    assert [each["new"] for each in listed["privileges"]].count(True) == 1
    assert len(listed["privileges"]) == 2


def test_a_yes_follows_a_project_and_is_kept_outside_it(lab: Bench, env: dict[str, str]) -> None:
    edit(lab)
    lab.run("trust", "--yes", **env)
    kept = list(Path(env["KVM_COMPOSE_STATE_DIR"], "trust").iterdir())
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]
    moved = lab.folder.with_name("moved")
    lab.folder.rename(moved)
    assert Bench(lab.root, moved).run("trust", **env).status == 0


def test_own_templates_are_asked_for_by_their_bytes(tmp_path: Path, env: dict[str, str]) -> None:
    bench = golden_bench(tmp_path, "base-one-host")
    (bench.folder / "templates").mkdir()
    ours = (Path(__file__).parents[2] / "templates" / "domain.xml.j2").read_text()
    own = bench.folder / "templates" / "domain.xml.j2"
    own.write_text(ours + "{# 1 #}")
    bench.generate()
    assert bench.run("trust", **env).status == 3
    assert bench.run("trust", "--yes", **env).status == 0
    own.write_text(ours + "{# 2 #}")
    assert bench.run("trust", **env).status == 3


def test_host_nics_and_another_libvirt_are_asked_for(tmp_path: Path, env: dict[str, str]) -> None:
    bench = golden_bench(tmp_path, "host-nics")
    bench.generate()
    ran = bench.run("trust", **env)
    assert ran.status == 3
    assert "network interface eth1" in ran.out
    assert "qemu:///session" in ran.out


def test_a_disk_that_leads_elsewhere_is_named(lab: Bench, env: dict[str, str]) -> None:
    disk = next((lab.folder / "artefacts").glob("*-cloud-init.img"))
    disk.write_bytes(tiny_qcow2(backing="/etc/shadow"))
    ran = lab.run("trust", **env)
    assert ran.status == 3
    assert "/etc/shadow" in ran.out
    disk.write_bytes(tiny_qcow2(data_file="/etc/passwd"))
    assert "/etc/passwd" in lab.run("trust", **env).out
    disk.write_bytes(tiny_qcow2(backing="json:{}"))
    assert "json:{}" in lab.run("trust", **env).out
    disk.unlink()
    disk.symlink_to("/etc/hostname")
    assert "/etc/hostname" in lab.run("trust", **env).out


def test_a_link_among_the_images_is_named(lab: Bench, env: dict[str, str]) -> None:
    (lab.folder / "artefacts" / "images" / "innocent").symlink_to("/etc/shadow")
    next((lab.folder / "artefacts").glob("*-cloud-init.img")).write_bytes(
        tiny_qcow2(backing="images/innocent")
    )
    assert "/etc/shadow" in lab.run("trust", **env).out


def test_what_was_found_harmless_is_judged_again_once_it_changes(lab: Bench, env: dict[str, str]) -> None:
    """Also where size and times are as before, and a link or the folder of a link leads elsewhere."""
    artefacts = lab.folder / "artefacts"
    xml = next(artefacts.glob("*-domain.xml"))
    text = xml.read_text()
    time.sleep(0.03)  # what has just changed is not remembered
    assert lab.run("trust", **env).status == 0
    record = next((lab.root / "cache/kvm-compose/harmless").iterdir())
    assert record.stat().st_mode & 0o777 == 0o600
    assert str(xml) in record.read_text()
    assert lab.run("trust", **env).status == 0
    before = xml.stat()
    xml.write_text(text.replace("<on_reboot>restart", "<on_reboot>rest/rt"))
    os.utime(xml, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert xml.stat().st_size == before.st_size
    assert "rest/rt" in lab.run("trust", **env).out
    xml.write_text(text)
    disk = next(artefacts.glob("*-cloud-init.img"))
    content = disk.read_bytes()
    outside = lab.root / "outside"
    outside.mkdir()
    (outside / disk.name).write_bytes(content)
    time.sleep(0.03)
    assert lab.run("trust", **env).status == 0
    disk.unlink()
    disk.symlink_to(outside / disk.name)
    assert str(outside) in lab.run("trust", **env).out


def test_a_verdict_of_another_user_or_another_version_does_not_count(lab: Bench, env: dict[str, str]) -> None:
    edit(lab)
    xml = next((lab.folder / "artefacts").glob("*-domain.xml"))
    evil = xml.read_text()
    edit(lab, "")
    time.sleep(0.03)
    assert lab.run("trust", **env).status == 0
    record = next((lab.root / "cache/kvm-compose/harmless").iterdir())
    xml.write_text(evil)
    status = xml.stat()
    listed = json.loads(record.read_text())
    listed["files"][str(xml)][0] = [
        status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino,
    ]  # fmt: skip
    record.write_text(json.dumps(listed))
    assert lab.run("trust", **env).status == 0  # the record is believed
    record.write_text(json.dumps(listed | {"code": "another"}))
    assert lab.run("trust", **env).status == 3
    record.write_text(json.dumps(listed))
    if os.geteuid() != 0:
        pytest.skip("needs root, to give the record to another user")
    os.chown(record, 12345, -1)
    assert lab.run("trust", **env).status == 3


def test_a_pipe_in_the_place_of_the_xml_does_not_hang(lab: Bench, env: dict[str, str]) -> None:
    xml = next((lab.folder / "artefacts").glob("*-domain.xml"))
    xml.unlink()
    os.mkfifo(xml)
    ran = lab.run("trust", **env)
    assert ran.status == 1
    assert "not a regular file" in ran.err


# -- the server ------------------------------------------------------------------------------------------


def test_the_server_refuses_a_members_testbed(lab: Bench) -> None:
    edit(lab)
    testbed = read_testbed(ProjectFolder(lab.folder))
    said: dict[str, object] = {
        "name": testbed.project, "project_location": str(lab.folder), "state": Phase.DOWN,
    }  # fmt: skip
    for field in Deployment.__struct_fields__:
        said.setdefault(field, None)
    deployment = Deployment(**said)  # type: ignore[arg-type]

    store = Store(lab.root / "server.db")

    def context(role: Role) -> Context:
        owner = Person(name="mallory", role=role, uid=1001)
        return Context(deployment, owner, None, store)  # type: ignore[arg-type]

    hostile = next(guest for guest in testbed.runnable if "/opt/evil" in testbed.read(guest.run.domain_xml))  # type: ignore[union-attr]
    with pytest.raises(RefusedError, match=r"mallory.*\n.*/opt/evil"):
        enforced.domain_xml(context(Role.USER), testbed, hostile)
    assert "/opt/evil" in enforced.domain_xml(context(Role.ADMIN), testbed, hostile)
    assert testbed.network_plan.network is not None
    assert enforced.network_xml(context(Role.USER), testbed, testbed.network_plan.network)
    # peaceful only on a machine of one's own
    with pytest.raises(RefusedError, match="OpenFlow controller tcp:127"):
        enforced.check_state(context(Role.USER), testbed)
    enforced.check_state(context(Role.ADMIN), testbed)
    store.close()
