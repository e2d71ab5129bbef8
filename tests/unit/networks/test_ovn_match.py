"""The grammar of matches. ``tests/judges`` asks OVN itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ovn_labs import lab, machine, problems

from kvmcompose.networks._ovn_match import Match, MatchError, parse_match, without_quotes


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "ip",
        "ip4 && ip4.src == 10.0.0.11 && ip4.dst == 10.0.0.12",
        "(ip4 || ip6) && tcp.dst == {80, 443}",
        "ip4.dst == {10.0.0.1 10.0.0.2}",
        "ip6.src == fd00:1::/64 && udp.dst >= 1024",
        "1 <= tcp.src < 1024",
        "eth.dst[40]",
        "eth.type == 0x800",
        "!(ip4.src == 10.0.0.0/255.255.255.0)",
        "!ct.new && ct.est == 1",
        "arp || nd || (udp.src == 68 && udp.dst == 67)",
        "ip4.src[0..7] == 10",
    ],
)
def test_expressions_of_ovn(text: str) -> None:
    match = parse_match(text)
    assert (match.ports, match.uses_outport) == ((), False)


def test_ports_are_collected() -> None:
    assert parse_match('outport == {"a", "b"} || inport == "a"') == Match(("a", "b"), True, 3)


def test_single_quotes_around_addresses_are_left_out() -> None:
    text = "ip4.src == '10.0.0.0/24' && tcp.dst == '80'"
    match = parse_match(text)
    assert (match.ports, match.uses_outport) == ((), False)
    assert without_quotes(text) == "ip4.src == 10.0.0.0/24 && tcp.dst == 80"
    with pytest.raises(MatchError) as caught:
        parse_match(f"{text} && !")
    assert caught.value.message == "the expression ends where an expression is expected"


@pytest.mark.parametrize(
    ("text", "message", "position", "hint"),
    [
        ("inport == 'a'", "OVN knows no single quotes", 10, 'write "a"'),
        ("inport == a", "'a' is not a value", 10, 'a name is in double quotes: "a"'),
        ("ip4.scr == 10.0.0.1", "OVN knows no field 'ip4.scr'", 0, "did you mean 'ip4.src'?"),
        ("ip4 and tcp", "'and' is not expected here", 4, "write &&"),
        ("ip4 & tcp", "'& tcp' is not part of an expression", 4, "write &&"),
        ("ip4.src = 10.0.0.1", "'= 10.0.0.1' is not part of an expression", 8, "write =="),
        ("ip4 || tcp && udp", "&& and || are mixed without parentheses", 11, None),
        ("(ip4", "the expression ends where ')' is expected", None, None),
        ("", "the expression ends where an expression is expected", None, None),
        ("tcp.dst", "'tcp.dst' needs a value", 0, "write tcp.dst == …"),
        ("tcp.dst == 70000", "70000 does not fit into 'tcp.dst', which has 16 bits", 11, None),
        ("ip4.src == fd00::1", "fd00::1 does not fit into 'ip4.src', which has 32 bits", 11, None),
        ("ip6.src == 10.0.0.1", "10.0.0.1 is not a value of 'ip6.src'", 11, None),
        ("ip4.src == 10.0.0.300", "10.0.0.300 is neither a number nor an address", 11, None),
        ("ip4.src == $web", "there is no set '$web'", 11, "write the values in braces: {a, b}"),
        ('inport == "a', "the quotation mark is not closed", 10, None),
        ("ip.proto != 6", "OVN compares 'ip.proto' with == only, and cannot negate that", 9, ...),
        ('inport != "a"', "OVN compares 'inport' with == only, and cannot negate that", 7, ...),
        ("!arp", "OVN cannot negate 'arp'", 1, ...),
        ("!(tcp || udp)", "OVN cannot negate 'tcp'", 2, ...),
        ("!tcp.dst == 80", "the comparison after '!' needs parentheses", 1, None),
        ("tcp.flags[12]", "the field has the bits 0 to 11", 10, None),
    ],
)
def test_what_is_wrong_is_said_at_its_place(
    text: str, message: str, position: int | None, hint: str | None
) -> None:
    with pytest.raises(MatchError) as caught:
        parse_match(text)
    assert (caught.value.message, caught.value.position) == (message, position)
    if hint is not ...:
        assert caught.value.hint == hint


@given(st.text(alphabet="ip4.src=!&|(){}[]<>\"' 01:/fdtcp,$@\\", max_size=60) | st.text(max_size=30))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    try:
        parse_match(text)
    except MatchError as refusal:
        error = refusal
    else:
        return
    assert error.message
    assert error.position is None or 0 <= error.position < len(text)


@pytest.mark.parametrize("text", ["(" * 5000 + "ip" + ")" * 5000, "!" * 5000 + "ct.new"])
def test_deep_expressions_are_refused(text: str) -> None:
    with pytest.raises(MatchError, match=r"nested too deeply|too many"):
        parse_match(text)


def test_long_expressions_are_read() -> None:
    assert parse_match("ip && " * 5000 + "ip").ports == ()


#: OVN 23.03 makes 32,816 flows of fifteen of these, in seven seconds.
MIXED = "(ip4.src[{0}] == 1 || ip4.dst[{0}] == 1)"


@pytest.mark.parametrize(
    ("text", "flows"),
    [
        ("ip4", 1),
        ("ip4.src == {10.0.0.1, 10.0.0.2} && tcp.dst == {1, 2, 3}", 5),  # a conjunction of Open vSwitch
        ("ip.proto == {1, 2, 3} && ip4.src == {10.0.0.1, 10.0.0.2}", 6),  # which some fields cannot be in
        ("ip4.src != 10.0.0.1", 32),  # one for each bit
        ("!(ip4.src == 10.0.0.1)", 32),
        ("tcp.dst != {22, 80}", 256),
        ("tcp.dst >= 1024 && tcp.dst < 2000", 256),
        ("tcp.dst == 1 || tcp.dst == 2 || ip4.src == 10.0.0.1", 3),
        (" && ".join(MIXED.format(number) for number in range(15)), 32768),
        ("ip4.src != 10.0.0.0/8", 8),
        ("ip4.src != {10.0.0.0/8, 172.16.0.0/255.240.0.0}", 96),
    ],
)
def test_how_many_flows_ovn_makes_of_a_match(text: str, flows: int) -> None:
    assert parse_match(text).flows == flows


def rules(*matches: str) -> str:
    entries = (
        f"{{direction: to-lport, priority: {number + 10}, match: '{match}', action: drop}}"
        for number, match in enumerate(matches)
    )
    return f"{{switches: {{sw0: [{', '.join(entries)}]}}}}"


def test_a_match_that_would_keep_ovn_busy_for_ever_is_refused() -> None:
    text = " && ".join(MIXED.format(number) for number in range(30))
    (problem,) = problems(lab(machine("web", 1), acl=rules(text)))
    assert problem.code == "bad-match"
    assert "flows of this rule on each host" in problem.message
    assert problems(lab(machine("web", 1), acl=rules(*[f"ip4.src != 10.0.0.{n}" for n in range(100)]))) == ()
    many = [f"ip4.src != {{10.0.0.{number}, 10.0.1.{number}, 10.2.0.0}}" for number in range(4)]
    (problem,) = problems(lab(machine("web", 1), acl=rules(*many)))
    assert "flows of these rules on each host" in problem.message
