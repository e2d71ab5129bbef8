"""``test``: asks running guests by packets which of them reach which.

Each probe is sent from inside its source, and looked for at the interfaces of source and target on their
hosts: nothing is needed in the target, and not that a program listens there. A probe counts as denied only
if it was seen to leave its source, while captures that had begun before ran on at all interfaces where it
could have arrived.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing

import msgspec

from kvmcompose.core.commands import Capture, Test
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.expectation import INTERNET
from kvmcompose.core.probe import Probed, ProbeOutcome, Question
from kvmcompose.hosts.errors import DriverError
from kvmcompose.reachability.evidence import (
    Circumstances,
    Evidence,
    Port,
    Sending,
    best,
    conclude,
    is_settled,
)
from kvmcompose.reachability.frames import read_frame
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.merged_packets import PacketReader
from kvmcompose.server.orchestrator.probe_ends import End, Ends
from kvmcompose.server.orchestrator.probe_sender import SentProbe, send
from kvmcompose.server.orchestrator.stages import side_by_side, together
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: How many interfaces are captured at once, each by a process on its host, and how many guests send.
_MOST_PORTS, _MOST_SOURCES = 64, 16
#: How long packets may take from one capture to the server, and how often it looks, in seconds.
_GRACE_SECONDS, _LOOK_SECONDS = 1.5, 0.05
#: How long a guest may take to run nothing, in seconds.
_ALIVE_SECONDS = 15.0
#: Enough of a packet for its headers and the part of its payload that is compared, in bytes.
_SNAPLEN = 192
#: With more ports, all are captured.
_MOST_IN_FILTER = 40


class AskedProbe(msgspec.Struct, frozen=True):
    """A probe to one address of the target of a question."""

    question: Question
    probe: SentProbe
    sending: Sending


async def probe(context: Context, testbed: LoadedTestbed, command: Test, log: ActionLog) -> None:
    """Ask all questions, and report each answer. Raises RefusedError when nothing is up."""
    if context.deployed is None:
        raise RefusedError(f"{testbed.project} is not up", hint="kvm-compose up")
    ends = await Ends(context, testbed).all(command.questions)
    asked: list[AskedProbe] = []
    for question in dict.fromkeys(command.questions):
        why = _why_not(question, ends)
        sendings = [] if why else list(_sendings(question, ends))
        if why:
            log.probed(Probed(question, ProbeOutcome.UNKNOWN, why))
        elif not sendings:
            text = f"{question.source} and {question.target} have no addresses of the same family"
            log.probed(Probed(question, ProbeOutcome.LOST, text))
        for sending in sendings:
            number = len(asked) + 1
            asked.append(AskedProbe(question, SentProbe(number, question.traffic, sending.address), sending))
    for wave in waves(asked):
        await _Wave(context, testbed, command, log, ends, wave).run()


def _why_not(question: Question, ends: Mapping[str, End]) -> str:
    if question.source == INTERNET:
        return "nothing outside the testbed can be entered to send from"
    source, target = ends[question.source], ends[question.target]
    why = source.why or target.why
    if not why and source.entrance is None:
        why = source.no_entry
    if not why and not target.ports and question.target != INTERNET:
        why = f"{question.target} has no interface where packets could be observed"
    return why


def _sendings(question: Question, ends: Mapping[str, End]) -> Iterator[Sending]:
    source, target = ends[question.source], ends[question.target]
    families = {ipaddress.ip_address(each).version for each in source.addresses}
    for address in target.addresses:
        if ipaddress.ip_address(address).version in families:
            yield Sending(
                probe=question.traffic,
                address=address,
                sources=tuple(port for _, _, port in source.ports),
                targets=tuple(port for _, _, port in target.ports),
                gateways=source.gateways,
            )


def waves(asked: Sequence[AskedProbe]) -> Iterator[list[AskedProbe]]:
    """Yield probes that are sent together: as many as can be observed at once."""
    wave: list[AskedProbe] = []
    ports: set[Port] = set()
    for each in asked:
        more = {*each.sending.sources, *each.sending.targets}
        if wave and len(ports | more) > _MOST_PORTS:
            yield wave
            wave, ports = [], set()
        wave.append(each)
        ports |= more
    if wave:
        yield wave


class _Wave:
    """Probes that are sent and observed together."""

    def __init__(
        self,
        context: Context,
        testbed: LoadedTestbed,
        command: Test,
        log: ActionLog,
        ends: Mapping[str, End],
        asked: Sequence[AskedProbe],
    ) -> None:
        self._context = context
        self._testbed = testbed
        self._seconds = math.ceil(command.seconds)
        self._log = log
        self._ends = ends
        self._asked = asked
        self._evidence = Evidence()
        self._ended: dict[str, str] = {}
        self._said: dict[int, str] = {}
        self._failed: dict[str, str] = {}

    async def run(self) -> None:
        """Observe, send, wait, and report the answers."""
        ports = {
            port: (host, name)
            for each in self._asked
            for end in (each.question.source, each.question.target)
            for host, name, port in self._ends[end].ports
        }
        begun = {port: asyncio.Event() for port in ports}
        observing = [
            asyncio.create_task(self._observe(port, host, name, begun[port]))
            for port, (host, name) in ports.items()
        ]
        try:
            for each in begun.values():
                await each.wait()
            await self._send()
            await self._wait()
        finally:
            for task in observing:
                task.cancel()
            ends = await asyncio.gather(*observing, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        await self._report()

    async def _observe(self, port: Port, host: str, name: str, begun: asyncio.Event) -> None:
        """Add what an interface shows. ``begun`` is set as soon as each later packet is captured, or none."""
        captures = self._context.host(self._testbed.state.testbed_hosts[host]).captures
        wanted = Capture(target=name, filter=self._filter(), snaplen=_SNAPLEN)
        reader = PacketReader()
        why = "has its guest been switched off?"
        try:
            async with aclosing(captures.interface(name, wanted)) as stream:
                async for chunk in stream:
                    begun.set()
                    for packet in reader.read(chunk):
                        self._add(port, packet.data)
        except DriverError as error:
            why = error.message
        finally:
            begun.set()
        self._ended[port.name] = f"the observation of {name} on {host} ended: {why}"

    def _filter(self) -> str:
        """Return what is captured, as an expression of pcap-filter(7)."""
        ports = sorted({each.probe.traffic.port for each in self._asked} - {0})
        words = ["arp", "icmp", "icmp6"]
        if ports:
            some = len(ports) <= _MOST_IN_FILTER
            which = f" and ({' or '.join(f'port {each}' for each in ports)})" if some else ""
            # SYN or RST; of IPv6 (without extension headers) pcap-filter knows no flags
            words += [
                f"(udp{which})",
                f"(ip and tcp and tcp[13] & 6 != 0{which})",
                f"(ip6 and tcp and ip6[53] & 6 != 0{which})",
            ]
        return " or ".join(words)

    def _add(self, port: Port, data: bytes) -> None:
        frame = read_frame(data) if port.name not in self._evidence.overflown else None
        if frame is not None:
            self._evidence.add(port.name, frame)

    async def _send(self) -> None:
        by_source: dict[str, list[SentProbe]] = {}
        for each in self._asked:
            if not any(port.name in self._ended for port in each.sending.sources):
                by_source.setdefault(each.question.source, []).append(each.probe)
        token = secrets.token_hex(8)

        async def job(source: str, probes: Sequence[SentProbe]) -> None:
            entrance = self._ends[source].entrance
            assert entrance is not None  # noqa: S101 (only what can be entered is asked)
            with self._log.step("test", f"probe:{source}", guest=source) as step:
                try:
                    self._said |= await send(entrance, probes, token, self._seconds)
                except KvmComposeError as error:
                    self._failed[source] = error.message
                    step.say(error.message)

        await together(
            [lambda each=each: job(*each) for each in by_source.items()],  # type: ignore[misc]
            limit=_MOST_SOURCES,
        )

    async def _wait(self) -> None:
        """Wait until all is settled, or packets have had the time to arrive and to be reported."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _GRACE_SECONDS
        open_ = list(self._asked)
        while loop.time() < until:
            settled = set()
            for number, each in enumerate(open_):
                await asyncio.sleep(0)  # a guest's flood makes a look take milliseconds
                if is_settled(self._evidence.seen(each.sending)):
                    settled.add(number)
            open_ = [each for number, each in enumerate(open_) if number not in settled]
            if not open_:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _report(self) -> None:
        runs = await self._running()
        found: dict[Question, dict[str, tuple[ProbeOutcome, str]]] = {}
        for each in self._asked:
            found.setdefault(each.question, {})[each.sending.address] = self._conclude(each, runs)
        for question, answers in found.items():
            outcome, cause = best(answers)
            self._log.probed(Probed(question, outcome, cause))

    def _conclude(self, asked: AskedProbe, runs: Mapping[str, bool | None]) -> tuple[ProbeOutcome, str]:
        question = asked.question
        seen = self._evidence.seen(asked.sending)
        if not seen.sent and question.source in self._failed:
            return ProbeOutcome.UNKNOWN, self._failed[question.source]
        known = Circumstances(
            source=question.source,
            target=question.target,
            said=self._said.get(asked.probe.number, ""),
            outside=question.target == INTERNET,
            target_runs=runs.get(question.target),
        )
        outcome, cause = conclude(asked.sending, seen, known)
        if outcome is not ProbeOutcome.REACHES:
            # what was not seen proves nothing where not all was seen
            for port in (*asked.sending.sources, *asked.sending.targets):
                if port.name in self._ended:
                    return ProbeOutcome.UNKNOWN, self._ended[port.name]
                if port.name in self._evidence.overflown:
                    return ProbeOutcome.UNKNOWN, f"too many packets at {port.name}"
        return outcome, cause

    async def _running(self) -> dict[str, bool | None]:
        """Return which targets run that have not answered: a guest that hangs denies nothing."""
        silent: dict[str, None] = {}
        for each in self._asked:
            seen = self._evidence.seen(each.sending)
            if each.question.target != INTERNET and (
                (seen.arrived and not seen.answered) or seen.asked_target
            ):
                silent[each.question.target] = None
        answers = await side_by_side(map(self._runs, silent))
        return dict(zip(silent, answers, strict=True))

    async def _runs(self, name: str) -> bool | None:
        entrance = self._ends[name].entrance
        if entrance is None:
            return None
        try:
            await entrance.run(["true"], lambda _line: None, seconds=_ALIVE_SECONDS)
        except KvmComposeError:
            return False
        return True
