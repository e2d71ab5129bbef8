"""Names of interfaces become parts of paths that root writes to."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from kvmcompose.hosts.arp import answering, leave_arp_to_bridges
from kvmcompose.hosts.command import CommandRunner, Completed


class Runner:
    def __init__(self) -> None:
        self.argv: list[list[str]] = []

    async def run(self, argv: list[str], **_options: Any) -> Completed:
        self.argv.append(argv)
        return Completed(0, b"eth0/arp_ignore\nlab-1.0/arp_ignore\nlo/arp_ignore\n", b"")


def test_no_name_leads_elsewhere_or_means_all_interfaces() -> None:
    runner = Runner()
    bad = ["../../../../x", "..", ".", "", "all", "default", "a/b", "a" * 16, "a b"]
    asyncio.run(leave_arp_to_bridges(cast(CommandRunner, runner), [*bad, "lab-1.0"]))
    assert [argv[4:] for argv in runner.argv] == [["lab-1.0"]]
    asyncio.run(leave_arp_to_bridges(cast(CommandRunner, runner), bad))
    assert len(runner.argv) == 1


def test_only_taps_that_were_asked_for_are_returned() -> None:
    runner = Runner()
    assert asyncio.run(answering(cast(CommandRunner, runner), ["lab-1.0", "lab-2.0"])) == ["lab-1.0"]
    assert asyncio.run(answering(cast(CommandRunner, runner), [])) == []
    assert len(runner.argv) == 1
