"""What the kinds of OVN share."""

from __future__ import annotations

from kvmcompose.providers.drivers import HostDrivers, OvnDrivers
from kvmcompose.server.orchestrator.resources._view import View

#: The kind and name of the mark that is the number of the last change of rows.
CHANGE = ("ovn-change", "rows")


def last_change(view: View) -> int | None:
    """Return the number of the project's last change of rows, None if there was none."""
    kind, name = CHANGE
    number = view.marks(kind).get(name)
    return int(number) if number is not None else None


def is_main(view: View, host: HostDrivers) -> bool:
    """Return whether the databases of OVN are reached from a host."""
    if view.testbeds:
        return host.name == view.testbeds[0].main_host.name
    return host.blobs is None


def databases(view: View) -> OvnDrivers:
    """Return the databases of OVN, where something of the project is in them or will be."""
    assert view.ovn is not None  # noqa: S101 (what is wanted or was found is in them)
    return view.ovn
