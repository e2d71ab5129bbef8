"""Judge what is expected of a testbed by what packets between running guests did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kvmcompose.core.checked import CheckDocument
from kvmcompose.core.document import Path, show_path
from kvmcompose.core.expectation import INTERNET, Expectation, Traffic
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.core.probe import Probed, ProbeOutcome, Question
from kvmcompose.core.tested import TestDocument, TestedExpectation, TestedTraffic, Verdict
from kvmcompose.pipeline.expectations import GuestNames
from kvmcompose.pipeline.logical import Documents

_NOT_ASKED = "it was not tested"


class PacketJudge:
    """Knows what has to be asked, and what follows. ``probes`` stand for traffic of every kind."""

    __test__ = False  # for pytest

    def __init__(self, logical: LogicalTestbed, documents: Documents, probes: Sequence[Traffic]) -> None:
        self._logical = logical
        self._documents = documents
        self._probes = probes
        self._names = GuestNames(logical.guests)

    def questions(self) -> tuple[Question, ...]:
        """Return all questions, each once."""
        found: dict[Question, None] = {}
        for expectation in self._logical.expectations:
            for source, target in self._pairs(expectation):
                found.update(dict.fromkeys(self._asked(expectation, source, target)))
        return tuple(found)

    def document(self, answers: Mapping[Question, Probed], checked: CheckDocument | None) -> TestDocument:
        """Return how all lines fared; ``checked`` is what holds before anything boots, if that is known."""
        known = [line.holds for line in checked.expectations] if checked is not None else None
        lines = tuple(
            self._line(each, answers, known[each.index] if known is not None else None)
            for each in self._logical.expectations
        )
        good = (Verdict.HOLDS, Verdict.SKIPPED)
        return TestDocument(self._logical.project, all(line.verdict in good for line in lines), lines)

    def _pairs(self, expectation: Expectation) -> Iterator[tuple[str, str]]:
        """Yield the pairs that packets can be sent between."""
        return (pair for pair in self._names.pairs(expectation) if pair[0] != INTERNET)

    def _asked(self, expectation: Expectation, source: str, target: str) -> Iterator[Question]:
        for probe in self._probes if expectation.probe is None else (expectation.probe,):
            yield Question(source, target, str(probe))

    def _line(
        self, expectation: Expectation, answers: Mapping[Question, Probed], checked: bool | None
    ) -> TestedExpectation:
        pairs = sum(1 for _ in self._names.pairs(expectation))
        asked, broken, unknown = 0, [], []
        for source, target in self._pairs(expectation):
            asked += 1
            found = [
                answers.get(each) or Probed(each, ProbeOutcome.UNKNOWN, _NOT_ASKED)
                for each in self._asked(expectation, source, target)
            ]
            breaks = [each for each in found if _breaks(each, expectation)]
            if breaks:
                broken.append(_traffic(breaks[0]))
            unknown += [_traffic(each) for each in found if each.outcome is ProbeOutcome.UNKNOWN][:1]
        verdict = (
            Verdict.BROKEN
            if broken
            else Verdict.UNKNOWN
            if unknown
            else Verdict.HOLDS
            if asked
            else Verdict.SKIPPED
        )
        path: Path = ("expect", expectation.index)
        return TestedExpectation(
            text=str(expectation),
            wanted=expectation.word,
            path=show_path(path),
            at=self._documents.testbed.locate(path),
            verdict=verdict,
            pairs=pairs,
            skipped=pairs - asked,
            broken=tuple(broken),
            unknown=tuple(unknown),
            checked=checked,
        )


def _breaks(answer: Probed, expectation: Expectation) -> bool:
    if answer.outcome is ProbeOutcome.UNKNOWN:
        return False
    return (answer.outcome is ProbeOutcome.REACHES) is not expectation.is_allowed


def _traffic(answer: Probed) -> TestedTraffic:
    question = answer.question
    return TestedTraffic(question.source, question.target, question.protocol, answer.outcome, answer.cause)


def tested_text(traffic: TestedTraffic) -> str:
    """Return traffic and what became of it in one line."""
    return f"{traffic.source} to {traffic.target}, {traffic.protocol}: {traffic.cause}"


def broken_lines(line: TestedExpectation) -> Iterator[str]:
    """Yield what is to be said about a line beside its verdict."""
    yield from map(tested_text, line.broken)
    yield from (f"not tested: {tested_text(each)}" for each in line.unknown)
    if line.skipped:
        yield f"not tested: {line.skipped} of {line.pairs} pairs, as nothing outside can send packets"
    differs = {(Verdict.BROKEN, True): "holds", (Verdict.HOLDS, False): "is broken"}
    word = differs.get((line.verdict, bool(line.checked))) if line.checked is not None else None
    if word is not None:
        yield f"by kvm-compose check it {word}"
