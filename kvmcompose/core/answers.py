"""Questions about a testbed and their answers, whatever carries the network."""

from __future__ import annotations

from typing import Protocol

import msgspec

from kvmcompose.core.document import Path
from kvmcompose.core.expectation import Traffic


class Cause(msgspec.Struct, frozen=True):
    """Why packets pass or not. ``path`` is the place in the YAML, empty if no line is the cause."""

    text: str
    path: Path = ()


class Answer(msgspec.Struct, frozen=True):
    """Whether packets reach their target and are answered.

    ``arrives`` without ``reaches`` means that only the answers are lost.
    """

    reaches: bool
    cause: Cause
    arrives: bool = False


class Oracle(Protocol):
    """Knows what reaches what. The names are of guests, or ``internet``."""

    #: What stands for traffic of every kind.
    probes: tuple[Traffic, ...]

    def answer(self, source: str, target: str, probe: Traffic) -> Answer:
        """Return whether a packet from a source reaches a target, and is answered."""
