"""Lines as they come, and the file of host keys."""

from __future__ import annotations

from pathlib import Path

import hypothesis
from hypothesis import strategies

from kvmcompose.hosts.lines import LONGEST_LINE, Lines
from kvmcompose.providers.guest.known_hosts import KnownHosts


def told(*chunks: bytes) -> list[str]:
    seen: list[str] = []
    lines = Lines(seen.append)
    for chunk in chunks:
        lines.feed(chunk)
    lines.end()
    return seen


def test_lines_are_put_together_from_pieces() -> None:
    assert told(b"on", b"e\ntw", b"o\r\n\nlast") == ["one", "two", "", "last"]
    assert told() == []
    assert told(b"\n") == [""]
    assert told("ü".encode()[:1], "ü".encode()[1:]) == ["ü"]
    assert told(b"\xff\n") == ["\ufffd"]


def test_line_without_an_end_is_cut() -> None:
    assert [len(line) for line in told(*[b"x" * 10_000] * 20)] == [LONGEST_LINE] * 3 + [
        200_000 - 3 * LONGEST_LINE
    ]
    assert [len(line) for line in told(b"x" * (2 * LONGEST_LINE + 5) + b"\ny")] == [LONGEST_LINE] * 2 + [5, 1]


@hypothesis.given(strategies.text(alphabet="ab\n"), strategies.lists(strategies.integers(0, 20)))
def test_where_pieces_end_does_not_matter(text: str, cuts: list[int]) -> None:
    data, chunks = text.encode(), []
    for cut in cuts:
        chunks.append(data[:cut])
        data = data[cut:]
    assert told(*chunks, data) == text.splitlines()


def test_host_keys_are_noted_and_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "known_hosts"
    known = KnownHosts(path)
    assert known.key("p-one") is None
    known.forget("p-one")
    assert not path.exists()
    known.note("p-one", "ssh-ed25519 AAAA1")
    known.note("p-two", "ssh-ed25519 AAAA2")
    known.note("p-one", "ssh-ed25519 AAAA3")
    assert path.read_text() == "p-two ssh-ed25519 AAAA2\np-one ssh-ed25519 AAAA3\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert known.key("p-two") == "ssh-ed25519 AAAA2"
    known.forget("p-two")
    assert known.key("p-two") is None


def test_what_others_wrote_stays(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    lines = ["# a comment", "p-one,10.0.0.1 ssh-rsa AAAA1 comment", "|1|hashed= ssh-rsa AAAA2", "broken", ""]
    path.write_text("\n".join(lines))
    known = KnownHosts(path)
    assert known.key("p-one") == "ssh-rsa AAAA1"
    known.note("p-one", "ssh-ed25519 AAAA3")
    assert path.read_text().splitlines() == [lines[0], *lines[2:4], "p-one ssh-ed25519 AAAA3"]
