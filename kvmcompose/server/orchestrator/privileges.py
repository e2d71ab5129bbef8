"""What only an administrator's deployment may do to hosts, checked on the very texts that are used there.

These are what libvirt and container engines are given. Whatever a client has asked its user: for a deployment
whose owner is no administrator nothing is done that is on the list of ``kvmcompose.privileges``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvmcompose import privileges
from kvmcompose.core.deployable import ContainerGuest, LibvirtNetwork
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.privilege import Privilege
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed


def check_state(context: Context, testbed: LoadedTestbed) -> None:
    """Raises RefusedError for what the state asks of hosts."""
    _refuse(context, privileges.of_state(testbed.state, for_member=True))


def domain_xml(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> str:
    """The XML to start a guest from, as checked. Raises RefusedError, KvmComposeError."""
    run = guest.domain
    assert run is not None  # noqa: S101 (only guests that libvirt runs are started from XML)
    text = testbed.read(run.domain_xml)
    if not context.owner.is_admin:
        xml = privileges.Xml(text)
        plan = testbed.network_plan
        _refuse(context, privileges.of_domain(xml, guest.state, run, testbed.state, plan))
        _refuse(context, privileges.of_disks(xml, run, testbed.state))
    return text


def container_request(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> dict[str, Any]:
    """The request that creates a guest's container, as checked. Raises RefusedError, KvmComposeError."""
    run = guest.run
    assert isinstance(run, ContainerGuest)  # noqa: S101 (only containers have a request)
    if run.image_file is not None and not context.owner.is_admin:
        raise RefusedError(
            f"{context.project} belongs to {context.owner.name}, and only an administrator's testbed may load"
            f" the image of a container from a file: {run.image_file}",
            hint="use one of a registry, or have an administrator run docker load, and name it by its tag",
        )
    text = testbed.read(run.request)
    _refuse(context, privileges.of_container(text.encode(), run, testbed.state, for_member=True))
    return privileges.parse_request(text.encode(), run.request)


def network_xml(context: Context, testbed: LoadedTestbed, network: LibvirtNetwork) -> str:
    """The XML to start the network from, as checked. Raises RefusedError, KvmComposeError.

    Whoever owns it: guests are logged into by their addresses, which elsewhere are those of other machines.
    """
    text = testbed.read(network.xml)
    xml = privileges.Xml(text)
    if not privileges.has_subnet(xml, network):
        raise RefusedError(
            f"{network.xml}: it has no <ip> with the subnet of state.json ({network.subnet})",
            hint=f"rebuild it: kvm-compose generate --overwrite {network.xml} (yours is kept as .orig)",
        )
    _refuse(context, privileges.of_network(xml, testbed.state, network))
    return text


def _refuse(context: Context, found: Iterable[Privilege]) -> None:
    if context.owner.is_admin:
        return
    listed = [str(each) for each in found]
    if listed:
        raise RefusedError(
            f"{context.project} belongs to {context.owner.name}, and only an administrator's testbed may do"
            " this to a host:\n" + "\n".join(f"  {each}" for each in listed),
            hint="take it out (kvm-compose trust lists it), or have an administrator bring the testbed up",
        )
