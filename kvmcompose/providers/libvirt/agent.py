"""The QEMU guest agent of a domain (QEMU's "Guest Agent Protocol Reference"): what it is asked, and answers.

A guest is hostile, and its agent is a program in it. An answer may be long, deep, of any type, and may not
come at all: each has a limit of bytes and seconds, and its type is checked before it is used.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from kvmcompose.hosts.errors import AgentSilentError, DriverError

_Answer = TypeVar("_Answer")

#: The longest answer that is read, in bytes: what libvirt's protocol can carry.
LONGEST_ANSWER = 4 << 20
#: How long an answer may take, in seconds. libvirt waits five more for the agent to listen at all.
ANSWER_SECONDS = 5
#: Interfaces and addresses of a guest that are looked at.
_MOST_INTERFACES, _MOST_ADDRESSES = 256, 256


class _Address(msgspec.Struct, gc=False):
    address: str = msgspec.field(name="ip-address", default="")


class _Interface(msgspec.Struct):
    mac: str = msgspec.field(name="hardware-address", default="")
    addresses: list[_Address] = msgspec.field(name="ip-addresses", default_factory=list)


class AgentCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command for an agent: ``execute`` names it."""

    execute: str
    arguments: Mapping[str, Any] = {}

    @property
    def json(self) -> str:
        """The command as the agent reads it."""
        parts = {"execute": self.execute, **({"arguments": self.arguments} if self.arguments else {})}
        return json.dumps(parts, separators=(",", ":"))


PING = AgentCommand(execute="guest-ping")
INTERFACES = AgentCommand(execute="guest-network-get-interfaces")


def answer_of(domain: str, execute: str, text: str) -> Any:
    """Return what an agent answered. Raises DriverError for what is no answer."""
    if len(text) > LONGEST_ANSWER:
        raise _nonsense(domain, execute, f"more than {LONGEST_ANSWER >> 20} MiB")
    try:
        answer = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _nonsense(domain, execute, f"no JSON: {error}") from None
    if not isinstance(answer, dict) or "return" not in answer:
        raise _nonsense(domain, execute, "neither a result nor an error")
    return answer["return"]


def typed(domain: str, execute: str, answer: Any, wanted: type[_Answer]) -> _Answer:
    """Return an answer as the type that it should have. Raises DriverError for another one."""
    try:
        return msgspec.convert(answer, wanted)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _nonsense(domain, execute, str(error)) from None


def _nonsense(domain: str, execute: str, what: str) -> DriverError:
    return DriverError(
        f"the guest agent of {domain} answers {execute} with what no agent does: {what[:200]}",
        hint="is something else in the guest connected to org.qemu.guest_agent.0?",
    )


def addresses_of(domain: str, answer: Any) -> dict[str, tuple[str, ...]]:
    """Return addresses by MAC address in lower case, from the answer to ``guest-network-get-interfaces``.

    Loopback and link-local ones are left out; IPv4 comes first. Raises DriverError.
    """
    interfaces = typed(domain, "guest-network-get-interfaces", answer, list[_Interface])
    found: dict[str, tuple[str, ...]] = {}
    for each in interfaces[:_MOST_INTERFACES]:
        addresses = [known for one in each.addresses[:_MOST_ADDRESSES] if (known := _usable(one.address))]
        if each.mac and addresses:
            addresses.sort(key=lambda one: one.version)
            found.setdefault(each.mac.lower(), tuple(map(str, addresses)))
    return found


def _usable(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return None
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    return None if special else address


def no_answer(name: str, execute: str, why: str, *, is_paused: bool = False) -> AgentSilentError:
    """Return the error for an agent that is not there, or answers nothing in time."""
    missing = "does qemu-guest-agent run in the guest? On Debian: apt-get install qemu-guest-agent"
    return AgentSilentError(
        f"the guest agent of {name} does not answer {execute}: {why}",
        hint="kvm-compose resume; kvm-compose status says why a guest is paused" if is_paused else missing,
    )
