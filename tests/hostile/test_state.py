"""A state that no build could have written: what a member's folder holds is refused, nothing is run."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kvmcompose.core.commands import Down, Exec, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.state import decode_state
from kvmcompose.effects.resources import schemas
from kvmcompose.pipeline.stored import check_document, read_state
from kvmcompose.server.orchestrator import testbed
from kvmcompose.server.orchestrator.deployed import decode_deployed, unpacked
from kvmcompose.server.orchestrator.project_folder import ProjectFolder
from orchestrator.conftest import Lab, lab, new_lab, template

__all__ = ["lab", "new_lab", "template"]

TESTS = Path(__file__).resolve().parent.parent
STATES = sorted((TESTS / "golden").glob("*/expected/state.json"))
VALID = (TESTS / "golden/clones-three-hosts/expected/state.json").read_bytes()

Document = dict[str, Any]
Attack = Callable[[Document], object]


def _guest(document: Document) -> Document:
    guests: dict[str, Document] = document["testbed_guests"]
    return next(guest for guest in guests.values() if guest["interfaces"][0]["attach"] == "ovs")


def _nic(document: Document) -> Document:
    nic: Document = _guest(document)["interfaces"][0]
    return nic


def _host(document: Document) -> Document:
    host: Document = next(iter(document["testbed_hosts"].values()))
    return host


def _bridge(document: Document) -> Document:
    bridge: Document = document["network"]["bridges"][0]
    return bridge


def _connection(document: Document, kind: str) -> Document:
    connections = document["network"]["physical_bridge_connections"].values()
    found: Document = next(each[kind] for each in connections if kind in each)
    return found


def _rename(part: str, old: str, new: str) -> Attack:
    def attack(document: Document) -> None:
        document[part][new] = document[part].pop(old)

    return attack


def _first(document: Document, part: str) -> str:
    return next(iter(document[part]))


SETTINGS: dict[str, tuple[Callable[[Document], Document], str, list[Any]]] = {
    "project": (
        lambda state: state,
        "project_name",
        ["../x", "-x", "Lab", "a\nb", "a b", "x" * 60, "", 3, "lab;reboot"],
    ),
    "guest's name": (_guest, "name", ["other", "-oProxyCommand=x", "a/b", "a\x1b[2J", "a\n"]),
    "host name": (
        _guest,
        "hostname",
        ["x\n    ProxyCommand touch /tmp/x", "-oX", "other-web", "a@b", "x\u202e"],
    ),
    "id": (_guest, "id", ["-oProxyCommand=x", "../x", "a\n", "", 1, "client"]),
    "kind": (_guest, "kind", ["../x", "_files", "os", "libvirt\n", 1]),
    "testbed host": (_guest, "testbed_host", ["nowhere", "-v", ""]),
    "guest's number": (_guest, "guest_id", [-1, 2**40, "1"]),
    "virt type": (_guest, "virt_type", ["xen", "kvm\n"]),
    "user": (
        lambda state: _guest(state)["libvirt"],
        "username",
        ["-oProxyCommand=touch x", "a b", "a\nb", "a@b", "", "x" * 40, "$(x)"],
    ),
    "cpus": (lambda state: _guest(state)["libvirt"], "cpus", [0, -1, 10**6, "1"]),
    "memory": (lambda state: _guest(state)["libvirt"], "memory_mb", [0, 2**40]),
    "scripts": (lambda state: _guest(state)["libvirt"], "setup_scripts", [["a\x1b]0;x\x07"], [""], "x"]),
    "address": (
        _nic,
        "ip",
        [
            "10.1.2.3",
            "127.0.0.1",
            "0.0.0.0",  # noqa: S104
            "224.0.0.1",
            "999.1.1.1",
            "::1",
            "-v",
            "example.com",
            "1.2.3.4 x",
        ],
    ),
    "MAC": (_nic, "mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "x", "52:54:00:12:34:56\n"]),
    "tap": (_nic, "target", ["eth0", "-x", "x" * 16, "a/b", "a b", "lo"]),
    "bridge": (_nic, "bridge", ["nowhere", "-x"]),
    "bridge on the host": (_nic, "source", ["docker0", "-x", "br-ex"]),
    "MTU": (_nic, "mtu", [0, -1, 10**6]),
    "prefix": (_nic, "prefix_length", [0, 8, 33]),
    "gateway": (_nic, "gateway", ["10.1.2.1", "-x"]),
    "host's address": (_host, "ip", ["-oProxyCommand=x", "a b", "a\nb", ""]),
    "host's user": (_host, "user", ["-oProxyCommand=x", "a b", "root@x"]),
    "host's port": (_host, "ssh_port", [0, 70000, "22"]),
    "host's key": (_host, "host_key", ["ssh-ed25519 AAAA\nx", "x", "ssh-rsa AAAA; reboot"]),
    "host's key file": (_host, "identity_file", ["", "a\nProxyCommand x"]),
    "libvirt": (
        _host,
        "libvirt_uri",
        ["qemu+ext:///system?command=x", "qemu+ssh://h/system?command=x", "-c"],
    ),
    "host's interface": (_host, "main_interface", ["-x", "a b", "a/b", "x" * 16, "a\x1b"]),
    "keys": (
        lambda state: state["testbed_guest_shared_config"],
        "ssh_private_key_location",
        ["", "a\nb", "\x1b[2J", 1],
    ),
    "project folder": (lambda state: state["testbed_host_shared_config"], "project_folder", ["/etc", "x"]),
    "external bridge": (lambda state: state["testbed_host_shared_config"], "external_bridge", ["nowhere"]),
    "bridge's name on the host": (_bridge, "ovs_name", ["br-ex", "eth0", "-x", "a b"]),
    "controller": (_bridge, "controller", ["-x", "tcp:a b", "tcp:\n"]),
    "protocol": (_bridge, "protocol", ["OpenFlow10 --x", "x"]),
    "subnet": (
        lambda state: state["network"],
        "libvirt_network_subnet",
        ["127.0.0.0/8", "0.0.0.0/0", "10.1.2.3/24", "10.0.0.0/8", "999.0.0.0/24", "10.1.2.0/32"],
    ),
    "NAT network": (lambda state: state["network"], "libvirt_network_name", ["default", "-x"]),
    "NAT bridge": (
        lambda state: state["network"],
        "libvirt_network_bridge_name",
        ["virbr0", "docker0", "-x"],
    ),
    "dialect": (lambda state: state["network"], "dialect", ["os", "../x", "_stored", 1, None]),
    "tunnel": (lambda state: _connection(state, "tunnel"), "source_remote_ip", ["203.0.113.9", "-x"]),
    "tunnel's port": (lambda state: _connection(state, "tunnel"), "source_port", ["eth0", "a b"]),
    "tunnel's key": (lambda state: _connection(state, "tunnel"), "key", [0, 2**24]),
    "an unknown key": (_guest, "surprise", [1]),
    "an unknown key of a host": (_host, "proxy_command", ["x"]),
    "an unknown key of an interface": (_nic, "script", ["/bin/sh"]),
    "an unknown key of a definition": (lambda state: _guest(state)["libvirt"], "emulator", ["/bin/sh"]),
    "an unknown key of all": (lambda state: state, "more", [1]),
}
ATTACKS = [(name, number) for name, (_, _, values) in SETTINGS.items() for number in range(len(values))]


def _attacked(name: str, number: int, document: Document) -> None:
    part, key, values = SETTINGS[name]
    part(document)[key] = values[number]


@pytest.mark.parametrize(("name", "number"), ATTACKS)
def test_what_no_build_writes_is_refused(name: str, number: int) -> None:
    document = json.loads(VALID)
    _attacked(name, number, document)
    with pytest.raises(KvmComposeError) as caught:
        read_state(json.dumps(document).encode(), schemas())
    assert caught.value.message.isprintable(), caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b"{}",
        b"[" * 100_000,
        b'{"version":1}',
        b"\xff",
        b'{"network":{"dialect":[]}}',
    ],
    ids=repr,
)
def test_what_is_no_state_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(KvmComposeError):
        read_state(data, schemas())


def test_a_guest_has_no_second_name() -> None:
    document = json.loads(VALID)
    _rename("testbed_guests", _first(document, "testbed_guests"), "-oProxyCommand=x")(document)
    with pytest.raises(KvmComposeError):
        read_state(json.dumps(document).encode(), schemas())


def test_two_guests_have_not_one_address() -> None:
    document = json.loads(VALID)
    nics = [guest["interfaces"][0] for guest in document["testbed_guests"].values()]
    same = [nic for nic in nics if nic["bridge"] == _nic(document)["bridge"]]
    same[1]["ip"] = same[0]["ip"]
    with pytest.raises(KvmComposeError, match="already"):
        read_state(json.dumps(document).encode(), schemas())


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.parent.parent.name)
def test_what_a_build_writes_is_read_as_it_was(path: Path) -> None:
    data = path.read_bytes()
    assert read_state(data, schemas()) == decode_state(data)
    assert read_state(data, schemas(), whole=False) == decode_state(data)


def test_the_digest_of_an_environment_file_is_known() -> None:
    document = json.loads(VALID)
    cloud = _guest(document)["libvirt"]["libvirt_type"]["cloud_image"]
    cloud |= {"environment_file": "secrets.env", "environment_digest": "0123456789abcdef"}
    read_state(json.dumps(document).encode(), schemas())
    cloud["environment_digest"] = "\x1b[2J"
    with pytest.raises(KvmComposeError):
        read_state(json.dumps(document).encode(), schemas())


def _strings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in _strings(inner, (*path, key))]
    if isinstance(value, list):
        return [each for index, inner in enumerate(value) for each in _strings(inner, (*path, index))]
    return [path] if isinstance(value, str) else []


PLACES = _strings(json.loads(VALID))
#: What people may write freely, as long as it acts on no terminal: it ends in no command line of ours.
FREE = re.compile(
    r"environment|command|entrypoint|device|volumes|image|path|context|script|key_location|file"
)


@given(st.sampled_from(PLACES), st.text(min_size=1, max_size=40) | st.sampled_from(["-x", "a\nb", "\x1b[2J"]))
def test_any_text_in_any_place_is_refused_or_harmless(place: tuple[Any, ...], text: str) -> None:
    document = json.loads(VALID)
    part = document
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = text
    try:
        read_state(msgspec.json.encode(document), schemas())
    except (KvmComposeError, UnicodeEncodeError):
        return
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)
    if not FREE.search(".".join(map(str, place))):
        assert re.fullmatch(r"[A-Za-z0-9_][!-~]*", text), place


@pytest.mark.parametrize(
    "attack", [("user", 0), ("host name", 0), ("address", 0), ("tap", 0), ("subnet", 0), ("keys", 1)], ids=str
)
def test_up_refuses_and_changes_nothing(lab: Lab, attack: tuple[str, int]) -> None:
    path = lab.folder / "state.json"
    document = json.loads(path.read_bytes())
    _attacked(*attack, document)
    path.write_text(json.dumps(document))
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    assert action.refused
    assert lab.text(action).replace("\n", "").isprintable()
    lab.assert_clean()


@pytest.mark.parametrize(
    "attack", [("user", 0), ("host name", 0), ("host's address", 0), ("subnet", 4)], ids=str
)
@pytest.mark.parametrize("built", ["too", "not"])
def test_what_is_refused_now_can_be_taken_down(lab: Lab, attack: tuple[str, int], built: str) -> None:
    """As after an upgrade of a server that knew no such rules."""
    lab.must(Up())
    document = json.loads(unpacked(lab.store.deployed("lab") or b""))
    _attacked(*attack, document["state"])
    lab.store.set_deployed("lab", json.dumps(document).encode())
    if built == "not":
        (lab.folder / "state.json").unlink()
    tried = lab.do(Exec(guest="web", argv=("true",)))
    assert tried.state is ActionState.FAILED
    assert "kvm-compose down" in lab.text(tried)
    assert lab.do(Up()).refused
    lab.must(Down())
    assert not lab.running()
    assert not lab.world.bridges


def test_an_address_elsewhere_is_not_logged_into_even_if_it_was_noted(lab: Lab) -> None:
    lab.must(Up())
    document = json.loads(unpacked(lab.store.deployed("lab") or b""))
    document["state"]["testbed_guests"]["web"]["interfaces"][0]["ip"] = "192.0.2.66"
    lab.store.set_deployed("lab", json.dumps(document).encode())
    action = lab.do(Exec(guest="web", argv=("true",)))
    assert action.state is ActionState.FAILED
    assert "no address" in lab.text(action)


_OWN_IP = r'<ip address="([0-9.]+)" prefix="([0-9]+)">'
_ELSEWHERE = {
    "another subnet": (_OWN_IP, '<ip address="198.51.100.1" prefix="24">'),
    "a smaller subnet": (_OWN_IP, r'<ip address="\1" prefix="30">'),
    "a larger subnet": (_OWN_IP, r'<ip address="\1" prefix="8">'),
    "no prefix": (_OWN_IP, r'<ip address="\1">'),
    "a netmask, too": (_OWN_IP, r'<ip address="\1" prefix="\2" netmask="255.255.255.252">'),
    "a wildcard for a netmask": (_OWN_IP, r'<ip address="\1" netmask="0.0.0.255">'),
    "only IPv6": (_OWN_IP, '<ip family="ipv6" address="2001:db8::1" prefix="64">'),
    "in a comment": (r"(?s)<ip.*</ip>", r"<!-- \g<0> -->"),
    "in a namespace": (_OWN_IP, r'<ip xmlns="urn:x" address="\1" prefix="\2">'),
    "in the metadata": (r"(?s)(</metadata>)(.*)(<ip.*</ip>)", r"\3\1\2"),
    "an entity": (r"\A", '<!DOCTYPE network [<!ENTITY a "1">]>'),
    "no XML": (r"(?s).*", "10.0.0.0/8"),
}


@pytest.mark.parametrize("attack", _ELSEWHERE)
def test_guests_are_logged_into_in_their_own_network_only(lab: Lab, attack: str) -> None:
    """The state says where guests are, the XML which network there is: up to an administrator's testbed."""
    path = lab.folder / "artefacts" / "lab-network.xml"
    text = re.sub(*_ELSEWHERE[attack], path.read_text(), count=1)
    assert text != path.read_text()
    path.write_text(text)
    action = lab.do(Up())
    assert action.refused
    assert "subnet of state.json" in lab.text(action)
    assert "hint: " in lab.text(action)
    lab.assert_clean()


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        (r"(?s)<dhcp>.*</dhcp>", ""),
        (_OWN_IP, r'<ip family="ipv4" localPtr="yes" address="\1" prefix="\2">'),
        (r"</network>", '<ip family="ipv6" address="2001:db8::1" prefix="64"/></network>'),
        (r"<network>", "<!-- mine --><network>"),
    ],
)
def test_an_edit_that_keeps_the_subnet_stays_possible(lab: Lab, what: str, instead: str) -> None:
    path = lab.folder / "artefacts" / "lab-network.xml"
    text = re.sub(what, instead, path.read_text(), count=1)
    assert text != path.read_text()
    path.write_text(text)
    lab.must(Up())


def test_a_netmask_says_the_same_as_a_prefix(lab: Lab) -> None:
    path = lab.folder / "artefacts" / "lab-network.xml"
    subnet = json.loads((lab.folder / "state.json").read_bytes())["network"]["libvirt_network_subnet"]
    mask = str(ipaddress.IPv4Network(subnet).netmask)
    path.write_text(re.sub(_OWN_IP, rf'<ip address="\1" netmask="{mask}">', path.read_text()))
    assert mask in path.read_text()
    lab.must(Up())


def test_the_network_cannot_move_below_running_guests(lab: Lab) -> None:
    """What is noted as up is what guests are logged into by: it is not noted before it is true."""
    lab.must(Up())
    before = lab.store.deployed("lab")
    path = lab.folder / "artefacts" / "lab-network.xml"
    path.write_text(re.sub(_OWN_IP, '<ip address="198.51.100.1" prefix="24">', path.read_text()))
    assert lab.do(Up()).refused
    assert lab.store.deployed("lab") == before


def test_the_same_document_is_checked_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``status --watch`` has it read; one that was refused is refused again."""
    checked: list[bytes] = []

    def counted(decoded: Any, document: bytes, *rest: Any, **options: Any) -> Any:
        checked.append(document)
        return check_document(decoded, document, *rest, **options)

    monkeypatch.setattr(testbed, "check_document", counted)
    monkeypatch.setattr(testbed, "_sound", {})
    path = lab.folder / "state.json"
    first = [lab.status() for _ in range(3)]
    assert first[0].guests == first[2].guests
    assert checked == [path.read_bytes()]
    document = json.loads(path.read_bytes())
    _attacked("user", 0, document)
    path.write_text(json.dumps(document))
    for _ in range(2):
        assert lab.do(Up()).refused
    assert len(checked) >= 3


def test_only_so_many_verdicts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "_sound", {})
    for count in range(testbed._MOST_SOUND + 5):
        testbed._content(VALID + b"\n" * count, whole=True)
    assert len(testbed._sound) == testbed._MOST_SOUND


def test_what_is_up_and_what_is_built_are_one_document(lab: Lab) -> None:
    """A large testbed takes as much memory as its documents: it is not held twice."""
    lab.must(Up())
    lab.must(Up())
    deployed = decode_deployed(lab.store.deployed("lab"))
    assert deployed is not None
    folder = ProjectFolder(lab.folder)
    up = deployed.testbed(folder)
    assert up.state is testbed.LoadedTestbed(folder, (lab.folder / "state.json").read_bytes()).state
