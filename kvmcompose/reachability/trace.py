"""Read what ``ovn-trace --detailed --minimal`` says about one packet (ovn-trace(8)).

The detailed trace has a section for each pipeline that the packet passes, each lookup of a connection and
each translation of an address, with the logical flows that matched. The minimal one has the fields of the
packet where it leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.errors import KvmComposeError

_MINIMAL = "# Minimal trace."
_PIPELINE = re.compile(
    r'(?:ingress|egress)\(dp="(?P<datapath>[^"]*)", inport="(?P<inport>[^"]*)"'
    r'(?:, outport="(?P<outport>[^"]*)")?'
)
_FLOW = re.compile(
    r"\s*\d+\. (?P<stage>\w+)(?: \([^)]*\))?: (?P<match>.*?)"
    r"(?:, priority \d+, uuid (?P<uuid>[0-9a-f]+))?"
)
_ASSIGNMENT = re.compile(r"([\w.]+) = (.*);")
_OUTPUT = re.compile(r'output\("(.*)"\);')
_TRANSLATION = re.compile(
    r"ct_(?P<kind>snat|dnat)\w*(?:\((?P<field>ip[46]\.(?:src|dst))=(?P<value>[^)]*)\))?"
)
#: Blocks in which a packet is made that is not the one asked about.
_OTHER_PACKETS = (
    "arp",
    "icmp4",
    "icmp6",
    "tcp_reset",
    "reject",
    "nd_na",
    "nd_na_router",
    "nd_ns",
    "sctp_abort",
)


class Pipeline(msgspec.Struct, frozen=True):
    """A pipeline of a switch or router. ``outport`` is empty in an ingress pipeline."""

    datapath: str
    inport: str
    outport: str

    @property
    def zone(self) -> str:
        """The port whose connections a switch looks up here."""
        return self.outport or self.inport


class FlowStep(msgspec.Struct, frozen=True):
    """A logical flow that matched; ``uuid`` is empty where none did, which drops the packet."""

    place: Pipeline
    stage: str
    match: str
    uuid: str
    actions: tuple[str, ...]


class Translation(msgspec.Struct, frozen=True):
    """An address that a router replaced. ``field`` is empty where it found no connection to restore.

    ``before`` are the fields of the packet until then, ``value`` is the new address.
    """

    place: Pipeline
    is_source: bool
    field: str
    value: str
    before: Mapping[str, str]


class Output(msgspec.Struct, frozen=True):
    """Where a packet leaves, and its fields. ``within`` are the blocks that it was made in."""

    port: str
    fields: Mapping[str, str]
    within: tuple[str, ...]

    @property
    def is_original(self) -> bool:
        """Return whether this is the packet asked about, not one that was made because of it."""
        return not any(each in _OTHER_PACKETS for each in self.within)


class Trace(msgspec.Struct, frozen=True):
    """The path of a packet. ``lookups`` are the zones of connections that were looked up, in order."""

    outputs: tuple[Output, ...]
    steps: tuple[FlowStep, ...]
    lookups: tuple[str, ...]
    translations: tuple[Translation, ...]

    @property
    def is_rejected(self) -> bool:
        """Return whether a flow rejects the packet."""
        return any(action.startswith("reject {") for step in self.steps for action in step.actions)


def read_trace(text: str, fields: Mapping[str, str]) -> Trace:
    """Parse a trace of a packet with these fields. Raises KvmComposeError for an error message."""
    detailed, found, minimal = text.partition(_MINIMAL)
    if not found:
        raise KvmComposeError(f"ovn-trace: {text.strip()}")
    steps: list[FlowStep] = []
    lookups: list[str] = []
    places: list[Pipeline] = []
    for place, header, body in _sections(detailed):
        if header.startswith("ct_next("):
            lookups.append(place.zone)
        elif _TRANSLATION.match(header):
            places.append(place)
        steps += _steps(place, body)
    outputs, blocks = _minimal(minimal, fields)
    translations = [
        Translation(place, kind == "snat", field, value, before)
        for place, (kind, field, value, before) in zip(places, blocks, strict=False)
    ]
    return Trace(tuple(outputs), tuple(steps), tuple(lookups), tuple(translations))


def _sections(text: str) -> Iterator[tuple[Pipeline, str, list[str]]]:
    """Yield the sections: the pipeline that each is in, its header, and its lines."""
    lines = text.splitlines()
    starts = [
        number
        for number in range(len(lines) - 1)
        if lines[number].strip() and set(lines[number + 1].strip()) == {"-"}
    ]
    place = Pipeline("", "", "")
    for number, start in enumerate(starts):
        header = lines[start].strip()
        pipeline = _PIPELINE.match(header)
        if pipeline is not None:
            place = Pipeline(pipeline["datapath"], pipeline["inport"], pipeline["outport"] or "")
        end = starts[number + 1] if number + 1 < len(starts) else len(lines)
        yield place, header, lines[start + 2 : end]


def _steps(place: Pipeline, lines: Sequence[str]) -> Iterator[FlowStep]:
    flow: re.Match[str] | None = None
    actions: list[str] = []
    for line in lines:
        found = _FLOW.fullmatch(line)
        if found is None:
            actions.append(line.strip())
            continue
        if flow is not None:
            yield _step(place, flow, actions)
        flow, actions = found, []
    if flow is not None:
        yield _step(place, flow, actions)


def _step(place: Pipeline, flow: re.Match[str], actions: Sequence[str]) -> FlowStep:
    return FlowStep(place, flow["stage"], flow["match"], flow["uuid"] or "", tuple(filter(None, actions)))


_Block = tuple[str, str, str, dict[str, str]]


def _minimal(text: str, fields: Mapping[str, str]) -> tuple[list[Output], list[_Block]]:
    """Return where packets leave, and the translations: kind, field, value, and the fields before."""
    outputs: list[Output] = []
    blocks: list[_Block] = []
    stack: list[tuple[str, dict[str, str]]] = [("", dict(fields))]
    for line in map(str.strip, text.splitlines()):
        now = stack[-1][1]
        if line.endswith("{"):
            translation = _TRANSLATION.match(line)
            inner = dict(now)
            if translation is not None:
                field, value = translation["field"] or "", translation["value"] or ""
                blocks.append((translation["kind"], field, value, now))
                if translation["field"]:
                    inner[translation["field"]] = translation["value"]
            stack.append((re.split(r"[ ({]", line, maxsplit=1)[0], inner))
        elif line.startswith("}"):
            stack.pop()
        elif output := _OUTPUT.match(line):
            outputs.append(Output(output[1], dict(now), tuple(block for block, _ in stack[1:])))
        elif assignment := _ASSIGNMENT.match(line):
            now[assignment[1]] = assignment[2]
    return outputs, blocks
