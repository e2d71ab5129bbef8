"""How long links and sessions are valid, and that nothing is kept that would let someone in."""

from __future__ import annotations

import pytest

from kvmcompose.server.sessions import (
    IDLE_SECONDS,
    LINK_KEPT_SECONDS,
    LINK_SECONDS,
    LONGEST_SECONDS,
    Holder,
    Sessions,
)

ALICE, BOB = Holder(source="uid 1", uid=1), Holder(source="uid 2", uid=2)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(clock)


def test_a_link_expires(sessions: Sessions, clock: Clock) -> None:
    link, code = sessions.links.create(ALICE, None)
    clock.now += LINK_SECONDS - 1
    assert sessions.links.with_code(code) is link
    clock.now += 1
    assert sessions.links.with_code(code) is None
    assert sessions.links.of(ALICE.source, link.uuid) is link  # what became of it is still known
    assert sessions.links.of(BOB.source, link.uuid) is None
    clock.now += LINK_KEPT_SECONDS
    sessions.links.create(BOB, None)
    assert sessions.links.of(ALICE.source, link.uuid) is None


def test_a_session_that_is_not_used_ends(sessions: Sessions, clock: Clock) -> None:
    session, cookie, key = sessions.begin(ALICE)
    for _ in range(3):
        clock.now += IDLE_SECONDS - 1
        assert sessions.find([cookie], key) is session
    clock.now += IDLE_SECONDS
    assert sessions.find([cookie], key) is None
    assert not sessions.use(session)
    assert not sessions.any


def test_no_session_lasts_for_ever(sessions: Sessions, clock: Clock) -> None:
    session, cookie, key = sessions.begin(ALICE)
    while clock.now < 1000 + LONGEST_SECONDS - IDLE_SECONDS / 2:
        assert sessions.use(session)
        clock.now += IDLE_SECONDS / 2
    clock.now = 1000 + LONGEST_SECONDS
    assert sessions.find([cookie], key) is None


def test_a_session_that_has_ended_stays_so(sessions: Sessions) -> None:
    session, cookie, key = sessions.begin(ALICE)
    sessions.end(session)
    sessions.end(session)
    assert sessions.find([cookie], key) is None
    assert not sessions.use(session)


def test_secrets_are_long_different_and_not_kept(sessions: Sessions) -> None:
    link, code = sessions.links.create(ALICE, None)
    session, cookie, key = sessions.begin(ALICE)
    assert len({code, cookie, key}) == 3
    assert all(len(each) == 43 for each in (code, cookie, key))  # 256 bits
    kept = repr((link, session, vars(sessions), vars(sessions.links)))
    assert not any(each in kept for each in (code, cookie, key))
