"""Shaping nodes by the schemas: types, problems and their words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from kvmcompose.core.errors import InputError
from kvmcompose.pipeline.config import parse_hosts
from kvmcompose.pipeline.read import read_json, read_yaml
from kvmcompose.pipeline.shape import Schema, Schemas, complete_schema, shape_config, shape_testbed
from random_cases import cases

if TYPE_CHECKING:
    from kvmcompose.core.errors import Problem

FOLDER = Path(__file__).parents[3] / "schemas"
FILES = {
    path.relative_to(FOLDER).as_posix(): json.loads(path.read_text(encoding="utf-8"))
    for path in FOLDER.rglob("*.json")
}
SCHEMAS = Schemas(FILES)

EVERYTHING = """
machines:
  - name: server
    labels: {role: web, example.com/tier: 1}
    interfaces:
      - bridge: br0
      - {bridge: br1, mac: 52:54:00:12:34:56, ip: 10.0.0.2}
      - {bridge: br1, ip: dynamic}
    libvirt:
      cpus: 1
      memory_mb: 512
      username: nocloud
      libvirt_type:
        cloud_image:
          name: debian_12
          expand_gigabytes: 2
          context: ./some-folder
          environment: {KEY: value, PORT: 8080, DEBUG: on}
          setup_script: ./setup.sh
          run_script: ./run.sh
  - name: disk
    libvirt:
      cpus: 2
      memory_mb: 32
      libvirt_type:
        existing_disk:
          {path: d.qcow2, driver_type: qcow2, device_type: disk, readonly: false, create_deep_copy: true}
      scaling:
        count: 3
        shared_setup: shared.sh
        interfaces: [{bridge: br0, clones: [0, 1]}, {bridge: br1, clones: [2]}]
        clone_setup: [{script: clone.sh, clones: [0, 1, 2]}]
        clone_run: [{script: run.sh, clones: [2]}]
  - name: installer
    libvirt: {cpus: 1, memory_mb: 512, libvirt_type: {iso_guest: {path: i.iso, expand_gigabytes: 10}}}
  - name: nginx
    interfaces: [{bridge: br0}]
    docker:
      image: nginx:stable
      command: run
      entrypoint: /entry
      environment: {A: b}
      env_file: e.env
      volumes: [{source: "${PWD}/html", target: /html}]
      privileged: true
      user: 1000:1000
      device: [/dev/net/tun]
      scaling: {count: 1, interfaces: [{bridge: br0, clones: [0]}]}
network:
  bridges: [{name: br0, protocol: OpenFlow13, controller: "tcp:127.0.0.1:6653"}, {name: br1}, {name: br2}]
  bridge_connections: {br0: br1, br1: br2}
  external_bridge: br0
  network_interfaces: [{nic_name: eth1, testbed_bridge: br0, testbed_host: main}]
tooling:
testbed_options:
  load_balancing: round_robin
"""

MACHINE = """\
machines:
- name: a
  libvirt:
    cpus: 1
    memory_mb: 512
    libvirt_type: {iso_guest: {path: x}}
"""

CONFIG = {
    "testbed_host_ssh_config": {
        "testbed-host-one": {
            "ip": "192.0.2.11",
            "user": "nocloud",
            "identity_file": "~/.ssh/id_ed25519",
            "testbed_nic": "enp1s0",
            "main_interface": "enp2s0",
            "is_main_host": True,
            "virt_type": "auto",
            "datapath_type": "netdev",
            "libvirt_uri": "qemu:///system",
            "cpus": 64,
            "memory_mb": 262144,
        },
        "two": {"hostname": "two.example.org"},
    },
    "ssh_public_key_location": "k.pub",
    "ssh_private_key_location": "k",
}


def shaped(text: str, schemas: Schemas = SCHEMAS) -> dict[str, Any]:
    value, problems = shape_testbed(read_yaml(text.encode(), "kvm-compose.yaml"), schemas)
    assert problems == ()
    return value


def problems_of(text: str, schemas: Schemas = SCHEMAS) -> tuple[Problem, ...]:
    return shape_testbed(read_yaml(text.encode(), "kvm-compose.yaml"), schemas)[1]


def problem_of(text: str, schemas: Schemas = SCHEMAS) -> Problem:
    [problem] = problems_of(text, schemas)
    return problem


def in_libvirt(text: str) -> str:
    """A machine whose libvirt section has one line changed or added."""
    key = text.partition(":")[0]
    kept = (line for line in MACHINE.splitlines() if not line.strip().startswith(f"{key}:"))
    return "\n".join([*kept, f"    {text}", ""])


def in_docker(text: str) -> str:
    return f"machines:\n- name: a\n  docker:\n    image: x\n    {text}\n"


def in_image(text: str) -> str:
    return in_libvirt(f"libvirt_type: {{cloud_image: {{name: debian_12, {text}}}}}")


def in_network(text: str) -> str:
    return f"{MACHINE}network:\n  {text}\n"


def of_config(value: Any) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    return shape_config(read_json(json.dumps(value).encode(), "kvm-compose-config.json"), SCHEMAS)


# Types come from the schema


def test_the_whole_dialect_is_read() -> None:
    value = shaped(EVERYTHING)
    server, disk, installer, nginx = value["machines"]
    assert server["interfaces"][1] == {"bridge": "br1", "mac": "52:54:00:12:34:56", "ip": "10.0.0.2"}
    assert server["libvirt"]["libvirt_type"]["cloud_image"]["environment"] == {
        "KEY": "value",
        "PORT": "8080",
        "DEBUG": "on",
    }
    assert disk["libvirt"]["scaling"]["clone_run"] == [{"script": "run.sh", "clones": [2]}]
    assert disk["libvirt"]["libvirt_type"]["existing_disk"]["create_deep_copy"] is True
    assert installer["libvirt"]["libvirt_type"] == {"iso_guest": {"path": "i.iso", "expand_gigabytes": 10}}
    assert nginx["docker"]["user"] == "1000:1000"
    assert value["network"]["bridge_connections"] == {"br0": "br1", "br1": "br2"}
    assert value["tooling"] == {}


@pytest.mark.parametrize(
    "text",
    [
        "52:54:00:12:34:56",
        "on",
        "yes",
        "010",
        "0x10",
        "1e3",
        "1_000",
        "2020-01-01",
        "12:30:45",
        "true",
        "-.inf",
        "<<",
    ],
)
def test_where_text_is_wanted_a_plain_scalar_keeps_its_text(text: str) -> None:
    value = shaped(in_image(f"environment: {{KEY: {text}}}"))
    assert value["machines"][0]["libvirt"]["libvirt_type"]["cloud_image"]["environment"] == {"KEY": text}


def test_a_machine_may_be_called_on() -> None:
    assert shaped(MACHINE.replace("name: a", "name: on"))["machines"][0]["name"] == "on"


def test_environment_values_may_be_empty_text_in_quotes() -> None:
    assert shaped(in_docker("environment: {A: ''}"))["machines"][0]["docker"]["environment"] == {"A": ""}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("TRUE", True), ("false", False)]
)
def test_booleans(text: str, value: bool) -> None:
    assert shaped(in_docker(f"privileged: {text}"))["machines"][0]["docker"]["privileged"] is value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("yes", "write true"),
        ("on", "write true"),
        ("No", "write false"),
        ("OFF", "write false"),
        ("'true'", "drop the quotes: true"),
        ("1", None),
    ],
)
def test_what_is_not_quite_a_boolean(text: str, hint: str | None) -> None:
    problem = problem_of(in_docker(f"privileged: {text}"))
    assert (problem.code, problem.wanted, problem.hint) == ("wrong-type", "true or false", hint)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("010", "write 10"),
        ("+5", "write 5"),
        ("0x10", "write 16"),
        ("0o10", "write 8"),
        ("0b11", "write 3"),
        ("1_0", "write 10"),
        ("1e2", "write 100"),
        ("2.0", "write 2"),
        ("'2'", "drop the quotes: 2"),
        ("'two'", None),
        ("two", None),
        ("1.5", None),
        ("1:30", None),
        ("~", None),
        ("", None),
        ("[1]", None),
        ("9" * 5000, None),
    ],
)
def test_what_is_not_quite_an_integer(text: str, hint: str | None) -> None:
    problem = problem_of(in_libvirt(f"cpus: {text}"))
    assert (problem.code, problem.wanted) == ("wrong-type", "a whole number from 1 to 512")
    assert problem.hint == hint


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null", "NULL"])
def test_an_empty_section_is_an_empty_mapping_or_list(nothing: str) -> None:
    value = shaped(f"{MACHINE}  interfaces: {nothing}\ntooling: {nothing}\nnetwork: {nothing}\n")
    assert (value["machines"][0]["interfaces"], value["tooling"], value["network"]) == ([], {}, {})


def test_connections_may_be_a_list_of_pairs() -> None:
    value = shaped(in_network("bridge_connections: [[br0, br1], [br0, br2]]"))
    assert value["network"]["bridge_connections"] == [["br0", "br1"], ["br0", "br2"]]


def test_what_is_wrong_is_kept_as_it_was_written() -> None:
    text = in_libvirt("cpus: 0x10")
    value, problems = shape_testbed(read_yaml(text.encode(), "kvm-compose.yaml"), SCHEMAS)
    assert problems
    assert value["machines"][0]["libvirt"]["cpus"] == "0x10"
    assert value["machines"][0]["libvirt"]["memory_mb"] == 512


# Problems and their words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            in_libvirt("memory_mb: 2G"),
            (
                "kvm-compose.yaml:6:16: machines[0].libvirt.memory_mb: error: the wrong type of value "
                "(found 2G, wanted a whole number of MiB from 1 to 4194304) [wrong-type]\n"
                "    hint: write the number of MiB without a unit: 2048 for 2 GiB"
            ),
        ),
        (
            in_libvirt("cpus: 0"),
            (
                "kvm-compose.yaml:6:11: machines[0].libvirt.cpus: error: out of range "
                "(found 0, wanted a whole number from 1 to 512) [out-of-range]"
            ),
        ),
        (
            MACHINE.replace("name: a", "name: Web_Server"),
            (
                "kvm-compose.yaml:2:9: machines[0].name: error: not a valid name "
                "(found Web_Server, wanted at most 63 lower-case letters, digits and '-', "
                "starting with a letter and not ending with '-') [bad-name]\n"
                "    hint: write 'web-server'"
            ),
        ),
        (
            MACHINE + "  memory_mb: 5\n",
            (
                "kvm-compose.yaml:7:3: machines[0].memory_mb: error: unknown key 'memory_mb' [unknown-key]\n"
                "    hint: it belongs under 'docker' or 'libvirt'"
            ),
        ),
        (
            in_image("environment: {KEY: ~}"),
            (
                "kvm-compose.yaml:6:70: machines[0].libvirt.libvirt_type.cloud_image.environment.KEY: error: "
                "the value is missing (found nothing, wanted text) [wrong-type]\n"
                '    hint: quote it if text is meant: "~"'
            ),
        ),
        (
            MACHINE.replace("    cpus: 1\n", ""),
            (
                "kvm-compose.yaml:4:5: machines[0].libvirt: error: the key 'cpus' is missing "
                "(wanted a whole number from 1 to 512) [missing-key]"
            ),
        ),
        (
            MACHINE + "  docker: {image: x}\n",
            (
                "kvm-compose.yaml:7:3: machines[0]: error: a machine can have only one guest type "
                "(found libvirt and docker, wanted exactly one of docker and libvirt) [too-many-kinds]"
            ),
        ),
        (
            "machines:\n- name: a\n",
            (
                "kvm-compose.yaml:2:3: machines[0]: error: the machine is of no kind "
                "(wanted exactly one of docker and libvirt) [no-kind]"
            ),
        ),
        (
            in_network("ovs: {}"),
            (
                "kvm-compose.yaml:8:3: network.ovs: error: "
                "networks of the dialect 'ovs' are not supported yet (wanted bridges or ovn) "
                "[unsupported-dialect]\n"
                "    hint: use 'bridges' for bridges of Open vSwitch, or 'ovn' for logical switches"
            ),
        ),
        (
            in_network("ovn: {switches: {}}").replace("interfaces: [{bridge: br0}]", ""),
            (
                "kvm-compose.yaml:8:19: network.ovn.switches: error: there is no logical switch "
                "(found nothing, wanted at least one switch, such as sw0: {subnet: 10.0.0.0/24}) [too-few]"
            ),
        ),
        (
            "machines: []\n",
            (
                "kvm-compose.yaml:1:11: machines: error: the testbed has no machines "
                "(found an empty list, wanted a list of at least one machine) [no-machines]\n"
                "    hint: a testbed needs at least one machine"
            ),
        ),
        (
            in_libvirt("libvirt_type: {existing_disk: {path: x, driver_type: qcow}}"),
            (
                "kvm-compose.yaml:6:58: machines[0].libvirt.libvirt_type.existing_disk.driver_type: error: "
                "not one of the choices (found qcow, wanted raw or qcow2) [bad-value]\n"
                "    hint: did you mean 'qcow2'?"
            ),
        ),
    ],
)
def test_messages(text: str, message: str) -> None:
    assert str(problem_of(text)) == message


def test_all_that_keeps_a_file_for_another_dialect_from_being_read_is_reported() -> None:
    text = in_network("ovs: {switches: {}}").replace(
        "- name: a\n", "- name: a\n  network: [{switch: sw0}]\n", 1
    )
    found = problems_of(text)
    assert [(each.code, each.path) for each in found] == [
        ("unknown-key", "machines[0].network"),
        ("unsupported-dialect", "network.ovs"),
    ]


def test_no_main_host_may_be_written_as_null() -> None:
    value, problems = of_config({"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": None}}})
    assert problems == ()
    assert [host.is_main_host for host in parse_hosts(value)] == [False]


@pytest.mark.parametrize(
    ("text", "code", "path"),
    [
        ("", "missing-key", ""),
        ("machines:", "no-machines", "machines"),
        ("- a", "wrong-type", ""),
        ("text", "wrong-type", ""),
        ("machines: a", "wrong-type", "machines"),
        ("machines: [a]", "wrong-type", "machines[0]"),
        (MACHINE + "network: [br0]", "wrong-type", "network"),
        (MACHINE + "tooling: {x: 1}", "unknown-key", "tooling.x"),
        (MACHINE + "testbed_options: {load_balancing: ''}", "empty-value", "testbed_options.load_balancing"),
        (MACHINE.replace("name: a", "name: " + "a" * 64), "bad-name", "machines[0].name"),
        (MACHINE.replace("name: a", 'name: "a\\n"'), "bad-name", "machines[0].name"),
        (MACHINE.replace("name: a", "name: 1a"), "bad-name", "machines[0].name"),
        (MACHINE.replace("name: a", "name: a-"), "bad-name", "machines[0].name"),
        (in_libvirt("memory_mb: 4194305"), "out-of-range", "machines[0].libvirt.memory_mb"),
        (in_libvirt("username: Root"), "bad-name", "machines[0].libvirt.username"),
        (in_libvirt("libvirt_type:"), "no-kind", "machines[0].libvirt.libvirt_type"),
        (
            in_libvirt("libvirt_type: {iso_guest: {path: x}, existing_disk: {path: x}}"),
            "too-many-kinds",
            "machines[0].libvirt.libvirt_type.existing_disk",
        ),
        (
            in_libvirt("libvirt_type: {iso-guest: {path: x}}"),
            "unknown-key",
            "machines[0].libvirt.libvirt_type.iso-guest",
        ),
        (
            in_libvirt("libvirt_type: {cloud_image: {}}"),
            "missing-key",
            "machines[0].libvirt.libvirt_type.cloud_image",
        ),
        (in_image("path: x"), "too-many-keys", "machines[0].libvirt.libvirt_type.cloud_image.path"),
        (
            in_image("expand_gigabytes: 65537"),
            "out-of-range",
            "machines[0].libvirt.libvirt_type.cloud_image.expand_gigabytes",
        ),
        (
            in_image("environment: {a-b: x}"),
            "bad-name",
            "machines[0].libvirt.libvirt_type.cloud_image.environment.a-b",
        ),
        (in_libvirt("scaling: {count: 2}"), "not-allowed", "machines[0].libvirt.libvirt_type.iso_guest"),
        (in_docker("scaling: {count: 0}"), "out-of-range", "machines[0].docker.scaling.count"),
        (in_docker("scaling: {count: 10001}"), "out-of-range", "machines[0].docker.scaling.count"),
        (
            in_docker("scaling: {count: 1, interfaces: [{bridge: a, clones: []}]}"),
            "too-few",
            "machines[0].docker.scaling.interfaces[0].clones",
        ),
        (in_docker("device: /dev/tun"), "wrong-type", "machines[0].docker.device"),
        (in_docker("command: ''"), "empty-value", "machines[0].docker.command"),
        (in_docker("volumes: [{source: a}]"), "missing-key", "machines[0].docker.volumes[0]"),
        (MACHINE + "  interfaces: [{bridge: a, mac: 52-54}]", "bad-value", "machines[0].interfaces[0].mac"),
        (
            in_network("bridges: [{name: a, protocol: OpenFlow16}]"),
            "bad-value",
            "network.bridges[0].protocol",
        ),
        (
            in_network("bridges: [{name: a, controller: 'tcp:'}]"),
            "bad-value",
            "network.bridges[0].controller",
        ),
        (in_network("bridge_connections: [[a]]"), "too-few", "network.bridge_connections[0]"),
        (in_network("bridge_connections: [[a, b, c]]"), "too-many", "network.bridge_connections[0]"),
        (in_network("bridge_connections: {A: b}"), "bad-name", "network.bridge_connections.A"),
        (in_network("bridge_connections: a"), "wrong-type", "network.bridge_connections"),
    ],
)
def test_each_problem_has_a_code_and_a_path(text: str, code: str, path: str) -> None:
    problem = problem_of(text)
    assert (problem.code, problem.path) == (code, path)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (in_libvirt("memory_mbs: 1"), "did you mean 'memory_mb'?"),
        (in_docker("Command: x"), "did you mean 'command'?"),
        (in_docker("scaling: {count: 1, counts: 1}"), "did you mean 'count'?"),
        (in_libvirt("libvirt_type: {iso-guest: {path: x}}"), "did you mean 'iso_guest'?"),
        (in_image("expand_gigabyte: 1"), "did you mean 'expand_gigabytes'?"),
        (
            in_libvirt("image: nginx"),
            "write libvirt_type: {cloud_image: {name: debian_12}}; a container has 'image' under 'docker'",
        ),
        (in_libvirt("entrypoint: x"), "it belongs under 'machines[].docker'"),
        (in_libvirt("environment: {}"), "it belongs under 'libvirt_type.cloud_image'"),
        (in_image("cpus: 1"), "it belongs 2 levels up, beside 'libvirt_type'"),
        (in_docker("interfaces: []"), "it belongs under 'scaling'"),
        (MACHINE + "bridges: []", "it belongs under 'network'"),
        (MACHINE + "scaling: {}", "it belongs under 'machines[].docker' or 'machines[].libvirt'"),
        (MACHINE + "bogus: {}", "known here: machines, defaults, network, expect, tooling, testbed_options"),
        (MACHINE + "tooling: {x: 1}", None),
        (in_libvirt("password: x"), "guests accept SSH keys only"),
        ("machines: [{name: a, avd: {}}]", "Android guests are not supported"),
        ("machines: [{name: a, android: }]", "Android guests are not supported"),
        ("machines: [{name: a, libvrt: {}}]", "did you mean 'libvirt'?"),
        (
            MACHINE + "  network: []",
            "with bridges, a machine has 'interfaces': [{bridge: br0}]; 'network' belongs to networks of OVN",
        ),
        (
            MACHINE + "  interfaces: [{bridge: a, switch: b}]",
            "switches belong to networks of OVN; name a 'bridge'",
        ),
        (
            in_network("{ovn: {}, bridges: []}"),
            "a network has either bridges or 'ovn'",
        ),
        (in_network("{switches: {}}"), "logical switches belong under 'ovn': network: {ovn: {switches: …}}"),
        (
            in_docker("restart: always"),
            "'kvm-compose up' starts a container that has ended; its engine does not",
        ),
        (
            MACHINE + "services: {}",
            "write them as machines: [{name: web, interfaces: [{bridge: br0}], docker: {image: nginx}}]",
        ),
    ],
)
def test_an_unknown_key_gets_a_way_out(text: str, hint: str | None) -> None:
    problem = problem_of(text)
    assert (problem.code, problem.hint) == ("unknown-key", hint)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("environment: ['A=b']", "wrong-type", "write NAME: value, without '-' and '='"),
        (
            "volumes: ['./html:/data:ro']",
            "wrong-type",
            "write {source: html, target: /data, read_only: true}",
        ),
        ("capabilities: [NET_ADMN]", "bad-value", None),
    ],
)
def test_what_docker_compose_writes_otherwise_gets_a_way_out(text: str, code: str, hint: str | None) -> None:
    problem = problem_of(in_docker(text))
    assert (problem.code, problem.hint) == (code, hint)


@pytest.mark.parametrize("name", ["NET_ADMIN", "CAP_NET_ADMIN", "ALL", "CHECKPOINT_RESTORE"])
def test_capabilities_are_those_of_linux(name: str) -> None:
    assert not problems_of(in_docker(f"capabilities: [{name}]"))


def test_of_many_unknown_keys_the_first_hundred_get_a_hint() -> None:
    found = problems_of(MACHINE + "".join(f"key_{number}: x\n" for number in range(300)))
    assert {each.code for each in found} == {"unknown-key"}
    assert [each.hint is not None for each in found] == [True] * 100 + [False] * 200


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (in_network("bridges: [{name: br_0}]"), "write 'br-0'"),
        (in_network("bridges: [{name: a, protocol: 'openflow10'}]"), None),
        (
            in_network("bridges: [{name: a, protocol: 'OpenFlow10, OpenFlow13'}]"),
            "write 'OpenFlow10,OpenFlow13'",
        ),
        (in_image("environment: {MY-KEY: x}"), "write 'MY_KEY'"),
        (
            MACHINE + "  interfaces: [bridge:br0]",
            "a space belongs after the ':': bridge: br0",
        ),
        (
            MACHINE + "  interfaces: {bridge: br0}",
            "write a list: [first, second], or one item on each line after '- '",
        ),
    ],
)
def test_a_wrong_value_gets_a_way_out(text: str, hint: str | None) -> None:
    assert problem_of(text).hint == hint


def test_all_problems_come_at_once_sorted_by_place() -> None:
    text = "scaling: 1\n" + in_libvirt("cpus: no").replace("name: a", "name: A") + "tooling: 5\n"
    found = problems_of(text)
    assert [each.code for each in found] == ["unknown-key", "bad-name", "wrong-type", "wrong-type"]
    assert list(found) == sorted(found, key=lambda each: each.location)


def test_of_a_machine_of_two_kinds_both_are_checked() -> None:
    found = problems_of(in_libvirt("cpus: 0") + "  docker: {}\n")
    assert [each.code for each in found] == ["out-of-range", "too-many-kinds", "missing-key"]


def test_a_problem_in_a_shared_value_is_reported_at_its_anchor() -> None:
    text = (
        MACHINE.replace("libvirt:", "libvirt: &same").replace("cpus: 1", "cpus: 0")
        + "- {name: b, libvirt: *same}\n"
    )
    assert {str(each.location) for each in problems_of(text)} == {"kvm-compose.yaml:4:11"}


# The file of testbed hosts


def test_the_whole_config_is_read() -> None:
    assert of_config(CONFIG) == (CONFIG, ())


@pytest.mark.parametrize(
    ("host", "code", "hint"),
    [
        ({}, "missing-key", None),
        ({"ip": "a", "hostname": "b"}, "too-many-keys", None),
        ({"ip": "a", "is_master_host": True}, "unknown-key", "this key is now called 'is_main_host'"),
        ({"ip": "a", "is_main_host": "true"}, "wrong-type", "drop the quotes: true"),
        ({"ip": "a", "virt_type": "KVM"}, "bad-value", "did you mean 'kvm'?"),
        ({"ip": "a", "cpus": 0}, "out-of-range", None),
        ({"ip": "a", "testbed_nic": "a b"}, "bad-value", None),
        ({"ip": None}, "wrong-type", 'quote it if text is meant: "null"'),
    ],
)
def test_a_wrong_host(host: dict[str, Any], code: str, hint: str | None) -> None:
    [problem] = of_config({"testbed_host_ssh_config": {"one": host}})[1]
    assert (problem.code, problem.hint) == (code, hint)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, "missing-key"),
        ([], "wrong-type"),
        ({"testbed_host_ssh_config": {}}, "no-hosts"),
        ({"ip": "192.0.2.1", "user": "me", "is_main_host": None, "ovn": {"bridge": "br-int"}}, "missing-key"),
        ({"testbed_host_ssh_config": {"a b": {"ip": "x"}}}, "bad-name"),
        ({"testbed_host_ssh_config": {"a": {"ip": "x"}}, "ssh_public_key": "x"}, "unknown-key"),
    ],
)
def test_a_wrong_config(value: Any, code: str) -> None:
    [problem] = of_config(value)[1]
    assert problem.code == code


def test_a_host_json_of_testbedos_is_answered_once_with_what_it_needs() -> None:
    [problem] = of_config({"ip": "192.0.2.1", "ovn": {}})[1]
    assert problem.hint is not None
    for said in (
        '{"testbed_host_ssh_config": {"NAME": …}}',
        '"is_main_host": true',
        "Migrate from TestbedOS",
    ):
        assert said in problem.hint


# A kind of guest or a network dialect is one file more


def test_a_new_kind_of_guest_is_one_file_more() -> None:
    unikernel: Schema = {
        "type": "object",
        "properties": {
            "image": {"type": "string", "description": "x"},
            "ram": {"type": "number", "minimum": 0.5, "description": "x"},
        },
        "required": ["image"],
        "additionalProperties": False,
    }
    schemas = Schemas(FILES | {"guests/unikernel.json": unikernel})
    value = shaped("machines: [{name: a, unikernel: {image: 0x5, ram: 1.5}}]", schemas)
    assert value["machines"][0]["unikernel"] == {"image": "0x5", "ram": 1.5}
    assert problem_of("machines: [{name: a, unikernel: {}}]", schemas).path == "machines[0].unikernel"
    assert (
        problem_of("machines: [{name: a}]", schemas).wanted == "exactly one of docker, libvirt and unikernel"
    )
    assert problem_of("machines: [{name: a, unikernel: {image: a}}]").code == "unknown-key"


FABRIC: Schema = {
    "type": "object",
    "properties": {"fabric": {"type": "object", "properties": {"switches": {"type": "object"}}}},
    "required": ["fabric"],
    "additionalProperties": False,
    "$defs": {
        "machine_keys": {
            "properties": {"network": {"type": "array", "items": {"type": "object", "required": ["switch"]}}}
        },
        "scaling_interfaces": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"switch": {"type": "string"}, "vlan": {"type": "integer"}},
                "required": ["switch"],
                "additionalProperties": False,
            },
        },
    },
}
WITH_FABRIC = Schemas(FILES | {"networks/fabric.json": FABRIC})


def test_a_new_network_dialect_is_one_file_more() -> None:
    text = in_docker("scaling: {count: 1, interfaces: [{switch: 010, vlan: 5}]}") + "network: {fabric: {}}\n"
    value = shaped(text.replace("name: a", "name: a\n  network: [{switch: sw0}]"), WITH_FABRIC)
    assert value["machines"][0]["docker"]["scaling"]["interfaces"] == [{"switch": "010", "vlan": 5}]
    shaped(EVERYTHING, WITH_FABRIC)


def test_a_dialect_brings_the_keys_of_its_machines() -> None:
    found = problems_of(
        MACHINE + "  interfaces: [{bridge: a}]\n  network: [{}]\nnetwork: {fabric: {}}\n", WITH_FABRIC
    )
    assert [each.path for each in found] == ["machines[0].interfaces", "machines[0].network[0]"]


# The schema for editors


def is_valid(value: Any, schemas: Schemas = SCHEMAS) -> bool:
    return Draft202012Validator(complete_schema(schemas)).is_valid(value)


def test_the_complete_schema_stands_alone() -> None:
    for schemas in (SCHEMAS, WITH_FABRIC):
        schema = complete_schema(schemas)
        Draft202012Validator.check_schema(schema)
        text = json.dumps(schema)
        assert '"x-' not in text
        assert {"bridges-machine", "bridges-network", "bridges-libvirt", "bridges-docker"} <= schema[
            "$defs"
        ].keys()


def test_the_complete_schema_takes_what_we_take() -> None:
    assert is_valid(shaped(EVERYTHING))
    assert is_valid(shaped(EVERYTHING), WITH_FABRIC)
    fabric = {
        "machines": [{"name": "a", "network": [{"switch": "s"}], "docker": {"image": "x"}}],
        "network": {"fabric": {}},
    }
    assert is_valid(fabric, WITH_FABRIC)
    assert not is_valid(fabric)


def test_the_complete_schema_wants_exactly_one_kind() -> None:
    docker = {"image": "x"}
    assert is_valid({"machines": [{"name": "a", "docker": docker}]})
    assert not is_valid({"machines": [{"name": "a"}]})
    assert not is_valid({"machines": [{"name": "a", "docker": docker, "libvirt": {}}]})


def objects(schema: Any, where: str) -> list[tuple[str, Schema]]:
    """Every part of a schema file that describes an object, by the way to it."""
    if isinstance(schema, list):
        return [found for each in schema for found in objects(each, where)]
    if not isinstance(schema, dict):
        return []
    own = [(where, schema)] if schema.get("type") == "object" else []
    return own + [found for key, each in schema.items() for found in objects(each, f"{where}/{key}")]


@pytest.mark.parametrize("name", sorted(FILES))
def test_schema_files_are_sound(name: str) -> None:
    Draft202012Validator.check_schema(FILES[name])
    for where, schema in objects(FILES[name], name):
        if where != "kvm-compose.json/properties/network":  # its keys are the dialect's
            assert "additionalProperties" in schema, where
        for key, each in schema.get("properties", {}).items():
            reference = each.get("$ref", "")
            described = "description" in each or "/$defs/" in reference
            assert described, f"{where}/{key}"
    for keyword in ("patternProperties", "prefixItems"):
        assert f'"{keyword}"' not in json.dumps(FILES[name])


def undescribed(schema: Schema, where: str) -> list[str]:
    missing = []
    for key, each in schema.get("properties", {}).items():
        path = f"{where}.{key}"
        missing += ([] if each.get("description") else [path]) + undescribed(each, path)
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            missing += undescribed(inner, f"{where}[]")
    return missing


def test_every_key_is_described() -> None:
    assert undescribed(SCHEMAS.testbed("bridges"), "") == []
    assert undescribed(SCHEMAS.config(), "") == []


# For any input

WORDS = st.sampled_from(
    ["a", "br0", "A_b", "", "1", "010", "on", "~", "libvirt", "docker", "name", "ovn", "x" * 70]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 10**7)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
VALID = shaped(EVERYTHING)


def containers(value: Any) -> list[Any]:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict | list) and value else []
    return own + [found for each in below for found in containers(each)]


@st.composite
def mutants(draw: st.DrawFn, base: Any) -> Any:
    """The base with a few values replaced, removed or added anywhere."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        target = draw(st.sampled_from(containers(value)))
        if isinstance(target, list):
            target[draw(st.integers(0, len(target) - 1))] = draw(VALUES)
            continue
        key = draw(st.sampled_from(sorted(target)))
        match draw(st.sampled_from(["replace", "remove", "add", "move"])):
            case "replace":
                target[key] = draw(VALUES)
            case "remove":
                del target[key]
            case "add":
                target[draw(WORDS)] = draw(VALUES)
            case "move":
                draw(st.sampled_from([each for each in containers(value) if isinstance(each, dict)]))[key] = 1
        if not containers(value):
            break
    return value


def assert_inside(problems: tuple[Problem, ...], text: str) -> None:
    lines = text.split("\n")
    for problem in problems:
        assert 1 <= problem.location.line <= len(lines)
        assert 1 <= problem.location.column <= len(lines[problem.location.line - 1]) + 1
        assert problem.message
        assert "\n" not in problem.message


@cases(200)
@given(mutants(VALID))
def test_problems_lie_in_the_file_and_agree_with_the_complete_schema(value: Any) -> None:
    text = json.dumps(value, indent=1)
    found, problems = shape_testbed(read_json(text.encode(), "x.json"), SCHEMAS)
    assert_inside(problems, text)
    assert isinstance(found, dict)
    if isinstance(value, dict):
        assert is_valid(found) == (not problems)


@cases(50)
@given(mutants(CONFIG))
def test_problems_of_a_config_lie_in_the_file(value: Any) -> None:
    text = json.dumps(value, indent=1)
    found, problems = shape_config(read_json(text.encode(), "x.json"), SCHEMAS)
    assert_inside(problems, text)
    if isinstance(value, dict):
        assert Draft202012Validator(SCHEMAS.config()).is_valid(found) == (not problems)


SNIPPETS = st.sampled_from(
    ["\n", " ", "- ", ": ", "{", "}", "[", "]", "&a ", "*a", "<<: *a\n", "'", "~", "#", "010", "on"]
)


@cases(200)
@given(
    st.lists(st.tuples(st.integers(0, len(EVERYTHING)), st.integers(0, 12), SNIPPETS), min_size=1, max_size=4)
)
def test_of_mutilated_yaml_every_problem_lies_in_the_file(cuts: list[tuple[int, int, str]]) -> None:
    text = EVERYTHING
    for start, length, snippet in cuts:
        text = text[:start] + snippet + text[start + length :]
    try:
        document = read_yaml(text.encode(), "x.yaml")
    except InputError:
        return
    assert_inside(shape_testbed(document, SCHEMAS)[1], text)


def test_a_mapping_of_cloud_inits_has_the_types_of_yaml_1_1() -> None:
    """As PyYAML reads it in the guest; what JSON cannot say stays text."""
    text = """
a: yes
b: 010
c: 1.5
d: 2026-01-02
e: "on"
f: ~
g: [off, 0x1f, .inf, {h: text}]
"""
    indented = text.replace("\n", "\n          ")
    lab = (
        "machines:\n  - name: m\n    libvirt:\n      cpus: 1\n      memory_mb: 1\n"
        "      libvirt_type: {cloud_image: {name: d}}\n      cloud_init:\n        user_data:" + indented
    )
    value, _ = shape_testbed(read_yaml(lab.encode(), "kvm-compose.yaml"), SCHEMAS)
    assert value["machines"][0]["libvirt"]["cloud_init"]["user_data"] == {
        "a": True, "b": 8, "c": 1.5, "d": "2026-01-02", "e": "on", "f": None,
        "g": [False, 31, ".inf", {"h": "text"}],
    }  # fmt: skip
