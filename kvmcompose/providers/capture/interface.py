"""Captures of packets on one host."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from kvmcompose.core.deployment import Capture


class Captures(Protocol):
    """Packets on one host, in the format of pcap (IETF draft-ietf-opsawg-pcap).

    The first chunk comes when the capture has begun. It ends with ``count`` packets, or when what is captured
    goes; to end it before that, close the generator.
    """

    async def check_filter(self, expression: str) -> str | None:
        """What is wrong with an expression of pcap-filter(7); None when nothing is."""

    def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets on one network interface, in both directions."""

    def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets that come into a bridge of Open vSwitch, whatever port they come by."""


class Mirrors(Protocol):
    """Ports that mirror the traffic of Open vSwitch bridges on one host."""

    def open(self, project: str, bridge: str) -> AbstractAsyncContextManager[str]:
        """Create a port that gets every packet that enters the bridge; it goes when the context ends."""
