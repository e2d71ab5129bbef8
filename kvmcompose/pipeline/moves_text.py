"""Word what an edit moves without naming it, and the lines that prevent it. Nothing else words this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import yaml

from kvmcompose.pipeline.moves import Move, Moves

#: How many changes a text lists.
_SHOWN = 40


def moves_text(found: Moves, file: str = "kvm-compose.yaml") -> str:
    """Return what changes, the lines to paste into ``file``, and what no line prevents; empty if nothing."""
    if not found:
        return ""
    parts = ["this edit also changes what it does not name:", *_listed(found.moves)]
    if found.lines:
        kept = "the rest" if found.unkept else "everything"
        where = "; 'interfaces' is the whole list of its machine" if "machines" in found.lines else ""
        parts += ["", f"to keep {kept} as it is, add these lines to {file}{where}:", "", lines_text(found)]
    if found.unkept:
        parts += ["", "no line prevents:", *_listed(found.unkept)]
    return "\n".join(parts)


def lines_text(found: Moves) -> str:
    """Return the lines as YAML, without a final newline; empty if there are none."""
    if not found.lines:
        return ""
    order = [key for key in ("testbed_options", "network", "machines") if key in found.lines]
    rest = [key for key in found.lines if key not in order]
    document = {key: found.lines[key] for key in (*order, *rest)}
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return text.rstrip("\n")


def move_text(move: Move) -> str:
    """Return one change: ``web: address 10.1.2.3/20 -> 10.9.2.3/20 (interface 1, on lan)``."""
    if move.guest is None:
        return f"bridge {move.bridge}: {move.fact} {move.old} -> {move.new}"
    nic = f" (interface {move.index}, on {move.bridge})" if move.index is not None else ""
    return f"{move.guest}: {move.fact} {move.old} -> {move.new}{nic}"


def _listed(moves: Iterable[Move]) -> Iterator[str]:
    """Yield a line for each change, under its reason if it has one. Of very many, the first are listed."""
    every = list(moves)
    for why, group in groupby(every[:_SHOWN], key=lambda each: each.why):
        listed = list(group)
        if why is not None:
            yield f"  because {why}:"
        yield from (f"  {'  ' if why else ''}{move_text(each)}" for each in listed)
    if len(every) > _SHOWN:
        yield f"  and {len(every) - _SHOWN} more"
