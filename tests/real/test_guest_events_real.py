"""What happens to a guest outside of kvm-compose arrives at a client at once, as libvirt reports it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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


@pytest.fixture
def project(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(real_host, tmp_path_factory.mktemp("lab"), "lab", {"kvm-compose.yaml": ONE_GUEST})
    yield made
    made.run("down", "--purge", "--timeout", "0", status=None)


def test_what_virsh_does_is_reported_at_once(real_host: TestHost, project: Project) -> None:
    project.run("up")
    done = real_host.run([sys.executable, "-c", WATCH], env=project.env, timeout=120)
    assert done.stdout.splitlines() == [
        "left None running None quick",
        "left running paused by user quick",
        "left paused running None quick",
        "left running shut off destroyed quick",
    ]
