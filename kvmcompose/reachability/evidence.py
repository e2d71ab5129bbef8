"""What captures at the interfaces of guests prove about packets that were sent.

A probe is recognised where it leaves its source: by the address and port that it is sent to. Its mark, which
no translation of addresses changes, is then looked for where it must arrive, and that of its answer at both
ends. So an answer that comes from elsewhere, such as the reset of a rule that rejects, is not taken for the
target's, and neither is it needed that a program listens there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from kvmcompose.core.expectation import Traffic
from kvmcompose.core.probe import ProbeOutcome
from kvmcompose.reachability.frames import FrameKind, ProbeFrame

_REQUESTS = {"icmp": FrameKind.ECHO, "tcp": FrameKind.SYN, "udp": FrameKind.UDP}
#: The most frames of an interface: a guest may send others that look like probes.
MOST_FRAMES = 6000
#: The most of all interfaces, about 1 KiB of memory each: a broadcast appears at all of them.
MOST_IN_ALL = 128_000


class Port(msgspec.Struct, frozen=True):
    """An interface that is captured. ``mac`` is that of its guest, '' for one that leads outside.

    ``name`` identifies it among all.
    """

    name: str
    mac: str = ""


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """A probe to one address: from one of ``sources``, expected at one of ``targets``."""

    probe: Traffic
    address: str
    sources: tuple[Port, ...]
    targets: tuple[Port, ...]
    gateways: tuple[str, ...] = ()


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a probe.

    ``answered``: the target has answered; ``returned``: the answer reached the source. ``rejected``: an
    answer reached the source that is none of the target. ``unresolved``: the address of the network that the
    source asked for and nothing returned; ``asked_target`` is whether the target heard that question.
    """

    sent: bool = False
    arrived: bool = False
    answered: bool = False
    returned: bool = False
    reset: bool = False
    rejected: bool = False
    unresolved: str = ""
    asked_target: bool = False


#: Whether there is an answer, and a reset, by direction and what answers are looked for by.
_Answers = dict[tuple[bool, tuple[object, ...]], tuple[bool, bool]]


class Evidence:
    """All frames, by interface."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], list[ProbeFrame]] = {}
        self._known: set[tuple[str, ProbeFrame]] = set()
        self._counts: dict[str, int] = {}
        #: The interfaces of which not all was kept.
        self.overflown: set[str] = set()

    def add(self, port: str, frame: ProbeFrame) -> None:
        """Add a frame that an interface has shown. One that is sent again adds nothing."""
        if (port, frame) in self._known:
            return
        count = self._counts[port] = self._counts.get(port, 0) + 1
        if count > MOST_FRAMES or len(self._known) >= MOST_IN_ALL:
            self.overflown.add(port)
            return
        self._known.add((port, frame))
        for key in _keys(frame):
            self._found.setdefault((port, *key), []).append(frame)

    def seen(self, sending: Sending) -> Sighting:
        """Return what was seen of a probe."""
        rejected = self._is_error(sending)
        best = Sighting(rejected=rejected)
        # a guest may send thousands that are alike: what is the same for all of them is looked up once
        arrivals: dict[bytes, Sighting] = {}
        known: _Answers = {}
        for port in sending.sources:
            for request in self._requests(port, sending):
                if request.mark not in arrivals:
                    arrivals[request.mark] = self._arrival(request, sending, known)
                arrival = arrivals[request.mark]
                back, _ = self._answered(port, request, known, towards=True)
                found = msgspec.structs.replace(
                    arrival,
                    sent=True,
                    returned=arrival.answered and back,
                    rejected=rejected or (back and not arrival.arrived),
                )
                if _rank(found) > _rank(best):
                    best = found
        return best if best.sent else self._unsent(sending)

    def _requests(self, port: Port, sending: Sending) -> Iterable[ProbeFrame]:
        kind = _REQUESTS[sending.probe.protocol]
        found = self._found.get((port.name, kind, sending.address, sending.probe.port), ())
        return [each for each in found if each.eth_source == port.mac]

    def _arrival(self, request: ProbeFrame, sending: Sending, known: _Answers) -> Sighting:
        """Return what became of packets of one mark where they must arrive."""
        seen = Sighting()
        for port in sending.targets:
            for arrived in self._found.get((port.name, request.kind, request.mark), ()):
                if port.mac not in ("", arrived.eth_target):
                    continue
                answered, reset = self._answered(port, arrived, known, towards=False)
                if not seen.arrived or (answered and not seen.answered):
                    seen = Sighting(arrived=True, answered=answered, reset=reset)
        return seen

    def _answered(
        self, port: Port, request: ProbeFrame, known: _Answers, *, towards: bool
    ) -> tuple[bool, bool]:
        """Return whether a packet has an answer at an interface, and a reset, ``towards`` it or from it."""
        key: tuple[object, ...]
        if request.kind is FrameKind.UDP:
            ends = (request.target, request.target_port, request.source, request.source_port)
            key = (port.name, "udp", *ends)
        else:
            kind = FrameKind.ANSWER if request.kind is FrameKind.SYN else FrameKind.ECHO_REPLY
            key = (port.name, kind, request.mark)
        if (towards, key) not in known:
            found = [
                each
                for each in self._found.get(key, ())
                if port.mac in ("", each.eth_target if towards else each.eth_source)
            ]
            known[towards, key] = bool(found), any(each.is_reset for each in found)
        return known[towards, key]

    def _is_error(self, sending: Sending) -> bool:
        """Return whether an ICMP error about the probe reached the source."""
        key = (FrameKind.ERROR, sending.address, sending.probe.port)
        return any(
            each.eth_target == port.mac
            for port in sending.sources
            for each in self._found.get((port.name, *key), ())
        )

    def _unsent(self, sending: Sending) -> Sighting:
        """Return why a probe did not leave its source, as far as neighbour discovery shows it."""
        for address in (sending.address, *sending.gateways):
            asked = [
                port
                for port in sending.sources
                if any(
                    each.eth_source == port.mac
                    for each in self._found.get((port.name, FrameKind.WHO_HAS, address), ())
                )
            ]
            answered = any(
                each.eth_target == port.mac
                for port in asked
                for each in self._found.get((port.name, FrameKind.IS_AT, address), ())
            )
            if asked and not answered:
                return self._unresolved(sending, address)
        return Sighting()

    def _unresolved(self, sending: Sending, address: str) -> Sighting:
        asked, answered = False, False
        for port in sending.targets:
            if port.mac and address == sending.address:
                asked |= bool(self._found.get((port.name, FrameKind.WHO_HAS, address)))
                answered |= any(
                    each.eth_source == port.mac
                    for each in self._found.get((port.name, FrameKind.IS_AT, address), ())
                )
        return Sighting(unresolved=address, asked_target=asked and not answered)


def _keys(frame: ProbeFrame) -> Iterable[tuple[object, ...]]:
    """Yield what a frame is looked for by."""
    match frame.kind:
        case FrameKind.SYN | FrameKind.ECHO:
            yield frame.kind, frame.target, frame.target_port
            yield frame.kind, frame.mark
        case FrameKind.UDP:
            yield frame.kind, frame.target, frame.target_port
            yield frame.kind, frame.mark
            yield "udp", frame.source, frame.source_port, frame.target, frame.target_port
        case FrameKind.ANSWER | FrameKind.ECHO_REPLY:
            yield frame.kind, frame.mark
        case FrameKind.ERROR:
            yield frame.kind, frame.target, frame.target_port
        case FrameKind.WHO_HAS | FrameKind.IS_AT:
            yield frame.kind, frame.target


def _rank(seen: Sighting) -> tuple[bool, ...]:
    return seen.returned, seen.answered, seen.arrived, seen.sent


def is_settled(seen: Sighting) -> bool:
    """Return whether nothing that may still come changes the conclusion."""
    return seen.returned


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What is known beside the packets. ``said`` is what the sender in the source printed.

    ``target_runs``: whether the target was entered, None if it cannot be.
    """

    source: str
    target: str
    said: str = ""
    outside: bool = False
    target_runs: bool | None = None


#: What programs print for ENETUNREACH, with the libraries of GNU and musl.
_NO_ROUTE = ("Network is unreachable", "Network unreachable")


def conclude(sending: Sending, seen: Sighting, known: Circumstances) -> tuple[ProbeOutcome, str]:
    """Return what became of a probe once its time is up, and why."""
    if not seen.sent:
        return _not_sent(sending, seen, known)
    if not seen.arrived:
        where = "leave the testbed" if known.outside else f"arrive at {known.target}"
        why = ", something on the way rejects it" if seen.rejected else ""
        return ProbeOutcome.LOST, f"sent to {sending.address}, it does not {where}{why}"
    if known.outside:
        return ProbeOutcome.REACHES, "it leaves the testbed"
    if seen.returned:
        closed = ", which has the port closed" if seen.reset else ""
        return ProbeOutcome.REACHES, f"it arrives and is answered by {known.target}{closed}"
    if seen.answered:
        return ProbeOutcome.ARRIVES, f"it arrives, but the answer of {known.target} is lost"
    if sending.probe.protocol == "udp":
        return ProbeOutcome.REACHES, f"it arrives at {known.target}"
    if known.target_runs:
        return ProbeOutcome.ARRIVES, f"it arrives, but {known.target} does not answer (has it a firewall?)"
    why = "does not respond" if known.target_runs is False else "cannot be entered to see whether it runs"
    return ProbeOutcome.UNKNOWN, f"it arrives, but {known.target} does not answer, and {why}"


def _not_sent(sending: Sending, seen: Sighting, known: Circumstances) -> tuple[ProbeOutcome, str]:
    address = seen.unresolved
    if address and seen.asked_target and not known.target_runs:
        return ProbeOutcome.UNKNOWN, f"{known.target} does not respond to ARP for {address}: has it booted?"
    if address and seen.asked_target:
        return ProbeOutcome.LOST, f"{known.target} does not respond to ARP for {address}"
    if address:
        noun = "its gateway " if address in sending.gateways and address != sending.address else ""
        return ProbeOutcome.LOST, f"{known.source} finds no neighbour with the address of {noun}{address}"
    if any(word in known.said for word in _NO_ROUTE):
        return ProbeOutcome.LOST, f"{known.source} has no route to {sending.address}"
    said = f": {known.said}" if known.said else ""
    return ProbeOutcome.UNKNOWN, f"{known.source} has not sent it to {sending.address}{said}"


def best(found: Mapping[str, tuple[ProbeOutcome, str]]) -> tuple[ProbeOutcome, str]:
    """Return the conclusion for a target from those for its addresses: one that is reached is enough."""
    order = (ProbeOutcome.REACHES, ProbeOutcome.UNKNOWN, ProbeOutcome.ARRIVES, ProbeOutcome.LOST)
    return min(found.values(), key=lambda each: order.index(each[0]))
