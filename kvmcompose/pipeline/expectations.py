"""Which guests the lines of ``expect`` are about, and what is wrong with the lines."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from kvmcompose.core.errors import Complaint
from kvmcompose.core.expectation import INTERNET, PROTOCOLS, Expectation, Traffic
from kvmcompose.core.model import Guest
from kvmcompose.core.names import first_few

_WILDCARDS = frozenset("*?[")
#: Each pattern is compared with the name of every guest.
_MOST_PATTERNS = 1000


def _is_pattern(word: str) -> bool:
    return not _WILDCARDS.isdisjoint(word)


class GuestNames:
    """The guests that run, by the names that the YAML has for them: their own, and those of machines."""

    def __init__(self, guests: Iterable[Guest]) -> None:
        self._meant: dict[str, list[str]] = {}
        self._patterns: dict[str, tuple[str, ...]] = {}
        self.guests: list[str] = []
        for guest in guests:
            if guest.is_golden_image:
                continue
            self.guests.append(guest.name)
            for name in dict.fromkeys((guest.machine.name, guest.name)):
                self._meant.setdefault(name, []).append(guest.name)
        #: What may be meant, in order; its numbers are those of bits in ``set_of``.
        self.ordered = sorted({*self.guests, INTERNET})
        self._bits = {name: 1 << number for number, name in enumerate(self.ordered)}
        self._sets: dict[str, int] = {}

    def meant(self, word: str) -> Sequence[str]:
        """Return the guests that a name or pattern means, or ``internet``; nothing if it is unknown."""
        if word in self._meant:
            return self._meant[word]
        if word == INTERNET:
            return (INTERNET,)
        if not _is_pattern(word):
            return ()
        if word not in self._patterns:
            self._patterns[word] = tuple(name for name in self.guests if fnmatchcase(name, word))
        return self._patterns[word]

    def all_meant(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return what several words mean, each guest once."""
        return tuple(dict.fromkeys(name for word in words for name in self.meant(word)))

    def set_of(self, words: Iterable[str]) -> int:
        """Return what several words mean as a set of bits: two of them are compared at once.

        A thousand lines may each mean all of ten thousand guests.
        """
        found = 0
        for word in words:
            if word not in self._sets:
                self._sets[word] = sum({self._bits[name] for name in self.meant(word)})
            found |= self._sets[word]
        return found

    def pairs(self, expectation: Expectation) -> Iterator[tuple[str, str]]:
        """Yield each source with each target of a line. No guest is paired with itself."""
        targets = self.all_meant(expectation.targets)
        for source in self.all_meant(expectation.sources):
            yield from ((source, target) for target in targets if source != target)

    def near(self, word: str) -> str | None:
        """Return the most similar name, quoted, for a hint."""
        found = difflib.get_close_matches(word, (*self._meant, INTERNET), 1)
        return f"did you mean {found[0]!r}?" if found else None

    def has(self, name: str) -> bool:
        """Return whether a guest or machine has the name."""
        return name in self._meant


def check_expectations(
    lines: Sequence[Mapping[str, Any]], expectations: Sequence[Expectation], guests: Sequence[Guest]
) -> Iterator[Complaint]:
    """Yield what a schema cannot express: unknown guests, no pair of guests, contradicting lines."""
    if not expectations:
        return
    patterns = {word for each in expectations for word in (*each.sources, *each.targets) if _is_pattern(word)}
    if len(patterns) > _MOST_PATTERNS:
        yield Complaint(
            code="too-many",
            path=("expect",),
            message="too many patterns",
            found=str(len(patterns)),
            wanted=f"at most {_MOST_PATTERNS} that differ",
        )
        return
    names = GuestNames(guests)
    for line, expectation in zip(lines, expectations, strict=True):
        at = ("expect", expectation.index)
        several = [each for each in PROTOCOLS if each in line]
        if len(several) > 1:
            yield Complaint(
                code="several-protocols",
                path=(*at, several[1]),
                message="a line is about one protocol",
                found=" and ".join(several),
                wanted="icmp, tcp or udp, or none of them for all traffic",
                hint="write a line for each",
                at_key=True,
            )
        unknown = [
            complaint
            for key, words in (("from", expectation.sources), ("to", expectation.targets))
            for complaint in _check_words(key, line[key], words, names, at)
        ]
        yield from unknown
        ends = names.set_of(expectation.sources), names.set_of(expectation.targets)
        if not unknown and _first_pair(*ends) is None:
            only = names.all_meant(expectation.sources)[0]
            yield Complaint(
                code="no-pair",
                path=at,
                message=f"this is about {only!r} and itself only",
                wanted="a source and a target that differ",
            )
    yield from _contradictions(expectations, names)


def _check_words(
    key: str, written: object, words: Sequence[str], names: GuestNames, at: tuple[str | int, ...]
) -> Iterator[Complaint]:
    for number, word in enumerate(words):
        path = (*at, key, number) if isinstance(written, list) else (*at, key)
        if word == INTERNET and names.has(INTERNET):
            yield Complaint(
                code="ambiguous-name",
                path=path,
                message=f"{INTERNET!r} is the name of a guest, and of everything outside the testbed",
                wanted="a guest that is not called so",
                hint="rename the machine; 'id' keeps its data",
            )
        elif not names.meant(word):
            is_pattern = _is_pattern(word)
            yield Complaint(
                code="unknown-guest",
                path=path,
                message=f"no guest matches {word!r}" if is_pattern else f"there is no guest {word!r}",
                wanted=f"the name of a guest, of a machine (for all its clones), a pattern, or {INTERNET}",
                hint=f"guests: {first_few(names.guests)}" if is_pattern else names.near(word),
            )


def _contradictions(expectations: Sequence[Expectation], names: GuestNames) -> Iterator[Complaint]:
    """Yield each line that cannot hold together with an earlier one, once."""
    ends = [(names.set_of(each.sources), names.set_of(each.targets)) for each in expectations]
    for later, expectation in enumerate(expectations):
        for earlier in range(later):
            other = expectations[earlier]
            if other.is_allowed is expectation.is_allowed or not _overlap(other.probe, expectation.probe):
                continue
            common = (one & two for one, two in zip(ends[later], ends[earlier], strict=True))
            pair = _first_pair(*common)
            if pair is not None:
                source, target = (names.ordered[number] for number in pair)
                yield Complaint(
                    code="contradiction",
                    path=("expect", later, "is"),
                    message=f"this contradicts expect[{earlier}] ({other}) for {source} to {target}",
                    hint="traffic of every kind includes each protocol and port" if None in (
                        other.probe, expectation.probe
                    ) else None,
                )  # fmt: skip
                break


def _overlap(one: Traffic | None, other: Traffic | None) -> bool:
    return one is None or other is None or one == other


def _first_pair(sources: int, targets: int) -> tuple[int, int] | None:
    """Return the numbers of the first source and target that differ, of two sets of bits."""
    if not sources or not targets or (sources == targets and sources.bit_count() == 1):
        return None
    source, target = _lowest(sources), _lowest(targets)
    if source != target:
        return source, target
    others = targets & (targets - 1)  # without the lowest
    return (source, _lowest(others)) if others else (_lowest(sources & (sources - 1)), target)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
