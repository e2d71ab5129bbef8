"""Questions that are asked of running guests by packets, and the answers: the API's JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from kvmcompose.core.expectation import Traffic

#: A guest, or ``internet``: see ``core.commands.GUEST_PATTERN``.
_End = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,62}$(?!\n)")]
#: How many questions an action may have: clients ask more of them in several actions.
MOST_QUESTIONS = 500


#: A ping, or a packet to a port from 1 to 65535.
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
TRAFFIC_PATTERN = rf"^(icmp|(tcp|udp) {_PORT})$(?!\n)"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether packets from a guest reach another, or ``internet``.

    ``protocol`` is ``icmp``, ``tcp PORT`` or ``udp PORT``.
    """

    source: _End
    target: _End
    protocol: Annotated[str, msgspec.Meta(pattern=TRAFFIC_PATTERN)]

    @property
    def traffic(self) -> Traffic:
        """What is sent."""
        protocol, _, port = self.protocol.partition(" ")
        return Traffic(protocol, int(port or 0))


class ProbeOutcome(StrEnum):
    """What became of packets.

    ``REACHES``: they arrive and the answer gets back. ``ARRIVES``: they arrive, and there is no answer, or it
    is lost. ``LOST``: they do not arrive. ``UNKNOWN``: it could not be found out.
    """

    REACHES = "reaches"
    ARRIVES = "arrives"
    LOST = "lost"
    UNKNOWN = "unknown"


class Probed(msgspec.Struct, frozen=True):
    """The answer to a question; ``cause`` says why in words."""

    question: Question
    outcome: ProbeOutcome
    cause: str
