"""Containers: the request that each key of the YAML leads to, and what is refused, with its place."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest

from golden.memory import MemoryFiles, compile_text, host
from kvmcompose.core.artefact import Artefact, Rendered
from kvmcompose.core.deployable import ContainerGuest, Mount
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import GuestState, State, decode_state, encode_state
from kvmcompose.guests import guest_kind
from kvmcompose.render import render
from kvmcompose.render.inputs import Sources
from kvmcompose.render.templates import Templates

ENV = b"PASSWORD='correct horse'\nTOKEN=a=b\n"


def files(**contents: bytes) -> MemoryFiles:
    return MemoryFiles(
        {"key.pub", "key", "a.sh", "b.sh", "s.env"},
        {"html", "files", "/srv/data", "a,b", "../up"},
        outside={"/srv/secret"},
        contents={"s.env": ENV, **contents},
    )


def text_of(section: str, interfaces: str = "[{bridge: b}]") -> str:
    return (
        f"machines:\n- name: g\n  interfaces: {interfaces}\n  docker: {{image: nginx:1.25, {section}}}\n"
        "network: {bridges: [{name: b}], external_bridge: b}\n"
    )


def artefacts(section: str = "") -> dict[str, Artefact]:
    found = compile_text(text_of(section), files=files()).artefacts
    return {each.path: each for each in found if each.guest == "g"}


def state(section: str = "") -> State:
    found = compile_text(text_of(section), files=files())
    return decode_state(encode_state(found.state))


def guest_of(section: str = "") -> GuestState:
    return state(section).testbed_guests["g"]


def written(artefact: Artefact, **contents: bytes) -> bytes:
    assert isinstance(artefact.content, Rendered)
    out = io.BytesIO()
    render(artefact.content, Sources(Templates({}), contents, 0), out)
    return out.getvalue()


def request(section: str = "", **contents: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(written(artefacts(section)["artefacts/g-container.json"], **contents))
    return body


def of_host(section: str) -> dict[str, Any]:
    settings: dict[str, Any] = request(section)["HostConfig"]
    return settings


RESOLVERS = {
    "Type": "bind",
    "Source": "/var/lib/kvm-compose/lab/artefacts/g-resolv.conf",
    "Target": "/etc/resolv.conf",
    "ReadOnly": True,
}


def test_an_image_alone_is_a_whole_request() -> None:
    assert request() == {
        "Hostname": "lab-g",
        "Image": "nginx:1.25",
        "HostConfig": {
            "NetworkMode": "none",
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            "Privileged": False,
            "Mounts": [RESOLVERS],
        },
    }


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("command: sleep 60", "Cmd", ["sleep", "60"]),
        ("command: \"nginx -g 'daemon off;'\"", "Cmd", ["nginx", "-g", "daemon off;"]),
        ("command: [sleep, '60', 'two words']", "Cmd", ["sleep", "60", "two words"]),
        ("command: ['']", "Cmd", [""]),
        ("command: 'echo $HOME && true'", "Cmd", ["echo", "$HOME", "&&", "true"]),
        ("command: [sleep, 60]", "Cmd", ["sleep", "60"]),
        ("entrypoint: /bin/sh -c", "Entrypoint", ["/bin/sh", "-c"]),
        ("entrypoint: [/bin/sh]", "Entrypoint", ["/bin/sh"]),
        ("user: '1000:1000'", "User", "1000:1000"),
        ("user: 0", "User", "0"),
        ("environment: {B: on, A: 1}", "Env", ["A=1", "B=on"]),
        ('environment: {A: "x\\ny"}', "Env", ["A=x\ny"]),
    ],
)
def test_a_key_of_the_yaml_is_one_of_the_request(section: str, key: str, value: Any) -> None:
    assert request(section)[key] == value


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("privileged: true", "Privileged", True),
        ("privileged: false", "Privileged", False),
        ("cpus: 0.5", "NanoCpus", 500_000_000),
        ("cpus: 2", "NanoCpus", 2_000_000_000),
        ("memory_mb: 64", "Memory", 64 << 20),
        ("capabilities: [NET_ADMIN, SYS_TIME]", "CapAdd", ["NET_ADMIN", "SYS_TIME"]),
        (
            "device: [/dev/net/tun]",
            "Devices",
            [{"PathOnHost": "/dev/net/tun", "PathInContainer": "/dev/net/tun", "CgroupPermissions": "rwm"}],
        ),
        (
            "device: ['/dev/a:/dev/b:r']",
            "Devices",
            [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}],
        ),
        (
            "device: ['/dev/a:rw']",
            "Devices",
            [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rw"}],
        ),
    ],
)
def test_a_key_of_the_yaml_is_a_setting_of_the_host(section: str, key: str, value: Any) -> None:
    assert of_host(section)[key] == value


def test_no_limit_is_set_that_is_not_in_the_yaml() -> None:
    assert of_host("").keys() == {"NetworkMode", "LogConfig", "Privileged", "Mounts"}


@pytest.mark.parametrize("source", ["html", "./html", "${PWD}/html", "$PWD/html"])
def test_a_volume_of_the_project_is_below_its_folder_on_every_host(source: str) -> None:
    section = f"volumes: [{{source: '{source}', target: /x, read_only: true}}]"
    assert of_host(section)["Mounts"][0] == {
        "Type": "bind", "Source": "/var/lib/kvm-compose/lab/html", "Target": "/x", "ReadOnly": True,
    }  # fmt: skip


def test_a_volume_can_be_outside_where_that_is_allowed_and_then_trust_names_it() -> None:
    section = "volumes: [{source: /srv/data, target: /x}]"
    assert of_host(section)["Mounts"][0]["Source"] == "/srv/data"


def test_a_volume_can_take_the_place_of_the_resolvers() -> None:
    section = "volumes: [{source: s.env, target: /etc/resolv.conf}]"
    (mount,) = of_host(section)["Mounts"]
    assert mount["Source"] == "/var/lib/kvm-compose/lab/s.env"
    assert "artefacts/g-resolv.conf" not in artefacts(section)


def test_variables_of_the_file_are_in_the_request_and_nowhere_else() -> None:
    section = "environment: {A: visible}, env_file: s.env"
    assert request(section, environment_file=ENV)["Env"] == [
        "A=visible", "PASSWORD=correct horse", "TOKEN=a=b",
    ]  # fmt: skip
    document = encode_state(compile_text(text_of(section), files=files()).state).decode()
    for secret in ("visible", "correct horse", "a=b"):
        assert secret not in document
    assert guest_of(section).definition["env_digest"].startswith("scrypt:")


def test_another_content_of_the_file_is_another_state() -> None:
    section = "env_file: s.env"
    one, other = (
        compile_text(text_of(section), files=files(**{"s.env": content})).state
        for content in (b"A=1\n", b"A=2\n")
    )
    assert encode_state(one) != encode_state(other)


def test_a_request_is_closed_to_others_as_it_has_secrets() -> None:
    found = artefacts("env_file: s.env, setup_script: a.sh")
    assert {path: each.mode for path, each in found.items()} == {
        "artefacts/g-container.json": 0o600,
        "artefacts/g-resolv.conf": 0o644,  # any user in the container reads it
        "artefacts/g-container.tar": 0o600,
    }


def test_a_problem_that_the_file_has_by_the_time_it_is_read_is_said() -> None:
    with pytest.raises(InputError):
        request("env_file: s.env", environment_file=b"no variable\n")


def test_healthcheck_is_run_by_the_engine() -> None:
    text = text_of("").replace(
        "- name: g\n", "- name: g\n  healthcheck: {command: test -e /x, interval: 500ms}\n"
    )
    found = {each.path: each for each in compile_text(text, files=files()).artefacts}
    body = json.loads(written(found["artefacts/g-container.json"]))
    assert body["Healthcheck"] == {
        "Test": ["CMD-SHELL", "test -e /x"],
        "Interval": 500_000_000,
        "Timeout": 30_000_000_000,
        "Retries": 3,
        "StartPeriod": 0,
    }


def test_how_it_runs_follows_from_the_state_as_read_back() -> None:
    section = (
        "volumes: [{source: '${PWD}/html', target: /x, read_only: true}], user: 'www:www', cpus: 1.5,"
        " memory_mb: 64, setup_script: a.sh, run_script: '${PWD}/b.sh',"
        " context: {path: files, modes: {k: 0600}}"
    )
    whole = state(section)
    run = guest_kind("docker").deployable(whole.testbed_guests["g"], whole.shared)
    assert run == ContainerGuest(
        request="artefacts/g-container.json",
        image="nginx:1.25",
        files=("artefacts/g-container.json", "artefacts/g-resolv.conf", "artefacts/g-container.tar"),
        mounts=(Mount("./html", "/x", read_only=True),),
        resolv_conf="artefacts/g-resolv.conf",
        archive="artefacts/g-container.tar",
        username="www",
        setup_scripts=("/etc/nocloud/setup/00-a.sh",),
        run_scripts=("/etc/nocloud/run/00-b.sh",),
        memory_mb=64,
        cpus=2,
    )
    assert run.read_here == run.request


def test_a_container_without_scripts_has_no_archive() -> None:
    whole = state()
    run = guest_kind("docker").deployable(whole.testbed_guests["g"], whole.shared)
    assert isinstance(run, ContainerGuest)
    assert (run.archive, run.setup_scripts, run.username) == (None, (), "root")


def test_the_order_of_variables_changes_nothing() -> None:
    one, other = guest_of("environment: {A: 1, B: 2}"), guest_of("environment: {B: 2, A: 1}")
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


def test_replicas_share_all_but_name_and_interfaces() -> None:
    text = text_of("scaling: {count: 3, interfaces: [{bridge: b, clones: [0, 1, 2]}]}", "[]")
    found = {each.path: each for each in compile_text(text, files=files()).artefacts}
    bodies = [json.loads(written(found[f"artefacts/g-{number}-container.json"])) for number in range(3)]
    assert [each.pop("Hostname") for each in bodies] == ["lab-g-0", "lab-g-1", "lab-g-2"]
    for each in bodies:
        each["HostConfig"].pop("Mounts")
    assert bodies[0] == bodies[1] == bodies[2]


def test_limits_count_in_the_placement() -> None:
    machines = "".join(
        f"- {{name: g{number}, interfaces: [bridge: b{number}],"
        " docker: {image: a, cpus: 0.6, memory_mb: 600}}\n"
        for number in range(2)
    )
    text = f"machines:\n{machines}network: {{bridges: [{{name: b0}}, {{name: b1}}]}}\n"
    with pytest.raises(InputError) as caught:
        compile_text(text, on=[host(cpus=1, memory_mb=4096)])
    assert [each.code for each in caught.value.problems] == ["no-room"]
    assert compile_text(text, on=[host(cpus=2, memory_mb=1200)]).state
    with pytest.raises(InputError):
        compile_text(text, on=[host(cpus=2, memory_mb=1199)])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            'command: "echo \'a"',
            (
                "4:40: machines[0].docker.command: error: this cannot be split into words as a shell does it"
                ": no closing quotation (wanted words with matching quotes, or a list of words) [bad-value]\n"
                "    hint: write a list: [sh, -c, 'echo \"hello\"']"
            ),
        ),
        ("command: ' '", "machines[0].docker.command: error: there is no word in it"),
        ("env_file: t.env", "4:41: machines[0].docker.env_file: error: 't.env' does not exist"),
        ("env_file: s.env, environment: {TOKEN: 1}", "TOKEN is set in 's.env', too"),
        ("command: []", "machines[0].docker.command: error:"),
        ("command: {a: b}", "wanted a command: 'sleep 60', or a list of words: [sleep, '60']"),
        ("cpus: 0", "wanted a number of CPUs from 0.01 to 512"),
        ("cpus: two", "wanted a number of CPUs from 0.01 to 512"),
        ("memory_mb: 2G", "hint: write the number of MiB without a unit: 2048 for 2 GiB"),
        ("memory_mb: 5", "wanted a whole number of MiB from 6 to 4194304"),
        ("capabilities: [net_admin]", "wanted the name of a capability, as in capabilities(7): NET_ADMIN"),
        ("device: [/etc/shadow]", "wanted a device: /dev/net/tun"),
        ("device: ['/dev/sda:x']", "wanted a device: /dev/net/tun"),
        ("volumes: [{source: html, target: x}]", "wanted an absolute path without '..'"),
        ("volumes: [{source: html, target: /x/../y}]", "wanted an absolute path without '..'"),
        ("volumes: [{source: none, target: /x}]", "'none' does not exist"),
        ("volumes: [{source: /srv/secret, target: /x}]", "'/srv/secret' is outside the project folder"),
        ("volumes: [{source: 'a,b', target: /x}]", "the source of a volume has a comma or a quotation mark"),
        ("volumes: [{source: ../up, target: /x}]", "wanted an absolute path"),
        (
            "volumes: [{source: html, target: /x}, {source: files, target: /x/}]",
            "machines[0].docker.volumes[1].target: error: volumes[0] has the same target",
        ),
        ("setup_script: none.sh", "machines[0].docker.setup_script: error: 'none.sh' does not exist"),
        ("context: none", "machines[0].docker.context: error: 'none' does not exist"),
        (
            "context: {path: none, modes: {a: 0600}}",
            "machines[0].docker.context.path: error: 'none' does not exist",
        ),
        ("env_digest: x", "unknown key 'env_digest'"),
        ("cap_add: [x]", "did you mean 'capabilities'?"),
        ("ports: ['80:80']", "a container is reached at its own address"),
    ],
)
def test_what_is_refused_is_said_with_its_place(section: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        compile_text(text_of(section), files=files())
    assert said in "\n".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (text_of("", "[{bridge: b, ip: dynamic}]"), "3:32: machines[0].interfaces[0].ip"),
        (
            text_of("scaling: {count: 1, interfaces: [{bridge: b, ip: dynamic, clones: [0]}]}", "[]"),
            "machines[0].docker.scaling.interfaces",
        ),
    ],
)
def test_an_address_that_only_dhcp_knows_is_refused(text: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        compile_text(text, files=files())
    (problem,) = caught.value.problems
    assert f"{place}: error: 'g" in str(problem)
    assert problem.code == "needs-address"


@pytest.mark.parametrize("engine", ["docker", "podman", "/run/user/1000/podman/podman.sock"])
def test_an_engine_can_be_named(engine: str) -> None:
    found = compile_text(text_of(""), config=config_of(engine), files=files()).state
    assert found.main_host.container_engine == engine
    assert decode_state(encode_state(found)).main_host.container_engine == engine


@pytest.mark.parametrize(
    "engine", ["tcp://192.0.2.1:2375", "containerd", "run/x", "/a/../b", "/a b", "/", "/" + "a" * 100]
)
def test_no_other_engine_can(engine: str) -> None:
    with pytest.raises(InputError) as caught:
        compile_text(text_of(""), config=config_of(engine), files=files())
    (problem,) = caught.value.problems
    assert problem.path == "testbed_host_ssh_config.main.container_engine"
    assert problem.wanted == "docker, podman or the path of a socket, at most 100 characters"


def config_of(engine: str) -> str:
    hosts = {"main": {"ip": "192.0.2.1", "is_main_host": True, "container_engine": engine}}
    return json.dumps({"testbed_host_ssh_config": hosts})


def test_a_host_without_the_key_says_nothing_of_an_engine() -> None:
    assert b"container_engine" not in encode_state(compile_text(text_of(""), files=files()).state)


@pytest.mark.parametrize(
    ("image", "is_one"),
    [
        ("nginx", True),
        ("nginx:1.25", True),
        ("localhost:5000/a/b_c--d:v1", True),
        ("[fd00::1]:5000/web", True),
        ("Registry.example/web@sha256:" + "a" * 64, True),
        ("registry.example/" + "a" * 255, True),
        ("a" * 256, False),
        ("docker-archive:web.tar", False),
        ("docker-archive:lab/web.tar", False),
        ("oci:lab", False),
        ("Nginx", False),
        ("nginx:", False),
        ("ngi nx", False),
        ("nginx@sha256:12", False),
        ("../nginx", False),
    ],
)
def test_image_must_name_one_of_a_registry(image: str, *, is_one: bool) -> None:
    text = text_of("").replace("nginx:1.25, ", f"'{image}'")
    if is_one:
        assert compile_text(text, files=files()).state
        return
    with pytest.raises(InputError, match="image"):
        compile_text(text, files=files())


def test_a_bad_lock_is_reported_once_for_all_containers() -> None:
    text = text_of("").replace(
        "network:", "- {name: h, interfaces: [{bridge: b}], docker: {image: a}}\nnetwork:"
    )
    lock = MemoryFiles({"images.lock"}, set(), contents={"images.lock": b"nginx 1.25\n"})
    with pytest.raises(InputError) as caught:
        compile_text(text, files=lock)
    (problem,) = caught.value.problems
    assert (problem.code, str(problem.location)) == ("bad-lock", "images.lock:1:1")
