"""Check access control lists."""

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterator, Sequence

from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.model import Machine
from kvmcompose.networks._ovn_check_guests import interfaces
from kvmcompose.networks._ovn_deny import LOWEST
from kvmcompose.networks._ovn_match import Match, MatchError, parse_match, without_quotes
from kvmcompose.networks._ovn_model import OvnNetwork, Path, Rule
from kvmcompose.networks._ovn_names import check_switch

#: ovn-controller computes the flows of all projects on a host: 33,000 took it 7 s, and `up` waits for it.
FLOWS_OF_RULE, FLOWS_OF_ALL = 40_000, 100_000


def check_acl(network: OvnNetwork, machines: Sequence[Machine], at: Path) -> Iterator[Complaint]:
    """Yield the problems of all rules."""
    ports = _port_names(network, machines)
    flows = 0
    for switch, rules in network.acl.switches.items():
        path: Path = (*at, "switches", switch)
        if switch not in network.switches:
            yield from check_switch(switch, network.switches, path, at_key=True)
            continue
        seen: dict[tuple[str, int, str], int] = {}
        for index, rule in enumerate(rules):
            match = yield from _rule(rule, ports[switch], (*path, index))
            flows += match.flows if match is not None and match.flows <= FLOWS_OF_RULE else 0
            other = seen.setdefault(
                (rule.direction, rule.priority, " ".join(without_quotes(rule.match).split())), index
            )
            if other != index:
                same = rules[other].action == rule.action
                yield Complaint(
                    code="duplicate-rule",
                    path=(*path, index),
                    message=f"the rule {other} of {switch!r} has the same direction, priority and match"
                    + ("" if same else f", but the action {rules[other].action!r}"),
                )
            if network.acl.apply_deny_all and rule.priority < LOWEST:
                yield Complaint(
                    code="out-of-range",
                    path=(*path, index, "priority"),
                    message="the rules of 'apply_deny_all' have the priorities 0 and 1",
                    found=str(rule.priority),
                    wanted=f"{LOWEST} to 32767",
                )
    if flows > FLOWS_OF_ALL:
        yield Complaint(
            code="bad-match",
            path=(*at, "switches"),
            message=f"OVN would make up to {flows:,} flows of these rules on each host",
            wanted=f"at most {FLOWS_OF_ALL:,}",
            hint="subnets in place of addresses, or fewer exceptions (!=)",
            at_key=True,
        )
    if network.acl.apply_deny_all:
        yield from _one_way([rule for rules in network.acl.switches.values() for rule in rules], at)


def _one_way(rules: Sequence[Rule], at: Path) -> Iterator[Complaint]:
    """Yield a warning where guests may receive, but none may send: rules for one direction only."""
    allowed = {rule.direction for rule in rules if rule.action.startswith("allow")}
    if allowed == {"to-lport"}:
        yield Complaint(
            code="one-way-rules",
            path=(*at, "apply_deny_all"),
            message="guests can send nothing but replies: no rule allows from-lport",
            hint="add a rule to each switch with guests that send, such as {direction: from-lport, "
            "priority: 10, match: ip, action: allow-related}",
            at_key=True,
            severity=Severity.WARNING,
        )


def foreign_ports(
    network: OvnNetwork, machines: Sequence[Machine], project: str, at: Path
) -> Iterator[Complaint]:
    """Yield the ports in valid rules that have the name of another project before their own."""
    ports = _port_names(network, machines)
    for switch, rules in network.acl.switches.items():
        for index, rule in enumerate(rules):
            for name in parse_match(rule.match).ports:
                if name not in ports[switch] and name.removeprefix(f"{project}-") not in ports[switch]:
                    yield Complaint(
                        code="bad-match",
                        path=(*at, "switches", switch, index, "match"),
                        message=f"the switch has no port {name!r} in the project {project!r}",
                        wanted="the name of a port, without that of the project",
                    )


def _port_names(network: OvnNetwork, machines: Sequence[Machine]) -> dict[str, set[str]]:
    """Return what ports of each switch may be called, without the project's name."""
    found: dict[str, set[str]] = {
        name: {port.name for port in switch.ports} for name, switch in network.switches.items()
    }
    for router in network.routers.values():
        for port in router.ports:
            found.get(port.switch, set()).add(port.name)
    for machine in machines:
        count: dict[str, int] = {}
        on: dict[tuple[str, str], int] = {}
        for _, guest, attachment in interfaces(machine):
            index = count.get(guest, 0)
            count[guest] = index + 1
            switch = attachment.segment
            on[switch, guest] = on.get((switch, guest), 0) + 1
            found.get(switch, set()).add(f"{switch}-{guest}-{index}")
        for (switch, guest), times in on.items():
            if times == 1:
                found.get(switch, set()).add(guest)
    return found


def _rule(rule: Rule, ports: set[str], path: Path) -> Generator[Complaint, None, Match | None]:
    """Yield the problems of a rule; return its match, None if it is none."""
    at: Path = (*path, "match")
    try:
        match = parse_match(rule.match)
    except MatchError as error:
        column = f" (at character {error.position + 1})" if error.position is not None else ""
        yield Complaint(
            code="bad-match",
            path=at,
            message=f"{error.message}{column}",
            found=repr(rule.match),
            wanted="an expression of OVN, such as ip4.src == 10.0.0.10 && tcp.dst == 80",
            hint=error.hint,
        )
        return None
    if match.flows > FLOWS_OF_RULE:
        yield Complaint(
            code="bad-match",
            path=at,
            message=f"OVN would make up to {match.flows:,} flows of this rule on each host: alternatives of "
            "different fields are multiplied, and so are exceptions (!=)",
            wanted=f"at most {FLOWS_OF_RULE:,}",
            hint="write a rule for each alternative, or one of a higher priority for each exception",
        )
    plain = without_quotes(rule.match)
    if plain != rule.match:
        yield Complaint(
            code="bad-match",
            path=at,
            message="OVN knows no single quotes: the rule is carried out without them",
            found=repr(rule.match),
            wanted=plain,
            severity=Severity.WARNING,
        )
    for name in match.ports:
        # the project's name, which is not known here, may come before: see `foreign_ports`
        if name not in ports and not any(name.endswith(f"-{port}") for port in ports):
            near = difflib.get_close_matches(name, sorted(ports), 1)
            yield Complaint(
                code="bad-match",
                path=at,
                message=f"the switch has no port {name!r}",
                wanted=f"one of: {', '.join(sorted(ports)[:40])}" if ports else "a port of the switch",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
    if rule.direction == "from-lport" and match.uses_outport:
        yield Complaint(
            code="bad-match",
            path=at,
            message="'outport' is not known where packets enter the switch",
            wanted="'inport', or the direction to-lport",
        )
    return match
