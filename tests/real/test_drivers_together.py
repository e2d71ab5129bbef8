"""All drivers at once: guests on two bridges come up, talk, and go away without a trace."""

from __future__ import annotations

from pathlib import Path

import driven
import pytest
from driven import assert_as_before, brought_up, seen_on_the_host

from hosts import TestHost

pytestmark = pytest.mark.real


async def guests_talk(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        await up.start("left", "right")
        right = up.testbed.guests["right"].address
        assert right
        status, lines = await up.run("left", "sudo", "-n", "ping", "-c", "2", "-W", "5", right)
        assert status == 0, lines

        # again, as `up` on a testbed that is up does it
        await up.network()
        await up.start("left", "right")

        domains = await up.host.hypervisor.domains(up.testbed.project)
        for state in domains.values():
            assert state.state == "running"
            assert state.uptime is not None
            assert 0 <= state.uptime < 120
            assert state.cpu_seconds
            assert state.memory_mb
            assert 30 < state.memory_mb < 1000
        assert {state.guest for state in domains.values()} == {"left", "right"}
        console = up.testbed.folder / ".kvm-compose/consoles/left.log"
        assert "micro guest: ready" in await up.host.disks.read_tail(console, 20)

        assert await up.host.hypervisor.shut_down_domain(f"{up.testbed.project}-left", 30)
    assert_as_before(before)


def test_guests_on_two_bridges_talk_and_nothing_is_left(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    guests = {"left": "br0", "right": "br1"}
    project = driven.make_project(tmp_path / "together", micro_image, ssh_key, guests)
    driven.inside(real_host, guests_talk, folder=project)
