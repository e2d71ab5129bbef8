"""A whole ``up`` of a member's on root's server: refused with the list of what it would do to the host."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from people import ALICE, Shared, ask, give, new

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.bench import Bench, new_bench
from golden.image_archive import write_archive

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
CONFIG = """\
{"testbed_host_ssh_config": {"main": {"ip": "127.0.0.1", "user": "me", "is_main_host": true,
 "virt_type": "qemu", "datapath_type": "system"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
#: A fake host writes nothing; were that wrong, it would not be this machine's.
_OWN_PLACES = 'mount -t tmpfs tmpfs /var/lib; exec "$@"'


@pytest.fixture
def shared(place: Path) -> Iterator[Shared]:
    """A root server whose /var/lib is its own."""
    made = Shared(place)
    made.daemon._argv = [
        "unshare", "--mount", "--propagation", "private", "sh", "-ec", _OWN_PLACES, "sh",
        *made.daemon._argv,
    ]  # fmt: skip
    made.start()
    yield made
    made.daemon.kill()


@pytest.fixture
def lab(place: Path) -> Bench:
    """Alice's lab, not built yet."""
    files = {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": "not a key\n"}
    (place / "labs").mkdir()
    return new_bench(place / "labs", "lab", files)


def up(shared: Shared, bench: Bench, uid: int) -> tuple[dict[str, Any], str]:
    """Bring it up for a user; how the action ended, and its log."""
    bench.generate()
    give(bench.root, uid)
    bench.folder.chmod(0o755)
    assert ask(shared.socket, uid, "PUT", "/deployments/lab", body=new("lab", bench.folder)).status < 300
    begun = ask(shared.socket, uid, "POST", "/deployments/lab/action", body={"command": "up"})
    assert begun.status < 300, begun
    target = f"/deployments/lab/actions/{begun.json['uuid']}"
    for _ in range(600):
        action: dict[str, Any] = ask(shared.socket, uid, "GET", target).json
        if action["state"] != "running":
            return action, ask(shared.socket, uid, "GET", f"{target}/lines").text
        time.sleep(0.05)
    raise AssertionError(action)


def test_the_peaceful_one_comes_up(shared: Shared, lab: Bench) -> None:
    action, log = up(shared, lab, ALICE)
    assert action["state"] == "succeeded", (action, log)
    (guest,) = ask(shared.socket, ALICE, "GET", "/deployments/lab/status").json["guests"]
    assert guest["state"] == "running"


def _emulator(bench: Bench) -> str:
    bench.generate()
    bench.edit("</devices>", "<emulator>/opt/evil</emulator></devices>", "artefacts/web-domain.xml")
    return "/opt/evil"


def _network(bench: Bench) -> str:
    bench.generate()
    bench.edit('mode="nat"', 'mode="route"', "artefacts/lab-network.xml")
    return "route"


def _nic(bench: Bench) -> str:
    nic = "{nic_name: eth7, testbed_bridge: br0, testbed_host: main}"
    bench.edit("  external_bridge", f"  network_interfaces: [{nic}]\n  external_bridge")
    return "eth7 of the host main"


def _controller(address: str) -> Callable[[Bench], str]:
    def change(bench: Bench) -> str:
        bench.edit("{name: br0}", f"{{name: br0, controller: '{address}'}}")
        return f"OpenFlow controller {address}"

    return change


def _libvirt(bench: Bench) -> str:
    bench.edit('"virt_type"', '"libvirt_uri": "qemu:///session", "virt_type"', "kvm-compose-config.json")
    return "qemu:///session"


def _image(bench: Bench) -> str:
    """An image that the server would read with the rights of root."""
    write_archive(bench.folder / "web.tar")
    section = "libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}"
    bench.edit(section, 'docker: {image: "docker-archive:web.tar"}')
    return "may load the image of a container from a file: docker-archive:web.tar"


def _build(bench: Bench) -> str:
    """Commands in containers of the host's engine, which fetches what a member names."""
    bench.write("web/Dockerfile", "FROM scratch\n")
    section = "libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}"
    bench.edit(section, "docker: {build: web}")
    return "image build 'web/Dockerfile', without a network"


@pytest.mark.parametrize(
    "change",
    [
        _emulator, _network, _nic, _controller("tcp:192.0.2.7:6653"), _controller("unix:/run/x.sock"),
        _controller("tcp:127.0.0.1:6653"), _libvirt, _image, _build,
    ],
    ids=["emulator", "network", "nic", "controller", "socket", "loopback", "libvirt", "image", "build"],
)  # fmt: skip
def test_what_only_administrators_may_do_is_refused(
    shared: Shared, lab: Bench, change: Callable[[Bench], str]
) -> None:
    named = change(lab)
    action, log = up(shared, lab, ALICE)
    assert action["state"] == "failed", (action, log)
    assert action["refused"], action
    said = f"{action['faults']}{log}"
    assert named in said
    assert "only an administrator's testbed may" in said
    assert ask(shared.socket, ALICE, "GET", "/deployments/lab/status").json["guests"][0]["state"] != "running"


def test_administrators_may(shared: Shared, lab: Bench) -> None:
    _controller("tcp:127.0.0.1:6653")(lab)
    _emulator(lab)
    action, log = up(shared, lab, 0)
    assert action["state"] == "succeeded", (action, log)
