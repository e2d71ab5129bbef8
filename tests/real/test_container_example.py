"""A web server in a container beside a virtual machine, as in TestbedOS's example: variables, a volume.

The web server is Debian's nginx. It runs whole: reached from the virtual machine, entered, copied from and
to, captured, edited, taken down.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kvm import Project

from hosts import TestHosts
from hosts.nginx_image import nginx_image

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.long_only, pytest.mark.usefixtures("micro_image")]

YAML = """\
machines:
  - name: vm
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
  - name: web
    interfaces: [{bridge: br1}]
    docker:
      image: nginx:stable
      env_file: web.env
      volumes: [{source: "${PWD}/html", target: /usr/share/nginx/html, read_only: true}]
      privileged: false
network:
  bridges: [{name: br0, subnet: 10.78.0.0/24}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
"""
FILES = {"kvm-compose.yaml": YAML, "web.env": "GREETING=hello there\n", "html/index.html": "<p>It works\n"}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHost]:
    with TestHosts(1, directory=tmp_path_factory.mktemp("short"), docker=True) as hosts:
        hosts[0].run(["docker", "load", "-i", nginx_image()])
        yield hosts[0]


@pytest.fixture(scope="module")
def lab(host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(host, tmp_path_factory.mktemp("lab"), "lab", FILES)
    try:
        project.run("up")
        yield project
    finally:
        project.run("down", "--purge", "--timeout", "0", status=None)


def test_it_is_reached_and_has_its_variables_and_its_volume(lab: Project) -> None:
    assert lab.states() == {"vm": "running", "web": "running"}
    page = lab.inside("vm", "wget", "-q", "-O", "-", f"http://{lab.address('web')}/")
    assert page == "<p>It works"
    assert lab.inside("web", "sh", "-c", "echo $GREETING") == "hello there"
    assert lab.inside("web", "wget", "-q", "-O", "-", "http://web/") == page
    assert lab.address("vm") in lab.inside("web", "nslookup", "vm")
    assert '"GET / HTTP/1.1" 200' in lab.run("logs", "web").stdout
    (lab.folder / "html/index.html").write_text("<p>Edited\n")
    assert lab.inside("vm", "wget", "-q", "-O", "-", f"http://{lab.address('web')}/") == "<p>Edited"
    assert lab.json("status")["differences"] == []
    assert "web is not entered by SSH" in lab.run("ssh", "web", status=1).stderr
    assert "Docker" in {
        each["name"] for each in json.loads(lab.run("doctor", "--json", status=None).stdout)["findings"]
    }


def test_files_are_copied_both_ways(lab: Project) -> None:
    (lab.folder / "big").write_bytes(bytes(range(256)) * 20_000)
    here = str(lab.folder)
    lab.run("cp", f"{here}/big", "web:/srv-big")
    lab.run("cp", "web:srv-big", f"{here}/back")
    assert (lab.folder / "back").read_bytes() == (lab.folder / "big").read_bytes()
    lab.inside(
        "web",
        "sh",
        "-c",
        "mkdir -p /d/e; ln -s /etc/passwd /d/out; ln -s e /d/in; echo x >/d/e/f; ln -s /d /l",
    )
    said = lab.run("cp", "-r", "web:/l", f"{here}/got").stderr
    assert "left out: out: a symbolic link to /etc/passwd, which is outside" in said
    assert (lab.folder / "got/in/f").read_text() == "x\n"
    assert not (lab.folder / "got/out").is_symlink()
    lab.run("cp", "-r", f"{here}/got", f"{here}/big", "web:/l")
    assert lab.inside("web", "cat", "/d/got/e/f") == "x"
    assert lab.inside("web", "stat", "-c", "%u %s", "/d/big") == "0 5120000"
    for words, message in (
        (("web:/nothing", here), "no such file or folder: /nothing"),
        (("web:/d", here), "web:/d: it is a folder"),
        ((f"{here}/big", "web:/no/such/big"), "no such folder in web: /no/such"),
    ):
        assert message in lab.run("cp", *words, status=1).stderr


def test_its_packets_are_captured_and_programs_find_it(lab: Project) -> None:
    captured = lab.start("capture", "web", "-w", str(lab.folder / "web.pcap"), "--count", "4")
    try:
        for _ in range(20):
            lab.inside("vm", "ping", "-c", "1", "-W", "1", lab.address("web"))
            if captured.poll() is not None:
                break
    finally:
        captured.terminate()
        captured.wait(timeout=20)
    assert (lab.folder / "web.pcap").stat().st_size > 24 + 4 * 16
    text = lab.run("inventory").stdout
    assert "ansible_connection: community.docker.docker" in text
    assert "ansible_host: lab-web" in text


def test_its_files_are_kept_in_a_snapshot_and_restored(lab: Project) -> None:
    lab.inside("web", "sh", "-c", "echo old >/data")
    lab.run("snapshot", "create", "before", "--guest", "web")
    lab.inside("web", "sh", "-c", "echo new >/data")
    lab.run("snapshot", "restore", "before", "--guest", "web")
    assert lab.inside("web", "cat", "/data") == "old"
    assert lab.inside("vm", "wget", "-q", "-O", "-", f"http://{lab.address('web')}/").startswith("<p>")
    assert lab.json("status")["differences"] == []
    assert "nothing to do" in lab.run("up").stderr
    assert "before" in lab.run("snapshot", "list").stdout


def test_a_variable_of_the_file_replaces_the_container_alone(lab: Project) -> None:
    (lab.folder / "web.env").write_text("GREETING=goodbye\n")
    said = lab.run("up").stderr
    assert "goodbye" not in said
    assert "guest web: replace" in said
    assert "guest vm" not in said
    assert lab.inside("web", "sh", "-c", "echo $GREETING") == "goodbye"
    lab.run("down", "--timeout", "0")
    assert "before" in lab.run("snapshot", "list").stdout
    assert "kvm-compose-snapshots/lab-web" in lab.host.run(["docker", "images"]).stdout
    lab.run("down", "--purge")
    assert "kvm-compose-snapshots" not in lab.host.run(["docker", "images"]).stdout
    assert lab.host.run(["docker", "ps", "-aq"]).stdout == ""
    assert (
        "lab-web" not in lab.host.run(["ovs-vsctl", "--bare", "--columns=name", "list", "Interface"]).stdout
    )
