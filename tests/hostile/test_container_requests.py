"""What a request for a container asks of its host: nothing unless it is listed, whatever is in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmcompose import privileges
from kvmcompose.build.trust import asked_by
from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.state import State, decode_state
from kvmcompose.guests import guest_kind

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.bench import GOLDEN, golden_bench

CASES = sorted({path.parents[2].name for path in GOLDEN.glob("*/expected/artefacts/*-container.json")})
EXPECTED = GOLDEN / "containers/expected"
FOLDER = "/var/lib/kvm-compose/containers"


def state_of(case: str = "containers") -> State:
    return decode_state((GOLDEN / case / "expected/state.json").read_bytes())


STATE = state_of()


def container(name: str = "worker-0", state: State = STATE) -> ContainerGuest:
    guest = state.testbed_guests[name]
    run = guest_kind(guest.kind).deployable(guest, state.shared)
    assert isinstance(run, ContainerGuest)
    return run


def asked(data: bytes, *, for_member: bool = False) -> list[Privilege]:
    return list(privileges.of_container(data, container(), STATE, for_member=for_member))


def with_host(**host: Any) -> bytes:
    return json.dumps({"Image": "a", "HostConfig": {"NetworkMode": "none", **host}}).encode()


@pytest.mark.parametrize("case", [each for each in CASES if each != "containers"])
def test_requests_of_labs_ask_for_nothing(case: str) -> None:
    state = state_of(case)
    requests = {
        name: container(name, state) for name, each in state.testbed_guests.items() if each.kind == "docker"
    }
    assert requests
    for run in requests.values():
        data = (GOLDEN / case / "expected" / run.request).read_bytes()
        assert list(privileges.of_container(data, run, state)) == []


def test_what_the_yaml_asks_for_is_listed() -> None:
    found = {
        name: [
            (asked.kind, asked.what)
            for asked in privileges.of_container(
                (EXPECTED / container(name).request).read_bytes(), container(name), STATE
            )
        ]
        for name, each in STATE.testbed_guests.items()
        if each.kind == "docker"
    }
    assert found == {
        "web": [
            (PrivilegeKind.RIGHT, "capability 'NET_ADMIN'"),
            (PrivilegeKind.DEVICE, "'/dev/net/tun'"),
            (PrivilegeKind.DEVICE, "'/dev/fuse'"),
        ],
        "plain": [(PrivilegeKind.RIGHT, "all devices and capabilities (privileged)")],
        "worker-0": [],
        "worker-1": [],
        "worker-2": [],
        "built-0": [],
        "built-1": [],
        "offline": [],
    }


def test_a_container_of_a_member_writes_to_nothing_of_the_host() -> None:
    run = container("web")
    data = (EXPECTED / run.request).read_bytes()
    wanted = Privilege(PrivilegeKind.RIGHT, f"to write to '{FOLDER}/conf'", run.request)
    assert wanted in list(privileges.of_container(data, run, STATE, for_member=True))


def bind(source: Any, /, **others: Any) -> bytes:
    return with_host(Mounts=[{"Type": "bind", "Source": source, "Target": "/x", "ReadOnly": True, **others}])


HARMLESS = {
    "a folder of the project": bind(f"{FOLDER}/data"),
    "the project": bind(FOLDER),
    "a folder that can be written": bind(f"{FOLDER}/data", ReadOnly=False),
    "memory": with_host(Mounts=[{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": 5}}]),
    "null": with_host(Privileged=None, CapAdd=None, Devices=None, Mounts=None, PidMode=None),
    "limits": with_host(
        Memory=1, NanoCpus=1, PidsLimit=5, Ulimits=[{"Name": "nofile", "Soft": 1, "Hard": 2}]
    ),
    "less": with_host(CapDrop=["ALL"], SecurityOpt=["no-new-privileges"], ReadonlyRootfs=True),
    "usual capabilities": with_host(CapAdd=["cap_chown", "NET_RAW"]),
    "forwarding": with_host(Sysctls={"net.ipv4.ip_forward": "1"}),
}


@pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_harmless_is_not_listed(data: bytes) -> None:
    assert asked(data) == []


DANGEROUS = {
    # Podman 4.3 gave each of these /etc of the host
    "a volume that Podman splits": json.dumps(
        {"Volumes": {"/etc:/x": {}}, "HostConfig": {"NetworkMode": "none"}}
    ).encode(),
    "a target with another source": bind(f"{FOLDER}/data", Target="/x,source=/etc"),
    "a source with another source": bind(f"{FOLDER}/data,source=/etc"),
    "a target that ends before it is read only": bind(f"{FOLDER}/data", Target="/x\n"),
    "a target that quotes": bind(f"{FOLDER}/data", Target='/x"'),
    "memory with another type": with_host(Mounts=[{"Type": "tmpfs", "Target": "/x,type=bind,source=/etc"}]),
    "variables of the engine's": json.dumps(
        {"Env": ["HTTP*"], "HostConfig": {"NetworkMode": "none"}}
    ).encode(),
    "privileged": with_host(Privileged=True),
    "privileged as a number": with_host(Privileged=1),
    "privileged as text": with_host(Privileged="true"),
    "in other letters": with_host(privileged=True),
    "host in other letters": json.dumps(
        {"HostConfig": {"NetworkMode": "none"}, "hostconfig": {"Privileged": True}}
    ).encode(),
    "with a letter that is an s in capitals": with_host(Privileged=False).replace(
        b"Privileged", b"Priv\\u017f"
    ),
    "a capability": with_host(CapAdd=["SYS_ADMIN"]),
    "all capabilities": with_host(CapAdd=["ALL"]),
    "capabilities as text": with_host(CapAdd="SYS_ADMIN"),
    "the older key": with_host(Capabilities=["SYS_ADMIN"]),
    "a device": with_host(Devices=[{"PathOnHost": "/dev/sda"}]),
    "devices as text": with_host(Devices="/dev/sda"),
    "device rules": with_host(DeviceCgroupRules=["a *:* rwm"]),
    "GPUs": with_host(DeviceRequests=[{"Count": -1}]),
    "the host's network": with_host(NetworkMode="host"),
    "the engine's network": with_host(NetworkMode="bridge"),
    "another container's network": with_host(NetworkMode="container:abc"),
    "a network by default": json.dumps({"HostConfig": {}}).encode(),
    "no settings": b"{}",
    "settings of null": b'{"HostConfig": null}',
    "settings as a list": b'{"HostConfig": []}',
    "networks": json.dumps(
        {"NetworkingConfig": {"EndpointsConfig": {"a": {}}}, "HostConfig": {"NetworkMode": "none"}}
    ).encode(),
    "ports": with_host(PortBindings={"80/tcp": [{"HostPort": "80"}]}),
    "processes": with_host(PidMode="host"),
    "memory of others": with_host(IpcMode="host"),
    "host name": with_host(UTSMode="host"),
    "users": with_host(UsernsMode="host"),
    "control groups": with_host(CgroupnsMode="host"),
    "a parent": with_host(CgroupParent="/"),
    "no confinement": with_host(SecurityOpt=["seccomp=unconfined"]),
    "paths not masked": with_host(MaskedPaths=[]),
    "paths not read-only": with_host(ReadonlyPaths=[]),
    "a runtime": with_host(Runtime="/opt/runc"),
    "settings of the kernel": with_host(Sysctls={"kernel.core_pattern": "|/x"}),
    "binds": with_host(Binds=["/:/host"]),
    "volumes of others": with_host(VolumesFrom=["other"]),
    "a driver": with_host(VolumeDriver="x"),
    "logs elsewhere": with_host(LogConfig={"Type": "syslog", "Config": {}}),
    "log settings": with_host(LogConfig={"Type": "json-file", "Config": {"labels": "x"}}),
    "labels": json.dumps(
        {"Labels": {"traefik.enable": "true"}, "HostConfig": {"NetworkMode": "none"}}
    ).encode(),
    "score": with_host(OomScoreAdj=-1000),
    "groups": with_host(GroupAdd=["disk"]),
    "the root": bind("/"),
    "a file": bind("/etc/shadow"),
    "the engine": bind("/run/docker.sock"),
    "another project": bind(f"{FOLDER}-2/data"),
    "steps up": bind(f"{FOLDER}/../other"),
    "steps up inside": bind(f"{FOLDER}/a/../../other"),
    "a step of nothing": bind(f"{FOLDER}//data"),
    "a point": bind(f"{FOLDER}/."),
    "a relative path": bind("data"),
    "a NUL": bind(f"{FOLDER}/a\0b"),
    "a line": bind(f"{FOLDER}/a\nb"),
    "a list": bind([FOLDER]),
    "null as source": bind(None),
    "writing to artefacts": bind(f"{FOLDER}/artefacts", ReadOnly=False),
    "writing to all": bind(FOLDER, ReadOnly=False),
    "writing by default": with_host(Mounts=[{"Type": "bind", "Source": FOLDER, "Target": "/x"}]),
    "writing by a text": bind(f"{FOLDER}/artefacts", ReadOnly="true"),
    "propagation": bind(f"{FOLDER}/a", BindOptions={"Propagation": "rshared"}),
    "source in other letters": bind(f"{FOLDER}/a", source="/"),
    "a volume": with_host(Mounts=[{"Type": "volume", "Source": "others", "Target": "/x"}]),
    "a pipe": with_host(Mounts=[{"Type": "npipe", "Source": "a", "Target": "/x"}]),
    "no type": with_host(Mounts=[{"Source": "/", "Target": "/x"}]),
    "a type of null": with_host(Mounts=[{"Type": None, "Source": "/", "Target": "/x"}]),
    "a mount as text": with_host(Mounts=["/:/x"]),
    "mounts as a mapping": with_host(Mounts={"Source": "/"}),
    "variables as a mapping": b'{"Env": {"A": "secret"}, "HostConfig": {"NetworkMode": "none"}}',
    "nothing": b"",
    "no JSON": b"{",
    "a list alone": b"[]",
    "binary": b"\xff\xfe{}",
    "two": b"{} {}",
    "deep": b'{"a":' * 100_000,
    "deep and whole": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "large": b'{"a": "' + b"x" * (privileges.REQUEST_LIMIT + 1) + b'"}',
    "a number without end": b'{"HostConfig": {"NetworkMode": "none", "Memory": 1' + b"0" * 5000 + b"}}",
}


@pytest.mark.parametrize("data", DANGEROUS.values(), ids=DANGEROUS.keys())
def test_what_is_not_known_to_be_harmless_is_listed(data: bytes) -> None:
    found = asked(data)
    assert found
    assert all(len(str(each)) < 500 for each in found)


def test_the_last_of_two_keys_counts_as_it_does_when_it_is_sent() -> None:
    data = b'{"HostConfig": {"NetworkMode": "none", "Privileged": false, "Privileged": true}}'
    assert [each.kind for each in asked(data)] == [PrivilegeKind.RIGHT]
    assert privileges.parse_request(data, "x")["HostConfig"]["Privileged"] is True


def test_no_value_of_a_variable_is_shown() -> None:
    found = asked(b'{"Env": [["PASSWORD=secret"]], "HostConfig": {"NetworkMode": "none"}}')
    assert found
    assert "secret" not in "".join(map(str, found))


def test_what_is_listed_is_safe_to_show() -> None:
    found = asked(
        json.dumps({"\x1b]0;title\x07": "\x1b[31m", "HostConfig": {"NetworkMode": "none"}}).encode()
    )
    assert found
    assert all(str(each).isprintable() for each in found)


def test_long_settings_differ_though_their_beginnings_do_not() -> None:
    one, other = (asked(with_host(Runtime="x" * 500 + last)) for last in "ab")
    assert one != other


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{\n  "Image": nginx\n}', "x.json:2:12: is not JSON: expecting value"),
        (b"[]", "x.json:1:1: is not a JSON object"),
        (b"\xff", "x.json is not JSON that can be read"),
        (b" " * (privileges.REQUEST_LIMIT + 1), "x.json is larger than 1024 KiB"),
    ],
)
def test_a_request_that_cannot_be_read_is_said_with_its_place(data: bytes, message: str) -> None:
    with pytest.raises(KvmComposeError) as caught:
        privileges.parse_request(data, "x.json")
    assert caught.value.message == message
    assert "kvm-compose generate" in str(caught.value.hint)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    "image",
    [
        "sha256:" + "a" * 64,
        "a" * 12,
        "beef",
        "kvm-compose-snapshots/lab-web:s",
        "localhost/kvm-compose-snapshots/x:y",
        f"kvm-compose-builds/other:{'a' * 32}",
        f"localhost/kvm-compose-builds/other:{'a' * 32}",
    ],
)
def test_a_member_names_no_image_that_is_another_projects(image: str) -> None:
    data = json.dumps({"Image": image, "HostConfig": {"NetworkMode": "none"}}).encode()
    assert asked(data) == []
    assert [each.what for each in asked(data, for_member=True)] == [
        f"an image that may be another project's: {image!r}"
    ]
    assert asked(data.replace(image.encode(), b"beef:1"), for_member=True) == []


_keys = st.sampled_from(
    ["NetworkMode", "Privileged", "CapAdd", "Devices", "Mounts", "LogConfig", "Ulimits", "x"]
)


@given(
    host=st.dictionaries(_keys, _json, max_size=4) | _json, more=st.dictionaries(st.text(max_size=8), _json)
)
def test_any_json_is_judged(host: Any, more: dict[str, Any]) -> None:
    data = json.dumps({**more, "HostConfig": host}).encode()
    for member in (False, True):
        found = asked(data, for_member=member)
        assert all(isinstance(each, Privilege) and str(each) for each in found)
    privileges.binds_of(data, container(), STATE)


def binds_in(*mounts: tuple[str, bool]) -> list[tuple[str, privileges.Bind]]:
    data = with_host(
        Mounts=[
            {"Type": "bind", "Source": f"{FOLDER}/{path}", "Target": "/x", "ReadOnly": not writable}
            for path, writable in mounts
        ]
    )
    return [("r.json", each) for each in privileges.binds_of(data, container(), STATE)]


def test_a_folder_that_a_container_can_replace_by_a_link_is_listed() -> None:
    found = privileges.replaceable(binds_in(("data", True), ("data/a/b", False), ("data2", False)))
    assert [(each.kind, each.what) for each in found] == [
        (PrivilegeKind.FILE, "'data/a/b', if a guest puts a link into 'data'")
    ]
    assert not list(privileges.replaceable(binds_in(("data", False), ("data/a", True))))
    assert not list(privileges.replaceable(binds_in(("data", True), ("data", False))))


def _link_out(folder: Path) -> None:
    (folder / "html").rename(folder / "old")
    (folder / "html").symlink_to("/etc")


def _link_above(folder: Path) -> None:
    (folder / "html").rename(folder.parent / "elsewhere")
    (folder / "html").symlink_to("../elsewhere")


@pytest.mark.parametrize("change", [_link_out, _link_above])
def test_a_volume_that_leads_out_of_the_project_is_listed(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    bench = golden_bench(tmp_path, "containers")
    bench.generate()
    before = asked_by(bench.folder).privileges
    change(bench.folder)
    added = set(asked_by(bench.folder).privileges) - set(before)
    assert [(each.kind, each.where) for each in added] == [
        (PrivilegeKind.FILE, "artefacts/web-container.json")
    ]


def test_a_link_to_another_folder_of_the_project_is_none(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "containers")
    bench.generate()
    before = asked_by(bench.folder)
    (bench.folder / "html").rename(bench.folder / "pages")
    (bench.folder / "html").symlink_to("pages")
    assert asked_by(bench.folder).privileges == before.privileges


def test_an_edit_by_hand_is_listed_by_trust(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "containers")
    bench.generate()
    path = bench.folder / "artefacts/worker-0-container.json"
    request = json.loads(path.read_bytes())
    request["HostConfig"]["PidMode"] = "host"
    path.write_text(json.dumps(request))
    ran = bench.run("trust", "--json")
    assert 'HostConfig.PidMode: \\"host\\"' in ran.out


def test_a_path_of_an_engine_is_listed(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "containers")
    bench.edit('"podman"', '"/run/user/1000/podman/podman.sock"', "kvm-compose-config.json")
    bench.generate()
    assert (
        Privilege(PrivilegeKind.ENGINE, "/run/user/1000/podman/podman.sock", "host testbed-host-one")
        in asked_by(bench.folder).privileges
    )
