"""What guests print of the probes that they have sent."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from kvmcompose.core.expectation import PING
from kvmcompose.providers.guest.interface import Entrance
from kvmcompose.server.orchestrator.probe_sender import SentProbe, send


class Liar:
    """A guest that blames a network for probes of others."""

    guest = "web"

    async def run(self, _argv: list[str], keep: Any, **_more: Any) -> int:
        for line in ("7 Network is unreachable", "8 Network is unreachable", "\u0668 no", "x y", "", "done"):
            keep(line)
        return 0


def test_a_guest_speaks_for_its_own_probes_only() -> None:
    sent = send(cast("Entrance", Liar()), [SentProbe(7, PING, "10.0.0.1")], "token", 1)
    assert asyncio.run(sent) == {7: "Network is unreachable"}
