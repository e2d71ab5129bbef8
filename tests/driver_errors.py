"""What drivers raise, for tests that expect it. It is imported inside of test hosts, too."""

from __future__ import annotations

from collections.abc import Awaitable

from kvmcompose.hosts.errors import DriverError


async def error_of(call: Awaitable[object]) -> DriverError:
    """Return the error that a call raises."""
    try:
        await call
    except DriverError as error:
        return error
    raise AssertionError("it should have failed")


async def message_of(call: Awaitable[object]) -> str:
    """Return the message of the error that a call raises."""
    return (await error_of(call)).message
