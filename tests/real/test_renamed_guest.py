"""A renamed guest, with an id: at its next boot it has its new name, and everything else as before."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import driven
import pytest
from driven import brought_up

from hosts import TestHost
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

pytestmark = pytest.mark.real

SEEN = "cat /var/lib/cloud/data/instance-id /note; sha256sum /etc/dropbear/*_key; ip -4 -o address show eth0"


async def it_is_renamed(folder: str) -> None:
    async with brought_up(folder) as up:
        await up.start("one")
        status, _ = await up.run("one", "sudo", "-n", "sh", "-c", "echo kept >/note; sync")
        assert status == 0
        _, before = await up.run("one", "sudo", "-n", "sh", "-c", SEEN)
        assert await up.run("one", "hostname") == (0, ["virt-one"])

        yaml = Path(folder) / "kvm-compose.yaml"
        yaml.write_text(yaml.read_text().replace("name: one\n", "name: two\n    id: one\n"))
        argv = [sys.executable, "-m", "kvmcompose", "-C", folder, "generate"]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert await up.host.hypervisor.domains.shut_down("virt-one", 60)

        up.testbed = LoadedTestbed(Path(folder), (Path(folder) / "state.json").read_bytes())
        await up.start("two")
        assert await up.run("two", "hostname") == (0, ["virt-two"])
        assert await up.run("two", "cat", "/etc/hostname") == (0, ["virt-two"])
        _, after = await up.run("two", "sudo", "-n", "sh", "-c", SEEN)
        assert after == before
        assert len(after) == 4
        assert list(await up.host.hypervisor.domains.states("virt")) == ["virt-one"]


def test_a_renamed_guest_has_its_new_name_and_its_old_self(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    project = driven.make_project(tmp_path / "virt", micro_image, ssh_key, {"one": "br0"})
    driven.inside(real_host, it_is_renamed, folder=project)
