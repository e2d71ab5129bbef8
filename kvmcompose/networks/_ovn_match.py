"""The grammar of matches: OVN's expressions, as ovn-sb(5) describes them (table Logical_Flow, ``match``)."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import NoReturn

import msgspec

from kvmcompose.networks._ovn_match_size import MatchSize, both, compared, either

#: Fields that hold a number, with their width in bits.
_NUMBERS = {
    "eth.src": 48, "eth.dst": 48, "eth.type": 16, "vlan.tci": 16, "vlan.pcp": 3, "vlan.vid": 12,
    "ip.proto": 8, "ip.dscp": 6, "ip.ecn": 2, "ip.ttl": 8, "ip.frag": 2,
    "ip4.src": 32, "ip4.dst": 32, "ip6.src": 128, "ip6.dst": 128, "ip6.label": 20,
    "icmp4.type": 8, "icmp4.code": 8, "icmp6.type": 8, "icmp6.code": 8,
    "arp.op": 16, "arp.spa": 32, "arp.tpa": 32, "arp.sha": 48, "arp.tha": 48,
    "nd.target": 128, "nd.sll": 48, "nd.tll": 48,
    "tcp.src": 16, "tcp.dst": 16, "tcp.flags": 12, "udp.src": 16, "udp.dst": 16,
    "sctp.src": 16, "sctp.dst": 16, "pkt.mark": 32, "ct_mark": 32, "ct_label": 128, "ct_state": 32,
}  # fmt: skip
#: Fields that OVN only compares for equality, because Open vSwitch has no masks for them.
_NOMINAL = frozenset(
    (
        "inport", "outport", "eth.type", "ip.proto", "ip.dscp", "ip.ecn", "ip.ttl", "icmp4.type",
        "icmp4.code", "icmp6.type", "icmp6.code", "arp.op",
    )
)  # fmt: skip
#: Words that are true or false by themselves. Those of protocols cannot be negated.
_PROTOCOLS = frozenset(
    (
        "ip", "ip4", "ip6", "icmp", "icmp4", "icmp6", "igmp", "arp", "rarp", "nd", "nd_ns", "nd_na", "nd_rs",
        "nd_ra", "mldv1", "mldv2", "tcp", "udp", "sctp",
    )
)  # fmt: skip
_BITS = frozenset(("eth.mcast", "ct.trk", "ct.new", "ct.est", "ct.rel", "ct.rpl", "ct.inv"))
_PREDICATES = _BITS | _PROTOCOLS | {
    "eth.bcast", "eth.mcastv6", "vlan.present", "ip4.mcast", "ip6.mcast", "ip.is_frag", "ip.later_frag",
    "ip.first_frag",
}  # fmt: skip
_PORTS = ("inport", "outport")
_KNOWN = (*_NUMBERS, *sorted(_PREDICATES), *_PORTS)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<constant>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:/[0-9A-Fa-f:.]+)?     # MAC and IPv6 addresses
        | [0-9]+(?:\.[0-9]+){3}(?:/[0-9.]+)?                           # IPv4 addresses
        | 0[xX][0-9A-Fa-f]+(?:/0[xX][0-9A-Fa-f]+)?
        | [0-9]+(?:/[0-9]+)?(?![\w:]|\.(?!\.)) )
    | (?P<set>[$@][A-Za-z_.][\w.]*)
    | (?P<word>[A-Za-z_][\w.]*)
    | (?P<operator>&&|\|\||==|!=|<=|>=|\.\.|[<>!(){},\[\]])
    )""",
    re.VERBOSE,
)
#: A number or an address in single quotes, as files of TestbedOS have it. OVN knows no single quotes.
_QUOTED = re.compile(r"'([0-9]+|[0-9A-Fa-f]*[:.][0-9A-Fa-f:./]+)'")
_RELATIONS = frozenset(("==", "!=", "<", "<=", ">", ">="))
_NEGATED = "write a rule for it, and one of a lower priority for everything else"
#: More values than can be excluded from a field together: each multiplies the flows by its bits.
_SEVERAL = 40
#: As deep as OVN nests, more or less.
_DEEPEST = 100
_MAC = re.compile(r"[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}")


class Match(msgspec.Struct, frozen=True):
    """What a valid match refers to: the ports that it names. OVN makes at most so many ``flows`` of it."""

    ports: tuple[str, ...]
    uses_outport: bool
    flows: int = 1


class MatchError(Exception):
    """The match is not an expression of OVN. ``position`` counts characters from 0."""

    def __init__(self, message: str, position: int | None = None, hint: str | None = None) -> None:
        self.message = message
        self.position = position
        self.hint = hint
        super().__init__(message)


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    position: int


def parse_match(text: str) -> Match:
    """Parse a match, in which numbers and addresses may be in single quotes. Raises MatchError."""
    parser = _Parser(_tokens(_QUOTED.sub(r" \1 ", text)))
    size = parser.expression(0)
    parser.end()
    return Match(tuple(dict.fromkeys(parser.ports)), parser.uses_outport, size.flows)


def without_quotes(text: str) -> str:
    """Return a match as OVN reads it, without single quotes around numbers and addresses."""
    return _QUOTED.sub(r"\1", text)


def _tokens(text: str) -> list[_Token]:
    found = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        token = _TOKEN.match(text, position)
        if token is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            _bad_character(text, start)
        kind = str(token.lastgroup)
        found.append(_Token(kind, token[kind], token.start(kind)))
        position = token.end()
    return found


def _bad_character(text: str, position: int) -> NoReturn:
    rest = text[position:]
    if rest.startswith("'"):
        inside = rest[1:].partition("'")[0]
        raise MatchError("OVN knows no single quotes", position, hint=f'write "{inside}"')
    if rest.startswith('"'):
        raise MatchError("the quotation mark is not closed", position)
    doubled = {"&": "&&", "|": "||", "=": "=="}
    hint = f"write {doubled[rest[0]]}" if rest[0] in doubled else None
    raise MatchError(f"{rest[:12]!r} is not part of an expression", position, hint=hint)


class _Parser:
    """A recursive-descent parser, without a result but ports and sizes."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._negated = False
        self.ports: list[str] = []
        self.uses_outport = False

    def end(self) -> None:
        """Require that nothing is left."""
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            words = {"and": "&&", "or": "||", "not": "!"}
            hint = f"write {words[token.text.lower()]}" if token.text.lower() in words else None
            self._fail(f"{token.text!r} is not expected here", token, hint)

    def expression(self, depth: int) -> MatchSize:
        """Parse terms joined by one operator: OVN has no precedence between the two."""
        if depth > _DEEPEST:
            raise MatchError("the parentheses are nested too deeply")
        sizes = [self._term(depth)]
        first = self._peek()
        while (operator := self._peek()) in ("&&", "||"):
            if operator != first:
                self._fail("&& and || are mixed without parentheses", self._tokens[self._next])
            self._take()
            sizes.append(self._term(depth))
        return both(sizes) if (first == "&&") != self._negated else either(sizes)

    def _term(self, depth: int) -> MatchSize:
        token = self._take("an expression")
        if token.text == "!":
            return self._not(token, depth)
        if token.text == "(":
            size = self.expression(depth + 1)
            self._require(")")
            return size
        if token.text in ("0", "1") and self._peek() not in _RELATIONS:
            return MatchSize()
        if token.text == "is_chassis_resident":
            self._require("(")
            self._take("the name of a port in double quotes", "string")
            self._require(")")
            return MatchSize()
        return self._relation(token) if token.kind == "word" else self._reversed(token)

    def _not(self, token: _Token, depth: int) -> MatchSize:
        if depth > _DEEPEST:
            self._fail("too many '!'", token)
        start = self._next
        self._negated = not self._negated
        size = self._term(depth + 1)
        self._negated = not self._negated
        operand = self._tokens[start : self._next]
        if operand[0].text not in ("(", "!") and any(each.text in _RELATIONS for each in operand):
            self._fail("the comparison after '!' needs parentheses", operand[0])
        return size

    def _relation(self, token: _Token) -> MatchSize:
        """Parse ``field == value``, or a word that is true or false."""
        width = self._field(token)
        if self._peek() in _RELATIONS:
            return self._values(token, self._take(), width)
        if width != 1 and not (self._negated and width):
            wanted = f'{token.text} == "port"' if token.text in _PORTS else f"{token.text} == …"
            self._fail(f"{token.text!r} needs a value", token, f"write {wanted}")
        if token.text in _PROTOCOLS and self._negated:
            self._fail(f"OVN cannot negate {token.text!r}", token, _NEGATED)
        return MatchSize()

    def _field(self, token: _Token) -> int:
        """Return the width in bits of a field, or of the part of it in brackets; 0 for a port."""
        name = token.text
        self.uses_outport |= name == "outport"
        if name in _PORTS:
            return 0
        if name in _PREDICATES:
            return 1
        if name not in _NUMBERS:
            hint = next(iter(difflib.get_close_matches(name, _KNOWN, 1, 0.5)), None)
            self._fail(f"OVN knows no field {name!r}", token, f"did you mean {hint!r}?" if hint else None)
        width = _NUMBERS[name]
        if self._peek() != "[":
            return width
        self._take()
        low = high = self._bit(width)
        if self._peek() == "..":
            self._take()
            high = self._bit(width)
        closing = self._require("]")
        if high < low:
            self._fail("the bits are in the wrong order", closing)
        return high - low + 1

    def _bit(self, width: int) -> int:
        token = self._take("the number of a bit", "constant")
        if not token.text.isdecimal() or int(token.text) >= width:
            self._fail(f"the field has the bits 0 to {width - 1}", token)
        return int(token.text)

    def _reversed(self, token: _Token) -> MatchSize:
        """Parse ``value == field``, or ``low <= field <= high``."""
        values = self._set(token)
        operator = self._take("a comparison")
        if operator.text not in _RELATIONS:
            self._fail(f"{operator.text!r} is not expected here", operator)
        field = self._take("a field", "word")
        width = self._field(field)
        self._check(field, operator, width, values, is_set=token.text == "{")
        size = self._size(field, operator, width, values)
        if self._peek() in _RELATIONS:
            second = self._take()
            if operator.text[0] != second.text[0] or operator.text[0] not in "<>":
                self._fail("a range has the same kind of comparison twice", second, "write 1 <= tcp.dst <= 9")
            sizes = [size, self._values(field, second, width)]
            return either(sizes) if self._negated else both(sizes)
        return size

    def _values(self, field: _Token, operator: _Token, width: int) -> MatchSize:
        token = self._take("a value")
        values = self._set(token)
        self._check(field, operator, width, values, is_set=token.text == "{")
        return self._size(field, operator, width, values)

    def _size(self, field: _Token, operator: _Token, width: int, values: Sequence[_Token]) -> MatchSize:
        """Return the size of a comparison. One that is not for equality has an alternative for each bit."""
        is_apart = field.text in _NOMINAL and field.text not in _PORTS
        if operator.text == ("!=" if self._negated else "=="):
            return compared(field.text, len(values), is_apart=is_apart)
        bits = prod(max(1, _compared_bits(each.text, width)) for each in values[:_SEVERAL])
        return compared(field.text, bits, is_apart=is_apart)

    def _set(self, token: _Token) -> list[_Token]:
        """Return a value, or the values in braces."""
        if token.text != "{":
            if token.kind not in ("constant", "string", "set"):
                hint = None
                if token.kind == "word":
                    hint = f'a name is in double quotes: "{token.text}"'
                self._fail(f"{token.text!r} is not a value", token, hint)
            return [token]
        found = []
        while True:
            found.append(self._take("a value"))
            if found[-1].kind not in ("constant", "string", "set"):
                self._fail(f"{found[-1].text!r} is not a value", found[-1])
            if self._peek() == ",":
                self._take()
            if self._peek() == "}":
                self._take()
                return found

    def _check(
        self, field: _Token, operator: _Token, width: int, values: list[_Token], *, is_set: bool
    ) -> None:
        is_equality = operator.text in ("==", "!=")
        ordered = width > 0 and field.text not in _NOMINAL
        ordered &= field.text not in _PREDICATES or field.text in _BITS
        if not is_equality and (is_set or not ordered):
            self._fail(f"{field.text!r} is compared here with == or != only", operator)
        if field.text in _NOMINAL and (operator.text == "!=") != self._negated:
            self._fail(
                f"OVN compares {field.text!r} with == only, and cannot negate that", operator, _NEGATED
            )
        for value in values:
            if value.kind == "set":
                self._fail(f"there is no set {value.text!r}", value, "write the values in braces: {a, b}")
            if (value.kind == "string") != (width == 0):
                wanted = "a port in double quotes" if width == 0 else "a number or an address, without quotes"
                self._fail(f"{value.text} is not a value of {field.text!r}", value, f"write {wanted}")
            if value.kind == "string":
                self.ports.append(value.text[1:-1])
            else:
                self._fits(field, width, value, is_equality=is_equality)
            negative = (value.text == "0") ^ (operator.text == "!=") ^ self._negated
            if field.text in _PROTOCOLS and negative:
                self._fail(f"OVN cannot negate {field.text!r}", value, _NEGATED)

    def _fits(self, field: _Token, width: int, value: _Token, *, is_equality: bool) -> None:
        text, slash, mask_text = value.text.partition("/")
        if slash and not (is_equality and _is_mask(text, mask_text)):
            self._fail(f"{value.text} is not a value of {field.text!r}", value)
        number = _number(text)
        if number is None:
            self._fail(f"{value.text} is neither a number nor an address", value)
        kind = _kind(text)
        needed = {"IPv4": 32, "IPv6": 128, "MAC": 48}.get(kind)
        # OVN compares the bits that are there, but an address of another kind is a mistake
        if (needed is not None and needed > width) or number >= 2**width:
            self._fail(f"{value.text} does not fit into {field.text!r}, which has {width} bits", value)
        if needed is not None and needed < width:
            self._fail(f"{value.text} is not a value of {field.text!r}", value)

    def _peek(self) -> str | None:
        return self._tokens[self._next].text if self._next < len(self._tokens) else None

    def _take(self, wanted: str = "more", kind: str | None = None) -> _Token:
        if self._next == len(self._tokens):
            raise MatchError(f"the expression ends where {wanted} is expected")
        token = self._tokens[self._next]
        if kind is not None and token.kind != kind:
            self._fail(f"{wanted} is expected, not {token.text!r}", token)
        self._next += 1
        return token

    def _require(self, text: str) -> _Token:
        token = self._take(repr(text))
        if token.text != text:
            words = {"and": "&&", "or": "||"}
            hint = f"write {words[token.text.lower()]}" if token.text.lower() in words else None
            self._fail(f"{text!r} is expected, not {token.text!r}", token, hint)
        return token

    def _fail(self, message: str, token: _Token, hint: str | None = None) -> NoReturn:
        raise MatchError(message, token.position, hint)


def _is_mask(text: str, mask: str) -> bool:
    """Return whether a mask, or a prefix length, goes with a value."""
    bits = {"IPv4": 32, "IPv6": 128}.get(_kind(text))
    if bits is not None and mask.isdecimal():
        return int(mask) <= bits
    return _kind(mask) == _kind(text) and _number(mask) is not None


def _compared_bits(text: str, width: int) -> int:
    """Return how many bits of a field a value is about."""
    _, slash, mask = text.partition("/")
    if not slash:
        return width
    if _kind(mask) == "number" and _kind(text.partition("/")[0]) != "number":
        return int(mask)
    return (_number(mask) or 0).bit_count()


def _kind(text: str) -> str:
    if _MAC.fullmatch(text):
        return "MAC"
    if ":" in text:
        return "IPv6"
    return "IPv4" if "." in text else "number"


def _number(text: str) -> int | None:
    """Return the value of a constant; None for an invalid one."""
    with suppress(ValueError):
        if _MAC.fullmatch(text):
            return int("".join(each.zfill(2) for each in text.split(":")), 16)
        if ":" in text or "." in text:
            return int(ipaddress.ip_address(text))
        return int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    return None
