"""How many flows OVN makes of a match.

ovn-controller brings an expression into the form OR(AND(clause)), where a clause compares one field with
one or several values (lib/expr.c of OVN). A conjunction of alternatives about several fields is multiplied
out: with thirty alternatives of three comparisons it does not end, on any host, for any project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import msgspec

#: Larger numbers count as this one.
_MOST = 10**9


class MatchSize(msgspec.Struct, frozen=True):
    """An upper bound for an expression: ``terms`` are those of the OR, ``flows`` those of Open vSwitch.

    ``widest`` is, by field, the largest number of values in a clause. ``field`` is the field that all
    comparisons are about, None for several.
    """

    terms: int = 1
    flows: int = 1
    widest: Mapping[str, int] = {}
    field: str | None = None


def compared(field: str, values: int, *, is_apart: bool) -> MatchSize:
    """Return the size of a comparison with so many values, which OVN multiplies out if ``is_apart``."""
    values = min(values, _MOST)
    if is_apart:
        return MatchSize(values, values)
    return MatchSize(1, values, {field: values}, field)


def either(parts: Sequence[MatchSize]) -> MatchSize:
    """Return the size of a disjunction."""
    if len(parts) == 1:
        return parts[0]
    flows = min(sum(each.flows for each in parts), _MOST)
    fields = {each.field for each in parts}
    if len(fields) == 1 and (field := parts[0].field) is not None:
        return MatchSize(1, flows, {field: flows}, field)
    # values of one field are terms of their own beside those of others
    terms = sum(each.terms if each.field is None else each.flows for each in parts)
    widest: dict[str, int] = {}
    for each in parts:
        for name, values in each.widest.items() if each.field is None else ():
            widest[name] = max(values, widest.get(name, 1))
    return MatchSize(min(terms, _MOST), flows, widest)


def both(parts: Sequence[MatchSize]) -> MatchSize:
    """Return the size of a conjunction."""
    if len(parts) == 1:
        return parts[0]
    widest: dict[str, int] = {}
    for each in parts:
        for name, values in each.widest.items():
            widest[name] = min(values * widest.get(name, 1), _MOST)
    fields = {each.field for each in parts}
    if len(fields) == 1 and (field := parts[0].field) is not None:
        return MatchSize(1, widest[field], widest, field)
    terms = min(prod(each.terms for each in parts), _MOST)
    return MatchSize(terms, min(terms * max(1, sum(widest.values())), _MOST), widest)
