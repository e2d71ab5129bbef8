"""Packet captures on one host."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from kvmcompose.core.commands import Capture


class Captures(Protocol):
    """Packet captures on one host, in the format of pcap (IETF draft-ietf-opsawg-pcap).

    The first chunk arrives when the capture has started. A capture ends after ``count`` packets, or when its
    interface or bridge is removed; to end it earlier, close the generator.
    """

    async def check_filter(self, expression: str) -> str | None:
        """Return what is wrong with an expression of pcap-filter(7); None for a valid one."""

    def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Yield packets on one network interface, in both directions."""

    def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Yield packets that enter an Open vSwitch bridge, on any port."""


class Mirrors(Protocol):
    """Ports that mirror the traffic of Open vSwitch bridges on one host."""

    def open(self, project: str, bridge: str) -> AbstractAsyncContextManager[str]:
        """Create a port that gets every packet that enters the bridge; it goes when the context ends."""
