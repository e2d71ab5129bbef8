"""Errors of hosts and of what is driven on them."""

from __future__ import annotations

from kvmcompose.core.errors import KvmComposeError, RefusedError


class DriverError(KvmComposeError):
    """Something failed on a host or in a guest."""


class NotInstalledError(DriverError):
    """A program is not installed on a host."""


class AgentSilentError(DriverError):
    """The guest agent of a guest is not connected, or answers nothing in time: another question is no use."""


class NoSuchPathError(DriverError):
    """A guest has no file or folder of a name."""


class SubnetTakenError(DriverError):
    """A host uses the subnet of a testbed already. The caller knows where that subnet comes from."""


class HostLostError(DriverError):
    """The host cannot be reached at the moment; it may come back."""


class RuntimeSilentError(DriverError):
    """What runs some guests of a host does not answer; the rest of the host may."""


class ConsoleTakenError(RefusedError):
    """Another user has the console of a guest."""
