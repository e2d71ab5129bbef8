"""Lines on a terminal are broken between words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.monitor.console import Console
from kvmcompose.monitor.wrapping import wrapped

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("one two three four", ["one two three", "    four"]),
        ("    hint: one two three", ["    hint: one", "        two", "        three"]),
        ("name  one two three", ["name  one two", "      three"]),
        ("a word-with-hyphens", ["a", "    word-with-hyphens"]),
        ("aaaaaaaaaaaaaaaaaaaaaaaaa", ["aaaaaaaaaaaaaaaaaaaaaaaaa"]),
        ("\x1b[31mone two thr\x1b[0m x", ["\x1b[31mone two thr\x1b[0m x"]),
        ("one\n\ntwo", ["one", "", "two"]),
    ],
)
def test_lines_end_at_words(text: str, lines: list[str]) -> None:
    assert wrapped(text, 14).split("\n") == lines


@given(st.text("ab -\n", max_size=80), st.integers(10, 60))
def test_no_word_is_lost_or_cut(text: str, width: int) -> None:
    found = wrapped(text, width)
    assert found.split() == text.split()
    longest = max(map(len, text.split()), default=0)
    assert all(len(line) <= max(width, longest + width) for line in found.split("\n"))


def test_tables_and_messages_fit_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    row = ["KVM", "up", "a guest was booted under kvm, and that took a moment"]
    for on_terminal in (False, True):
        monkeypatch.setattr("sys.stdout.isatty", lambda on=on_terminal: on)
        monkeypatch.setattr("sys.stderr.isatty", lambda on=on_terminal: on)
        console = Console(colour=False)
        console.table([row], ["WHAT", "FOR", "FOUND"])
        console.error("the file artefacts/server-domain.xml was edited by hand")
        console.verbatim("x " * 30)
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        assert lines.pop() == "x " * 30
        assert "".join(captured.out.split()) == "".join(["WHATFORFOUND", *"".join(row).split(), *["x"] * 30])
        assert any(len(line) > 40 for line in [*lines, *captured.err.splitlines()]) is not on_terminal
    assert lines[1:] == ["KVM   up   a guest was booted under kvm,", "           and that took a moment"]


def test_a_table_that_is_too_wide_is_broken_between_its_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    Console(colour=False).table([["a" * 20, "b" * 20, "c"]], ["ONE", "TWO", "THREE"])
    assert capsys.readouterr().out.splitlines()[-2:] == ["a" * 20, "    " + "b" * 20 + "  c"]
