"""A testbed that is edited while it is up: who restarts, what packets are lost, what differs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from kvm import Project

if TYPE_CHECKING:
    from hosts import TestHost

#: Replies may be on their way, and the switch in userspace takes its time on a busy machine.
STILL_COMING = 10


class Lab:
    """The testbed, and what is known of it: which process each guest is, how far the pings have got."""

    def __init__(self, project: Project, hosts: Sequence[TestHost] = ()) -> None:
        """``hosts`` are those of the testbed, the project's alone if there are none.

        Switches in userspace and emulated guests beside other tests: two seconds of pings through a tunnel
        may go missing while ports change. A guest that restarts loses more than a hundred.
        """
        self.project, self.host = project, project.host
        self.hosts = hosts or [project.host]
        self.lost = 0
        self.tolerated = 20 if hosts else 0

    def qemu(self) -> dict[str, str]:
        """The process of each guest, which is another one once it was off."""
        found = {}
        for host in self.hosts:
            word = f"guest={self.project.name}-"
            for line in host.run(["pgrep", "-a", "-f", word], check=False).stdout.splitlines():
                found[line.split(word)[1].split(",")[0]] = f"{host.name} {line.split()[0]}"
        return found

    def start_pings(self) -> None:
        right = self.project.address("right")
        script = f"nohup ping -i 0.1 {right} >/tmp/pings 2>&1 </dev/null &"
        self.project.inside("left", "sh", "-c", script)

    def lost_pings(self) -> int:
        """How many of the pings since the last look were not answered."""
        lines = self.project.inside("left", "cat", "/tmp/pings")  # noqa: S108 (in the guest)
        seen = {int(each) for each in re.findall(r"seq=(\d+)", lines)}
        assert len(seen) > STILL_COMING, lines
        lost = set(range(max(seen) - STILL_COMING)) - seen
        new, self.lost = len(lost) - self.lost, len(lost)
        return new

    def differences(self) -> list[str]:
        found: list[str] = self.project.json("status")["differences"]
        return found

    def edit(self, before: str, after: str) -> None:
        self.project.edit(before, after)

    def up(
        self,
        *options: str,
        restarted: Collection[str] = (),
        gone: Collection[str] = (),
        lost: int = 0,
    ) -> str:
        """``up``; these guests start, those are gone, all others run on, and then nothing differs."""
        before = self.qemu()
        said = self.project.run("up", *options).stderr
        after = self.qemu()
        kept = before.keys() - {*restarted, *gone}
        assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}, said
        assert after.keys() - kept == set(restarted), said
        assert all(after[name] != before.get(name) for name in restarted), said
        assert self.differences() == [], said
        self.project.run("status", "--exit-status")
        missing = self.lost_pings()
        assert missing <= lost + self.tolerated, f"{missing} pings lost: {said}"
        return said

    def repaired(self, drift: str, **options: int | Collection[str]) -> str:
        """``status`` names what was changed outside, ``up --no-repair`` leaves it, ``up`` repairs it."""
        found = self.differences()
        assert any(drift in each for each in found), found
        before = self.qemu()
        assert drift in self.project.run("up", "--no-repair").stderr
        assert self.qemu() == before
        assert self.differences() == found
        said = self.up(**options)  # type: ignore[arg-type]
        assert "nothing to do" in self.project.run("up").stderr
        return said

    def talks(self, one: str, *others: str) -> None:
        """A guest reaches others by their names."""
        for other in others:
            assert " 0% packet loss" in self.project.inside(one, "ping", "-c", "1", "-W", "3", other)

    def memory(self, guest: str) -> int:
        """The memory of a guest in MiB, as the guest sees it."""
        return int(self.project.inside(guest, "awk", "/MemTotal/ {print $2}", "/proc/meminfo")) // 1024

    def addresses(self, guest: str) -> list[str]:
        shown = self.project.inside(guest, "ip", "-4", "-o", "address", "show", "scope", "global")
        return re.findall(r"inet ([\d.]+)/", shown)

    def bridge(self, name: str) -> str:
        """The bridge's name in Open vSwitch."""
        (found,) = (
            each["ovs_name"] for each in self.project.state()["network"]["bridges"] if each["name"] == name
        )
        return str(found)

    def tap(self, guest: str, number: int = 0) -> str:
        tap: str = self.project.state()["testbed_guests"][guest]["interfaces"][number]["target"]
        return tap

    def ovs(self, *words: str) -> str:
        return self.host.run(["ovs-vsctl", *words]).stdout.strip()
