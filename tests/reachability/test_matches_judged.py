"""OVN has the last word on matches and rows: what ``validate`` accepts, it reads."""

from __future__ import annotations

import random

import pytest

from golden.bench import GOLDEN
from golden.memory import MemoryFiles, compile_text, host
from kvmcompose.core.northbound import Row, RowRef
from kvmcompose.core.project import FileKind
from kvmcompose.networks._ovn_match import MatchError, parse_match
from kvmcompose.networks.ovn import northbound
from kvmcompose.reachability.throwaway import throwaway

pytestmark = pytest.mark.real

VALUES = [
    "10.0.0.1",
    "10.0.0.0/24",
    "10.0.0.1/24",
    "10.0.0.0/255.255.255.0",
    "fd00::1",
    "fd00::/64",
    "00:00:00:00:00:01",
    "80",
    "0x800",
    "70000",
    "6",
    "0",
    "1",
    "01:00:00:00:00:00/01:00:00:00:00:00",
    '"a"',
    '"b-0"',
    "4095",
    "255",
    "300",
    "$as",
    "x",
    "0x1/0x1",
    "{}",
    "1.2.3",
    "1/1",
]
VALUES += ["{80, 443}", "{10.0.0.1 10.0.0.2}", '{"a","b"}', "{80,}"]
FIELDS = [
    "eth.src",
    "eth.dst",
    "eth.type",
    "vlan.tci",
    "vlan.vid",
    "ip.proto",
    "ip.dscp",
    "ip.ttl",
    "ip.frag",
    "ip4.src",
    "ip4.dst",
    "ip6.src",
    "ip6.label",
    "icmp4.type",
    "icmp6.code",
    "arp.op",
    "arp.spa",
    "arp.sha",
    "nd.target",
    "nd.sll",
    "tcp.src",
    "tcp.flags",
    "udp.dst",
    "sctp.src",
    "ct_mark",
    "ct_label",
    "inport",
    "outport",
    "ip",
    "ip4",
    "ip6",
    "icmp",
    "igmp",
    "arp",
    "rarp",
    "nd",
    "nd_ra",
    "mldv2",
    "tcp",
    "udp",
    "eth.mcast",
    "eth.bcast",
    "ip4.mcast",
    "ip.is_frag",
    "vlan.present",
    "ct.new",
    "ct.est",
    "ct.rpl",
    "foo",
    "ip4.src[0..7]",
    "tcp.flags[1]",
    "eth.src[40]",
    "ip4.src[32]",
]
RELATIONS = ("==", "==", "==", "!=", "!=", "<", "<=", ">", ">=", "=")


def atom(draw: random.Random) -> str:
    field, relation = draw.choice(FIELDS), draw.choice(RELATIONS)
    value = draw.choice(VALUES)
    return draw.choice(
        [
            field,
            f"{field} {relation} {value}",
            f"{field} {relation} {value}",
            f"{value} {relation} {field}",
            f"{value} {relation} {field} {draw.choice(RELATIONS)} {draw.choice(VALUES)}",
            draw.choice("01"),
        ]
    )


def expression(draw: random.Random, depth: int = 0) -> str:
    kind = draw.random() if depth < 3 else 0
    if kind < 0.55:
        return atom(draw)
    if kind < 0.7:
        return "!" + draw.choice([atom(draw), f"({expression(draw, depth + 1)})"])
    if kind < 0.8:
        return f"({expression(draw, depth + 1)})"
    operator = draw.choice([" && ", " || "])
    return operator.join(expression(draw, depth + 1) for _ in range(draw.randint(2, 3)))


def is_accepted(text: str) -> bool:
    try:
        parse_match(text)
    except MatchError:
        return False
    return True


def refused_by_ovn(matches: list[str]) -> set[str]:
    switch = RowRef("Logical_Switch", "s")
    rows = [Row(ref=switch, columns={"name": "s"})]
    rows += [
        Row(
            ref=RowRef("ACL", str(number)),
            columns={"direction": "to-lport", "priority": number, "match": match, "action": "drop"},
            parent=switch,
            parent_column="acls",
        )
        for number, match in enumerate(matches)
    ]
    with throwaway(rows) as ovn:
        return {match for match, _ in ovn.unparsed()}


def test_ovn_reads_every_match_that_is_accepted() -> None:
    draw = random.Random(14)  # noqa: S311 (not for secrets)
    texts = sorted(
        {expression(draw) for _ in range(3000)} | {f"{one} == {two}" for one in FIELDS for two in VALUES}
    )
    accepted = [text for text in texts if is_accepted(text)]
    assert len(accepted) > 300
    refused = refused_by_ovn(accepted)
    assert not [text for text in accepted if refused & {text, f"({text})"}]


def test_ovn_refuses_what_is_refused_except_addresses_of_another_kind() -> None:
    """The comparison would succeed for OVN, with the bits of the address, which nobody means."""
    matches = [
        "!arp", "!ip", "ip.proto != 6", 'inport != "a"', "!tcp.dst == 80", "ip4 || tcp && udp", "tcp.dst",
        "inport == 'a'", "tcp.dst == 70000", "ip4.src == fd00::1", "ip4.scr == 10.0.0.1", "(ip4",
        "ip4 and tcp", "nd_ns_mcast", "icmp4.type >= 8", "outport == x", "tcp.flags[12]", "ip4.src == {}",
    ]  # fmt: skip
    assert not [match for match in matches if is_accepted(match)]
    refused = refused_by_ovn(matches)
    assert [match for match in matches if not refused & {match, f"({match})"}] == []


def test_ovn_takes_the_rows_of_a_golden_project() -> None:
    class AnyFiles(MemoryFiles):
        def kind(self, path: str) -> FileKind:
            return FileKind.FILE

        def image_names(self) -> tuple[str, ...]:
            return ("debian_12", "ubuntu_20_04")

    text = (
        (GOLDEN / "ovn-three-hosts" / "kvm-compose.yaml").read_text().replace("testbed-host-two", "ovn-one")
    )
    alone = "machines:\n  - {name: lonely, network: [{switch: isolated}], docker: {image: x}}\n"
    text = text.replace("machines:\n", alone, 1)
    text = text.replace("    switches:\n", "    switches:\n      isolated: {subnet: 10.9.0.0/24}\n", 1)
    compiled = compile_text(text, files=AnyFiles(), on=(host("ovn-one"),))
    with throwaway(northbound(compiled.state)) as ovn:
        assert ovn.unparsed() == []
        flows = ovn.select("OVN_Southbound", "Logical_Flow", ["match", "actions"])
    assert any("dns_lookup" in flow["actions"] for flow in flows)
    # the address to ask is that of no guest, and on no host
    questions = [flow for flow in flows if "arp.tpa == 10.9.0.254 && arp.op == 1" in flow["match"]]
    assert any("arp.op = 2" in flow["actions"] for flow in questions)
    assert any("check_pkt_larger(14" in flow["actions"] for flow in flows)
