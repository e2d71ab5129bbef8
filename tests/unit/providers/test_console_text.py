"""A text is found in what a guest prints, in whatever pieces it comes."""

from __future__ import annotations

from kvmcompose.providers.console_logs.console_text import TextSearch


def found(text: str, *pieces: bytes) -> bool:
    search = TextSearch(text)
    return any(search.feed(each) for each in pieces)


def test_a_prompt_does_not_end_its_line() -> None:
    assert found("login:", b"Debian GNU/Linux 12\r\n\r\nweb login: ")
    assert not found("login:", b"Debian GNU/Linux 12\r\n")


def test_it_may_come_byte_by_byte() -> None:
    assert found("web login:", *(bytes([each]) for each in b"x\r\nweb login: "))


def test_colours_are_left_out() -> None:
    line = b"[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mMulti-User System\x1b[0m.\r\n"
    assert found("Reached target Multi-User System.", line)
    assert found("Reached target Multi-User", line[:40], line[40:])


def test_it_is_on_one_line_and_no_pattern() -> None:
    assert not found("a b", b"a\nb", b"a\r b")
    assert not found(".*", b"anything\n")
    assert found(".*", b"a .* b\n")


def test_an_endless_line_takes_no_memory() -> None:
    search = TextSearch("login:")
    for _ in range(100):
        assert not search.feed(b"x" * 65536)
    assert len(search._line) <= 1 << 13
    assert search.feed(b"login:")


def test_bytes_that_are_no_text() -> None:
    assert found("Grüße", b"\xff\xfe Gr\xc3\xbc\xc3\x9fe\n")
