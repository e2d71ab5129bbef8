"""The terminal of a program that runs in a guest."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from kvmcompose.core.access import TerminalSize


class Terminal(Protocol):
    """Both directions of the terminal of a program. The program ends with the context that opened it."""

    def read(self) -> AsyncGenerator[bytes]:
        """Yield what the program prints, until it ends; what is not read yet holds it up."""

    async def write(self, data: bytes) -> None:
        """Pass on what is typed, as fast as the program takes it. Raises OSError once that has ended."""

    def resize(self, size: TerminalSize) -> None:
        """Change the size as soon as the program has a terminal; of several sizes, to the last one."""

    async def status(self) -> int:
        """Return the exit status of the program, which has ended. Raises DriverError if it is not known."""
