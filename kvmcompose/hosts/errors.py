"""Errors of everything that is done on hosts and in guests."""

from __future__ import annotations

from kvmcompose.core.errors import KvmComposeError


class DriverError(KvmComposeError):
    """Something on a host or in a guest did not work."""


class HostLostError(DriverError):
    """The host cannot be reached (any more); it may come back."""
