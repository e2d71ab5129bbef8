"""Judge what is expected of a testbed by what an oracle knows about it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from kvmcompose.core.answers import Answer, Oracle
from kvmcompose.core.checked import CheckDocument, CheckedExpectation, CheckedTraffic
from kvmcompose.core.document import Path, show_path
from kvmcompose.core.errors import Location
from kvmcompose.core.expectation import INTERNET, PING, Expectation, Traffic
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.pipeline.expectations import GuestNames
from kvmcompose.pipeline.logical import Documents


class Judge:
    """Asks an oracle, each question once."""

    def __init__(self, logical: LogicalTestbed, documents: Documents, oracle: Oracle) -> None:
        self._logical = logical
        self._documents = documents
        self._oracle = oracle
        self._names = GuestNames(logical.guests)
        self._answer = cache(oracle.answer)

    def document(self, matrix: Traffic | None = None) -> CheckDocument:
        """Return all lines, and with a probe every pair of guests."""
        lines = tuple(map(self.expectation, self._logical.expectations))
        return CheckDocument(
            self._logical.project,
            all(line.holds for line in lines),
            lines,
            None if matrix is None else tuple(self.matrix(matrix)),
        )

    def expectation(self, expectation: Expectation) -> CheckedExpectation:
        """Return whether a line holds."""
        count, broken = 0, []
        for source, target in self._names.pairs(expectation):  # of all guests there may be millions
            count += 1
            traffic = self._broken(source, target, expectation)
            if traffic is not None:
                broken.append(traffic)
        path: Path = ("expect", expectation.index)
        return CheckedExpectation(
            str(expectation),
            expectation.word,
            show_path(path),
            self._documents.testbed.locate(path),
            not broken,
            count,
            tuple(broken),
        )

    def matrix(self, probe: Traffic = PING) -> Iterator[CheckedTraffic]:
        """Yield every pair of guests, and each with the outside."""
        names = [*self._names.guests, INTERNET]
        for source in names:
            for target in names:
                if source != target:
                    yield self._checked(source, target, probe, self._answer(source, target, probe))

    def _broken(self, source: str, target: str, expectation: Expectation) -> CheckedTraffic | None:
        """Return the first traffic of a pair that is not as expected."""
        probes = self._oracle.probes if expectation.probe is None else (expectation.probe,)
        for probe in probes:
            answer = self._answer(source, target, probe)
            if answer.reaches is not expectation.is_allowed:
                return self._checked(source, target, probe, answer)
        return None

    def _checked(self, source: str, target: str, probe: Traffic, answer: Answer) -> CheckedTraffic:
        path = answer.cause.path
        at: Location | None = self._documents.testbed.locate(path) if path else None
        return CheckedTraffic(
            source, target, str(probe), answer.reaches, answer.arrives, answer.cause.text, at
        )
