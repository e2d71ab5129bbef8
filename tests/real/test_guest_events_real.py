"""A guest is seen as libvirt has it: its console, its screen, the page, and what is done elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kvm import Project

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

ONE_GUEST = """\
machines:
  - name: left
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""

#: Without an event of libvirt's, the next look would come 30 seconds later.
WATCH = """\
import subprocess, time
from kvmcompose.client.connect import connect
from kvmcompose.core.deployment_event import GuestChanged

def virsh(verb):
    subprocess.run(["virsh", "-q", verb, "lab-left"], check=True)
    return time.monotonic()

seen, began = [], None
for event in connect(None).events("lab"):
    if not isinstance(event, GuestChanged):
        continue
    took = 0 if began is None else time.monotonic() - began
    print(event.guest, event.before, event.state, event.reason, "quick" if took < 5 else took, flush=True)
    seen.append(event.state)
    if seen == ["running"]:
        time.sleep(3)
        began = virsh("suspend")
    elif seen == ["running", "paused"]:
        began = virsh("resume")
    elif seen == ["running", "paused", "running"]:
        began = virsh("destroy")
    else:
        break
"""

STORY = Path(__file__).parent / "page_story.py"
#: Logs in on the console, is watched by a second user, loses it to a third, and speaks with the screen.
TERMINALS = """\
import json, socket
import websocket
from kvmcompose.client.connect import connect
from kvmcompose.effects.server_places import socket_path, state_dir

connect(None)

def opened(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(socket_path(state_dir())))
    url = "ws://localhost/api/deployments/lab/guests/left/" + path
    return websocket.create_connection(url, socket=connection, timeout=30, suppress_origin=True)

def until(console, words):
    seen = b""
    while words not in seen:
        seen += console.recv()
    return seen

first = opened("console")
print("first", json.loads(first.recv())["input"])
history = until(first, b"login: ")
print("history", b"micro guest: ready" in history, history.count(b"login: "))
for typed, answer in ((b"root\\r", b"# "), (b"echo I am $(id -un)\\r", b"I am root")):
    first.send_binary(typed)
    until(first, answer)
second = opened("console")
said = json.loads(second.recv())
print("second", said["input"], said["taken"])
first.send_binary(b"echo se''en\\r")
until(second, b"seen")
third = opened("console?force=true")
print("third", json.loads(third.recv())["input"])
while first.connected:
    opcode, data = first.recv_data()
    if opcode == websocket.ABNF.OPCODE_CLOSE:
        print("first", int.from_bytes(data[:2], "big"))
        break
screen = opened("screen")
print("screen", screen.recv()[:12])
screen.send_binary(b"RFB 003.008\\n")
print("screen", until(screen, b"\\x01"))
"""


@pytest.fixture
def project(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(real_host, tmp_path_factory.mktemp("lab"), "lab", {"kvm-compose.yaml": ONE_GUEST})
    yield made
    made.run("down", "--purge", "--timeout", "0", status=None)


def test_console_and_screen_and_what_virsh_does(real_host: TestHost, project: Project) -> None:
    project.run("generate")
    xml = project.folder / "artefacts" / "left-domain.xml"
    screen = '<graphics type="vnc" autoport="yes" listen="127.0.0.1"/><video><model type="vga"/></video>'
    text, count = re.subn(r'<video>\s*<model type="none"/>\s*</video>', screen, xml.read_text())
    assert count == 1
    xml.write_text(text)
    project.run("up")
    done = real_host.run([sys.executable, "-c", TERMINALS], env=project.env, timeout=180)
    assert done.stdout.splitlines() == [
        "first True",
        "history True 1",
        "second False True",
        "third True",
        "first 1000",
        r"screen b'RFB 003.008\n'",
        r"screen b'\x01\x01'",
    ]
    done = real_host.run([sys.executable, "-c", WATCH], env=project.env, timeout=120)
    assert done.stdout.splitlines() == [
        "left None running None quick",
        "left running paused by user quick",
        "left paused running None quick",
        "left running shut off destroyed quick",
    ]
    yaml = str(project.folder / "kvm-compose.yaml")
    words = [yaml, "[{name: br0}]", "[{name: br0}, {name: br1}]"]
    done = real_host.run([sys.executable, str(STORY), *words], env=project.env, timeout=400)
    assert done.stdout.splitlines() == ["broken", "mended", "console", "plan"]
    real_host.run(["ovs-vsctl", "br-exists", "lab-br1"])
