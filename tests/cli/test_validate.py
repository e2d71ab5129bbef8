"""Wrong input: every problem at once, each with its code, its place and its path in the data."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from golden.bench import Bench, golden_bench, new_bench, tiny_qcow2

BRIDGES = """\
machines:
  - name: one
    interfaces:
      - {bridge: br0}
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        cloud_image: {name: debian_12}
  - name: two
    interfaces:
      - {bridge: br1}
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        cloud_image: {name: debian_12}
network:
  bridges:
    - name: br0
    - name: br1
    - name: br2
  bridge_connections:
    br0: br1
    br1: br2
  external_bridge: br0
"""

SCALED = """\
machines:
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        cloud_image: {name: debian_12}
      scaling:
        count: 3
        interfaces:
          - {bridge: br0, clones: [0, 1]}
          - {bridge: br1, clones: [2]}
        clone_setup:
          - {script: setup.sh, clones: [0]}
        clone_run:
          - {script: setup.sh, clones: [1, 2]}
network:
  bridges:
    - name: br0
    - name: br1
  external_bridge: br0
"""

CONFIG = """\
{
  "testbed_host_ssh_config": {
    "alpha": {"ip": "192.0.2.11", "user": "u", "is_main_host": true, "virt_type": "qemu"},
    "beta": {"ip": "192.0.2.12", "user": "u", "virt_type": "qemu"}
  },
  "ssh_public_key_location": "keys/id_ed25519.pub",
  "ssh_private_key_location": "keys/id_ed25519"
}
"""

ONE_HOST = CONFIG.replace(',\n    "beta": {"ip": "192.0.2.12", "user": "u", "virt_type": "qemu"}', "")

NICS = "external_bridge: br0\n  network_interfaces:\n"

Found = list[tuple[str, str, str]]


def project(root: Path, yaml: str, config: str = ONE_HOST) -> Bench:
    return new_bench(
        root,
        "wrong",
        {
            "kvm-compose.yaml": yaml,
            "kvm-compose-config.json": config,
            "setup.sh": "#!/bin/sh\n",
            "keys/id_ed25519": "",
        },
    )


def edited(text: str, *edits: tuple[str, str]) -> str:
    for before, after in edits:
        assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times"
        text = text.replace(before, after)
    return text


def test_the_texts_that_are_broken_below_are_right(tmp_path: Path) -> None:
    assert project(tmp_path / "a", BRIDGES).problems() == []
    assert project(tmp_path / "b", SCALED).problems() == []
    assert project(tmp_path / "c", BRIDGES, CONFIG).problems() == []


BRIDGE_CASES: dict[str, tuple[list[tuple[str, str]], Found]] = {
    "duplicate machine": (
        [("name: two", "name: one")],
        [("duplicate-name", "10:11", "machines[1].name")],
    ),
    "duplicate bridge": (
        [("    - name: br2\n", "    - name: br2\n    - name: br1\n")],
        [("duplicate-name", "23:13", "network.bridges[3].name")],
    ),
    "interface on a bridge that is not there": (
        [("{bridge: br1}", "{bridge: br9}")],
        [("unknown-bridge", "12:18", "machines[1].interfaces[0].bridge")],
    ),
    "connection from a bridge that is not there": (
        [("    br1: br2\n", "    br8: br2\n")],
        [("unknown-bridge", "25:5", "network.bridge_connections.br8")],
    ),
    "connection to a bridge that is not there": (
        [("    br1: br2\n", "    br1: br8\n")],
        [("unknown-bridge", "25:10", "network.bridge_connections.br1")],
    ),
    "external bridge that is not there": (
        [("external_bridge: br0", "external_bridge: br7")],
        [("unknown-bridge", "26:20", "network.external_bridge")],
    ),
    "bridge connected to itself": (
        [("    br1: br2\n", "    br2: br2\n")],
        [("bridge-loop", "25:10", "network.bridge_connections.br2")],
    ),
    "bridges in a loop": (
        [("    br1: br2\n", "    br1: br2\n    br2: br0\n")],
        [("bridge-loop", "26:10", "network.bridge_connections.br2")],
    ),
    "pair connected twice": (
        [("    br1: br2\n", "    br1: br0\n")],
        [("duplicate-connection", "25:10", "network.bridge_connections.br1")],
    ),
    "pair of a list connected twice": (
        [("    br0: br1\n    br1: br2\n", "    - [br0, br1]\n    - [br1, br0]\n")],
        [("duplicate-connection", "25:7", "network.bridge_connections[1]")],
    ),
    "unknown bridge in a list of pairs": (
        [("    br0: br1\n    br1: br2\n", "    - [br0, br9]\n")],
        [("unknown-bridge", "24:13", "network.bridge_connections[0][1]")],
    ),
    "duplicate MAC": (
        [
            ("{bridge: br0}", "{bridge: br0, mac: 52:54:00:00:00:01}"),
            ("{bridge: br1}", '{bridge: br1, mac: "52:54:00:00:00:01"}'),
        ],
        [("duplicate-mac", "12:28", "machines[1].interfaces[0].mac")],
    ),
    "MAC in another case is the same": (
        [
            ("{bridge: br0}", "{bridge: br0, mac: 52:54:00:aa:bb:cc}"),
            ("{bridge: br1}", "{bridge: br1, mac: 52:54:00:AA:BB:CC}"),
        ],
        [("duplicate-mac", "12:28", "machines[1].interfaces[0].mac")],
    ),
    "multicast MAC": (
        [("{bridge: br0}", "{bridge: br0, mac: 01:00:5e:00:00:01}")],
        [("bad-mac", "4:28", "machines[0].interfaces[0].mac")],
    ),
    "duplicate address on connected bridges": (
        [("{bridge: br0}", "{bridge: br0, ip: 10.1.0.9}"), ("{bridge: br1}", "{bridge: br1, ip: 10.1.0.9}")],
        [("duplicate-address", "12:27", "machines[1].interfaces[0].ip")],
    ),
    "address that is none": (
        [("{bridge: br0}", "{bridge: br0, ip: 10.1.0.999}")],
        [("bad-address", "4:27", "machines[0].interfaces[0].ip")],
    ),
    "address with a prefix": (
        [("{bridge: br0}", "{bridge: br0, ip: 10.1.0.9/24}")],
        [("bad-address", "4:27", "machines[0].interfaces[0].ip")],
    ),
    "IPv6 address": (
        [("{bridge: br0}", '{bridge: br0, ip: "2001:db8::1"}')],
        [("bad-address", "4:27", "machines[0].interfaces[0].ip")],
    ),
    "loopback address": (
        [("{bridge: br0}", "{bridge: br0, ip: 127.0.0.1}")],
        [("bad-address", "4:27", "machines[0].interfaces[0].ip")],
    ),
    "address of the gateway": (
        [("{bridge: br0}", "{bridge: br0, ip: 10.1.0.1}")],
        [("reserved-address", "4:27", "machines[0].interfaces[0].ip")],
    ),
    "addresses of no common subnet": (
        [
            ("{bridge: br0}", "{bridge: br0, ip: 10.1.0.9}"),
            ("{bridge: br1}", "{bridge: br1, ip: 192.168.0.9}"),
        ],
        [("addresses-too-far-apart", "12:27", "machines[1].interfaces[0].ip")],
    ),
    "machine without interface": (
        [("    interfaces:\n      - {bridge: br1}\n", "")],
        [("no-interface", "10:5", "machines[1]")],
    ),
    "machine with an empty list of interfaces": (
        [("    interfaces:\n      - {bridge: br1}\n", "    interfaces: []\n")],
        [("no-interface", "10:5", "machines[1]")],
    ),
    "unknown strategy": (
        [
            (
                "  external_bridge: br0\n",
                "  external_bridge: br0\ntestbed_options: {load_balancing: roundrobin}\n",
            )
        ],
        [("unknown-strategy", "27:35", "testbed_options.load_balancing")],
    ),
    "unknown image": (
        [
            (
                "libvirt_type:\n        cloud_image: {name: debian_12}\n  - name: two",
                "libvirt_type:\n        cloud_image: {name: debian_99}\n  - name: two",
            )
        ],
        [("unknown-image", "9:29", "machines[0].libvirt.libvirt_type.cloud_image.name")],
    ),
    "unknown key": (
        [("external_bridge: br0", "external_bridge: br0\n  bridge_conections: {}")],
        [("unknown-key", "27:3", "network.bridge_conections")],
    ),
    "unknown section": (
        [("network:\n", "netwrk: {}\nnetwork:\n")],
        [("unknown-key", "18:1", "netwrk")],
    ),
    "host NIC on a bridge and a host that are not there": (
        [
            (
                "external_bridge: br0",
                f"{NICS}    - {{nic_name: eth1, testbed_bridge: br9, testbed_host: gamma}}",
            )
        ],
        [
            ("unknown-bridge", "28:40", "network.network_interfaces[0].testbed_bridge"),
            ("unknown-host", "28:59", "network.network_interfaces[0].testbed_host"),
        ],
    ),
    "host NIC twice": (
        [
            (
                "external_bridge: br0",
                NICS
                + "\n".join(
                    f"    - {{nic_name: eth1, testbed_bridge: {each}, testbed_host: alpha}}"
                    for each in ("br0", "br1")
                ),
            )
        ],
        [("duplicate-name", "29:18", "network.network_interfaces[1].nic_name")],
    ),
    "duplicate key": (
        [("external_bridge: br0", "external_bridge: br0\n  external_bridge: br1")],
        [("duplicate-key", "27:3", "")],
    ),
    "name that is too long for a host name": (
        [("name: two", f"name: a{'b' * 62}")],
        [("name-too-long", "10:11", "machines[1].name")],
    ),
    "several things at once": (
        [
            ("name: two", "name: one"),
            ("{bridge: br1}", "{bridge: br9}"),
            ("external_bridge: br0", "external_bridge: br8"),
            ("    br1: br2\n", "    br1: br0\n"),
        ],
        [
            ("duplicate-name", "10:11", "machines[1].name"),
            ("unknown-bridge", "12:18", "machines[1].interfaces[0].bridge"),
            ("duplicate-connection", "25:10", "network.bridge_connections.br1"),
            ("unknown-bridge", "26:20", "network.external_bridge"),
        ],
    ),
}


@pytest.mark.parametrize("case", BRIDGE_CASES)
def test_what_is_wrong_with_machines_and_bridges_is_said_with_its_place(case: str, tmp_path: Path) -> None:
    edits, expected = BRIDGE_CASES[case]
    assert project(tmp_path, edited(BRIDGES, *edits)).problems() == expected


SCALING_CASES: dict[str, tuple[list[tuple[str, str]], Found]] = {
    "clone out of range": (
        [("clones: [2]}\n        clone_setup", "clones: [2, 3]}\n        clone_setup")],
        [("clone-out-of-range", "12:39", "machines[0].libvirt.scaling.interfaces[1].clones[1]")],
    ),
    "clone doubled": (
        [("clones: [0, 1]", "clones: [0, 1, 0]")],
        [("doubled-clone", "11:42", "machines[0].libvirt.scaling.interfaces[0].clones[2]")],
    ),
    "clone doubled over two entries": (
        [("{bridge: br1, clones: [2]}", "{bridge: br0, clones: [2, 1]}")],
        [("doubled-clone", "12:35", "machines[0].libvirt.scaling.interfaces[1].clones")],
    ),
    "clone missing": (
        [("clones: [0, 1]", "clones: [0]")],
        [("clone-without-interface", "11:11", "machines[0].libvirt.scaling.interfaces")],
    ),
    "scripts for clones that are not there": (
        [("clones: [0]}", "clones: [7]}"), ("clones: [1, 2]}", "clones: [1, 2, 2]}")],
        [
            ("clone-out-of-range", "14:41", "machines[0].libvirt.scaling.clone_setup[0].clones[0]"),
            ("doubled-clone", "16:47", "machines[0].libvirt.scaling.clone_run[0].clones[2]"),
        ],
    ),
    "scaling beside interfaces": (
        [("  - name: herd\n", "  - name: herd\n    interfaces: [{bridge: br0}]\n")],
        [("scaling-with-interfaces", "3:5", "machines[0].interfaces")],
    ),
    "less at most than given": (
        [("      memory_mb: 64\n", "      memory_mb: 64\n      max_memory_mb: 63\n      max_cpus: 1\n")],
        [("out-of-range", "6:22", "machines[0].libvirt.max_memory_mb")],
    ),
    "a machine with the name of a clone": (
        [
            (
                "network:\n",
                "  - {name: herd-1, interfaces: [{bridge: br0}], docker: {image: x}}\nnetwork:\n",
            )
        ],
        [("duplicate-name", "17:12", "machines[1].name")],
    ),
    "script of a clone that is not there": (
        [("clone_run:\n          - {script: setup.sh", "clone_run:\n          - {script: away.sh")],
        [("missing-file", "16:22", "machines[0].libvirt.scaling.clone_run[0].script")],
    ),
    "scripts of a guest without cloud-init": (
        [("cloud_image: {name: debian_12}", "existing_disk: {path: disks/base.raw}")],
        [
            ("needs-cloud-init", "14:22", "machines[0].libvirt.scaling.clone_setup[0].script"),
            ("needs-cloud-init", "16:22", "machines[0].libvirt.scaling.clone_run[0].script"),
        ],
    ),
    **{
        f"clones of a disk that none can write to: {name}": (
            [("cloud_image: {name: debian_12}", f"existing_disk: {{path: disks/base.raw, {setting}}}")],
            [
                ("cannot-scale", place, f"machines[0].libvirt.libvirt_type.existing_disk.{name}"),
                ("needs-cloud-init", "14:22", "machines[0].libvirt.scaling.clone_setup[0].script"),
                ("needs-cloud-init", "16:22", "machines[0].libvirt.scaling.clone_run[0].script"),
            ],
        )
        for name, setting, place in (
            ("readonly", "readonly: true", "7:57"),
            ("device_type", "device_type: cdrom", "7:60"),
        )
    },
}


@pytest.mark.parametrize("case", SCALING_CASES)
def test_what_is_wrong_with_scaling_is_said_with_its_place(case: str, tmp_path: Path) -> None:
    edits, expected = SCALING_CASES[case]
    assert project(tmp_path, edited(SCALED, *edits)).problems() == expected


CONFIG_CASES: dict[str, tuple[list[tuple[str, str]], Found]] = {
    "no main host": (
        [('"is_main_host": true, ', "")],
        [("no-main-host", "2:30", "testbed_host_ssh_config")],
    ),
    "two main hosts": (
        [('"user": "u", "virt_type": "qemu"}\n', '"user": "u", "is_main_host": true}\n')],
        [("two-main-hosts", "4:63", "testbed_host_ssh_config.beta.is_main_host")],
    ),
    "two hosts with one address": (
        [("192.0.2.12", "192.0.2.11")],
        [("duplicate-address", "4:20", "testbed_host_ssh_config.beta.ip")],
    ),
    "host that others cannot reach": (
        [("192.0.2.12", "127.0.0.1")],
        [("loopback-address", "4:20", "testbed_host_ssh_config.beta.ip")],
    ),
    "public key that is not there": (
        [("id_ed25519.pub", "id_rsa.pub")],
        [("missing-file", "6:30", "ssh_public_key_location")],
    ),
    "public key that is a folder": (
        [("keys/id_ed25519.pub", "keys")],
        [("missing-file", "6:30", "ssh_public_key_location")],
    ),
    "older name of a key": (
        [("is_main_host", "is_master_host")],
        [("unknown-key", "3:48", "testbed_host_ssh_config.alpha.is_master_host")],
    ),
    "comma too many": (
        [('id_ed25519"\n', 'id_ed25519",\n')],
        [("json-syntax", "8:1", "")],
    ),
}


@pytest.mark.parametrize("case", CONFIG_CASES)
def test_what_is_wrong_with_the_config_is_said_with_its_place(case: str, tmp_path: Path) -> None:
    edits, expected = CONFIG_CASES[case]
    bench = project(tmp_path, BRIDGES.replace("external_bridge: br0\n", ""), edited(CONFIG, *edits))
    assert bench.problems() == expected


def test_problems_of_both_files_are_said_together(tmp_path: Path) -> None:
    bench = project(tmp_path, "machines: [\n", "{\n")
    ran = bench.run("validate", "--json")
    assert {Path(each["location"]["file"]).name for each in ran.json["problems"]} == {
        "kvm-compose.yaml",
        "kvm-compose-config.json",
    }


FILES = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        cloud_image:
          name: debian_12
          %s: %s
network:
  bridges: [{name: br0}]
"""


@pytest.mark.parametrize("key", ["setup_script", "run_script", "context"])
@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("away", "missing-file"),
        ("setup.sh/x", "missing-file"),
        ("../outside", "outside-project"),
        ("/etc/passwd", "outside-project"),
        ("~/.ssh/id_rsa", "outside-project"),
        ("~root/.ssh", "outside-project"),
        ("~no-such-user-here/x", None),
        ("link-out", "outside-project"),
        ("link-out-of-a-folder/hosts", "outside-project"),
        ("./a/../../outside", "outside-project"),
        ("circle", None),
        ("dangling", "missing-file"),
        ("pipe", "bad-file"),
        ("x" * 300, None),
    ],
)
def test_a_carried_file_that_cannot_be_is_refused(
    key: str, value: str, code: str | None, tmp_path: Path
) -> None:
    bench = project(tmp_path, FILES % (key, value))
    (tmp_path / "outside").write_text("secret")
    (bench.folder / "a").mkdir()
    for link, goal in {
        "link-out": "../outside",
        "link-out-of-a-folder": "/etc",
        "circle": "circle",
        "dangling": "nothing",
    }.items():
        (bench.folder / link).symlink_to(goal)
    os.mkfifo(bench.folder / "pipe")
    found = bench.problems()
    assert [each[1:] for each in found] == [
        (f"10:{13 + len(key)}", f"machines[0].libvirt.libvirt_type.cloud_image.{key}")
    ]
    if code is not None:
        assert found[0][0] == code


def test_a_folder_is_no_script(tmp_path: Path) -> None:
    assert [each[0] for each in project(tmp_path, FILES % ("setup_script", "keys")).problems()] == [
        "bad-file"
    ]


def test_a_socket_in_a_context_is_refused(tmp_path: Path) -> None:
    bench = project(tmp_path, FILES % ("context", "stuff"))
    (bench.folder / "stuff").mkdir()
    before = Path.cwd()
    os.chdir(bench.folder / "stuff")  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("s")
            ran = bench.run("generate")
    finally:
        os.chdir(before)
    assert ran.status in (1, 2)
    assert "Traceback" not in ran.err
    assert "neither a file nor a folder" in ran.err


@pytest.mark.parametrize("goal", ["/etc/shadow", "../../../outside", "/etc"])
def test_a_link_out_of_the_project_in_a_context_is_refused(goal: str, tmp_path: Path) -> None:
    bench = project(tmp_path, FILES % ("context", "stuff"))
    (tmp_path / "outside").write_text("secret")
    (bench.folder / "stuff/deep").mkdir(parents=True)
    (bench.folder / "stuff/deep/link").symlink_to(goal)
    assert bench.problems() == [
        ("outside-project", "10:20", "machines[0].libvirt.libvirt_type.cloud_image.context")
    ]
    assert "stuff/deep/link" in bench.run("validate").err
    assert bench.run("generate").status == 2


def test_an_allowed_place_may_be_named(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "setup.sh").write_text("#!/bin/sh\n")
    bench = project(tmp_path, FILES % ("setup_script", "../shared/setup.sh"))
    assert [each[0] for each in bench.problems()] == ["outside-project"]
    assert "--allow-path" in bench.run("validate").err
    assert bench.run("validate", "--allow-path", str(shared)).status == 0
    assert bench.run("--allow-path", str(shared), "validate").status == 0
    assert bench.run("validate", KVM_COMPOSE_ALLOW_PATH=str(shared)).status == 0
    # what is beside the allowed place is not allowed
    (tmp_path / "shared-not").mkdir()
    assert bench.run("validate", "--allow-path", str(tmp_path / "shared-not")).status == 2


DISK = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        %s
network:
  bridges: [{name: br0}]
"""


def images(folder: Path) -> None:
    (folder / "short.qcow2").write_bytes(tiny_qcow2()[:50])
    (folder / "version.qcow2").write_bytes(b"QFI\xfb\0\0\0\x09" + bytes(200))
    (folder / "shadow.qcow2").write_bytes(tiny_qcow2(backing="/etc/shadow"))
    (folder / "up.qcow2").write_bytes(tiny_qcow2(backing="../../outside"))
    (folder / "missing.qcow2").write_bytes(tiny_qcow2(backing="nothing.raw"))
    (folder / "json.qcow2").write_bytes(
        tiny_qcow2(backing='json:{"driver":"raw","file.filename":"/etc/shadow"}')
    )
    (folder / "nbd.qcow2").write_bytes(tiny_qcow2(backing="nbd://192.0.2.1/x"))
    (folder / "data.qcow2").write_bytes(tiny_qcow2(data_file="/etc/shadow"))
    (folder / "beside.qcow2").write_bytes(tiny_qcow2(backing="disks/base.raw"))
    (folder / "linked.raw").symlink_to("/etc/shadow")
    (folder / "over-link.qcow2").write_bytes(tiny_qcow2(backing="linked.raw"))
    (folder / "over-shadow.qcow2").write_bytes(tiny_qcow2(backing="shadow.qcow2"))


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ("existing_disk: {path: away.img}", "missing-file"),
        ("existing_disk: {path: disks}", "bad-file"),
        ("existing_disk: {path: disks/base.raw, driver_type: qcow2}", "bad-image"),
        ("existing_disk: {path: disks/base.qcow2, driver_type: raw}", "bad-image"),
        ("existing_disk: {path: short.qcow2}", "bad-image"),
        ("existing_disk: {path: version.qcow2}", "bad-image"),
        ("existing_disk: {path: shadow.qcow2}", "bad-image"),
        ("existing_disk: {path: shadow.qcow2, create_deep_copy: true}", "bad-image"),
        ("existing_disk: {path: up.qcow2}", "bad-image"),
        ("existing_disk: {path: missing.qcow2}", "bad-image"),
        ("existing_disk: {path: json.qcow2}", "bad-image"),
        ("existing_disk: {path: nbd.qcow2}", "bad-image"),
        ("existing_disk: {path: data.qcow2}", "bad-image"),
        ("existing_disk: {path: over-link.qcow2}", "bad-image"),
        ("existing_disk: {path: over-shadow.qcow2}", "bad-image"),
        ("existing_disk: {path: disks/base.qcow2, device_type: cdrom}", "bad-image"),
        ("cloud_image: {path: shadow.qcow2}", "bad-image"),
        ("cloud_image: {path: away.qcow2}", "missing-file"),
        ("iso_guest: {path: away.iso}", "missing-file"),
        ("iso_guest: {path: shadow.qcow2}", "bad-image"),
        ("iso_guest: {path: disks}", "bad-file"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(section: str, code: str, tmp_path: Path) -> None:
    bench = project(tmp_path, DISK % section)
    images(bench.folder)
    (tmp_path / "outside").write_bytes(bytes(512))
    kind = section.partition(":")[0]
    column = 9 + section.index("path: ") + len("path: ")
    assert bench.problems() == [(code, f"8:{column}", f"machines[0].libvirt.libvirt_type.{kind}.path")]
    assert bench.run("generate").status == 2
    assert not (bench.folder / "artefacts").exists()


@pytest.mark.parametrize("copy", ["false", "true"])
def test_an_overlay_is_refused_with_a_way_to_make_it_whole(copy: str, tmp_path: Path) -> None:
    section = f"existing_disk: {{path: beside.qcow2, driver_type: qcow2, create_deep_copy: {copy}}}"
    bench = project(tmp_path, DISK % section)
    images(bench.folder)
    ran = bench.run("validate")
    assert ran.status == 2
    for words in ("overlay", "'disks/base.raw'", "qemu-img convert"):
        assert words in ran.err


TORN = """\
machines:
  - name: torn
    interfaces: [{bridge: br0}, {bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: whole
    interfaces: [{bridge: br0}, {bridge: br2}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}]
"""


def test_a_guest_torn_between_hosts_is_refused_with_a_strategy_that_works(tmp_path: Path) -> None:
    bench = project(tmp_path, TORN, CONFIG)
    assert bench.problems() == [("torn-guest", "2:5", "machines[0]")]
    (problem,) = bench.run("validate", "--json").json["problems"]
    for word in ("'torn'", "br0 on alpha", "br1 on beta"):
        assert word in problem["message"]
    assert "pack" in problem["hint"]
    bench.write("kvm-compose.yaml", f"{TORN}testbed_options: {{load_balancing: pack}}\n")
    assert bench.problems() == []


def test_pack_says_when_there_is_no_room(tmp_path: Path) -> None:
    config = edited(
        CONFIG,
        ('"192.0.2.11"', '"192.0.2.11", "memory_mb": 32'),
        ('"192.0.2.12"', '"192.0.2.12", "memory_mb": 32'),
    )
    bench = project(tmp_path, f"{BRIDGES}testbed_options: {{load_balancing: pack}}\n", config)
    assert [each[0] for each in bench.problems()] == ["no-room", "no-room"]


# --- how it is said -------------------------------------------------------------------------------------


def test_a_problem_is_one_line_that_an_editor_can_follow_and_a_hint(tmp_path: Path) -> None:
    bench = project(tmp_path, BRIDGES.replace("memory_mb: 64", "memory_mb: 2G", 1))
    ran = bench.run("validate")
    assert ran.status == 2
    assert ran.out == ""
    line, hint, summary = ran.err.splitlines()
    assert line.startswith(f"{bench.yaml}:7:18: machines[0].libvirt.memory_mb: error: ")
    assert "2G" in line
    assert "MiB" in hint
    assert summary == "1 problem"


@pytest.mark.parametrize(
    "command", ["generate", "plan", "list", "placement", "why", "info", "clean", "forget"]
)
def test_every_command_says_the_same_of_wrong_input(command: str, tmp_path: Path) -> None:
    bench = project(tmp_path, edited(BRIDGES, ("external_bridge: br0", "external_bridge: br7")))
    words = ("state",) if command in ("why", "info") else ()
    ran = bench.run(command, *words)
    assert ran.status == 2
    assert "kvm-compose.yaml:26:20: network.external_bridge: error:" in ran.err
    assert (
        sorted(
            path.name for path in bench.folder.iterdir() if path.name.startswith(("artef", "state", ".kvm"))
        )
        == []
    )


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    bench = project(tmp_path, BRIDGES)
    (bench.folder / "keys/id_ed25519").unlink()
    ran = bench.run("validate", "--json")
    assert ran.status == 0
    assert ran.json["valid"] is True
    assert [each["severity"] for each in ran.json["problems"]] == ["warning"]


def test_every_problem_says_what_it_is_in_words_of_its_own(tmp_path: Path) -> None:
    for number, (edits, _) in enumerate(BRIDGE_CASES.values()):
        bench = project(tmp_path / str(number), edited(BRIDGES, *edits))
        for problem in bench.run("validate", "--json").json["problems"]:
            assert len(problem["message"]) > 10
            assert "None" not in problem["message"]
            assert "schema" not in problem["message"]


def test_files_may_have_other_names(tmp_path: Path) -> None:
    bench = project(tmp_path, BRIDGES)
    bench.yaml.rename(bench.folder / "lab.yml")
    bench.config.rename(bench.folder / "hosts.json")
    assert bench.run("validate").status == 2
    words = ("--input", "lab.yml", "--config", "hosts.json")
    assert bench.run("validate", *words).status == 0
    assert bench.run(*words, "validate").status == 0
    assert bench.run("validate", KVM_COMPOSE_INPUT="lab.yml", KVM_COMPOSE_CONFIG="hosts.json").status == 0


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("validate", "--input", "away.yaml"), "away.yaml"),
        (("validate", "--config", "away.json"), "away.json"),
        (("validate", "--config", "."), "directory"),
        (("validate", "--project-name", "Not A Name"), "not-a-name"),
        (("validate", "--project-name", "x" * 42), "41"),
        (("validate", "-C", "/nonexistent"), "nonexistent"),
        (("validate", "-C", "/etc/hostname"), "hostname"),
        (("validate", "--input", "~no-such-user-here/x.yaml"), "no-such-user-here"),
        (("nonsense",), "nonsense"),
        (("generate", "--nonsense"), "--nonsense"),
        (("generate", "--jobs", "many"), "many"),
        (("generate", "-C"), "-C"),
        ((), "usage"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(words: tuple[str, ...], word: str, tmp_path: Path) -> None:
    ran = project(tmp_path, BRIDGES).spawn(*words)
    assert ran.status == 2
    assert "Traceback" not in ran.err
    assert word in ran.said


@pytest.mark.parametrize("verbose", ["1", "yes", "0", "", "²", "-3"])
def test_any_value_of_an_environment_variable_will_do(verbose: str, tmp_path: Path) -> None:
    bench = project(tmp_path, BRIDGES)
    ran = bench.run(
        "validate", KVM_COMPOSE_VERBOSE=verbose, KVM_COMPOSE_QUIET="no", KVM_COMPOSE_NO_COLOR=verbose
    )
    assert ran.status == 0


def test_a_failure_that_is_nobody_s_mistake_ends_with_status_1(bench: Bench) -> None:
    (bench.folder / "artefacts/server-domain.xml").mkdir(parents=True)
    assert bench.run("generate", "-k").status == 1


def test_a_missing_program_is_named_with_its_package(bench: Bench) -> None:
    empty = bench.root / "no-programs"
    empty.mkdir()
    ran = bench.run("generate", "-k", PATH=str(empty))
    assert ran.status in (1, 3)
    assert "qemu-img" in ran.err
    assert "qemu-utils" in ran.err
    # what needs no program is made all the same
    assert (bench.folder / "artefacts/server-domain.xml").exists()
    assert (bench.folder / "artefacts/server-cloud-init.iso").exists()


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_a_terminal_that_knows_only_ascii_gets_the_message_all_the_same(
    tmp_path: Path, locale: dict[str, str]
) -> None:
    bench = project(tmp_path, edited(BRIDGES, ("external_bridge: br0", "external_bridge: brücke")))
    ran = bench.spawn("validate", **locale)
    assert ran.status == 2
    assert "Traceback" not in ran.err
    assert "26:20" in ran.err


# --- other dialect parts --------------------------------------------------------------------------------


DOCKER = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker:
      image: nginx:stable
      %s
network:
  bridges: [{name: br0}]
"""


@pytest.mark.parametrize(
    ("section", "problems"),
    [
        ("env_file: setup.sh", []),
        ("env_file: away.env", [("missing-file", "6:17", "machines[0].docker.env_file")]),
        ("env_file: /etc/passwd", [("outside-project", "6:17", "machines[0].docker.env_file")]),
        ("volumes: [{source: '${PWD}/keys', target: /keys}]", []),
        ("volumes: [{source: $PWD, target: /all}]", []),
        ("volumes: [{source: ./disks/, target: /all}]", []),
        (
            "volumes: [{source: '${PWD}/../..', target: /x}]",
            [("outside-project", "6:26", "machines[0].docker.volumes[0].source")],
        ),
        (
            "volumes: [{source: /var/run/docker.sock, target: /x}]",
            [("outside-project", "6:26", "machines[0].docker.volumes[0].source")],
        ),
        (
            "volumes: [{source: nothing, target: /x}]",
            [("missing-file", "6:26", "machines[0].docker.volumes[0].source")],
        ),
        (
            "scaling: {count: 1, interfaces: [{bridge: br0, clones: [0]}]}",
            [("scaling-with-interfaces", "3:5", "machines[0].interfaces")],
        ),
    ],
)
def test_docker_guests_are_checked(section: str, problems: Found, tmp_path: Path) -> None:
    assert sorted(project(tmp_path, DOCKER % section).problems()) == sorted(problems)


@pytest.mark.parametrize(
    "case", ["base-one-host", "clones-three-hosts", "disks", "metacharacters", "addresses"]
)
def test_golden_projects_are_right(case: str, tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, case)
    assert {each["severity"] for each in bench.run("validate", "--json").json["problems"]} <= {"warning"}


@pytest.fixture
def placed(golden: Callable[[str], Bench]) -> Any:
    return golden("base-three-hosts").run("placement", "--json").json


def test_placement_says_where_everything_goes_and_why(placed: Any) -> None:
    assert {name: row["host"] for name, row in placed["bridges"].items()} == {
        "br0": "testbed-host-two",  # the external bridge, on the main host
        "br1": "testbed-host-two",
        "br2": "testbed-host-three",
    }
    assert placed["guests"]["nginx"]["host"] == "testbed-host-two"
    assert placed["tunnels"] == [["br1", "br2"]]
    assert all(row["reason"] for row in [*placed["bridges"].values(), *placed["guests"].values()])


def test_no_config_is_a_config_of_this_machine(tmp_path: Path) -> None:
    bench = project(tmp_path, BRIDGES)
    bench.config.unlink()
    ran = bench.run("placement", "--json")
    assert ran.status == 0, ran.err
    assert {row["host"] for row in ran.json["guests"].values()} == {"main"}


def test_the_schema_is_json(bench: Bench) -> None:
    for words in ((), ("--of", "config")):
        assert json.loads(bench.run("schema", *words).out)["type"] == "object"


def test_a_yaml_with_the_other_suffix_is_named(bench: Bench) -> None:
    (bench.folder / "kvm-compose.yaml").rename(bench.folder / "kvm-compose.yml")
    ran = bench.run("validate")
    assert ran.status == 2
    assert "hint: rename kvm-compose.yml, or read it with --input kvm-compose.yml" in ran.err
    assert bench.run("--input", "kvm-compose.yml", "validate").status == 0
