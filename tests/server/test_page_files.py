"""The files of the page: for everybody, with types, compression and caching, and nothing else of the disk."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from signed_in import Answer, Browser
from stub import StubServer

from kvmcompose.server.api import page

_INDEX = b"<!doctype html><script type=module src=/assets/main-1A2B3C.js></script>"
_SCRIPT = b"console.log(1);\n" * 100


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page that is built."""
    made = tmp_path / "web"
    (made / "assets").mkdir(parents=True)
    (made / "index.html").write_bytes(_INDEX)
    for name, content in (("main-1A2B3C.js", _SCRIPT), ("icon-9.svg", b"<svg/>"), ("a-1.css", b"a{}")):
        (made / "assets" / name).write_bytes(content)
    (made / "assets" / "main-1A2B3C.js.gz").write_bytes(gzip.compress(_SCRIPT))
    (made / "LICENSES").write_text("all of them")
    monkeypatch.setattr(page, "_page", page.Page(made))
    return made


def get(server: StubServer, path: str, method: str = "GET", **headers: str | None) -> Answer:
    return Browser(server.port).ask(method, path, **headers)


def test_the_page_is_for_everybody_and_runs_nothing_from_elsewhere(
    shared_stub: StubServer, folder: Path
) -> None:
    answer = get(shared_stub, "/", Sec_Fetch_Site="cross-site")  # a link on another page
    assert (answer.status, answer.content) == (200, _INDEX)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    (policy,) = answer.headers.get_all("Content-Security-Policy") or ()
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert "unsafe" not in policy
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Set-Cookie" not in answer.headers


def test_what_has_a_digest_in_its_name_is_kept_for_ever(shared_stub: StubServer, folder: Path) -> None:
    for name, kind in (("main-1A2B3C.js", "text/javascript; charset=utf-8"), ("icon-9.svg", "image/svg+xml")):
        answer = get(shared_stub, f"/assets/{name}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert get(shared_stub, "/assets/a-1.css", Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip, deflate, br", True),
        ("br;q=1.0, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("", False),
    ],
)
def test_it_is_compressed_for_who_takes_it(
    shared_stub: StubServer, folder: Path, accepted: str, *, packed: bool
) -> None:
    answer = get(shared_stub, "/assets/main-1A2B3C.js", Accept_Encoding=accepted)
    assert answer.headers.get("Content-Encoding") == ("gzip" if packed else None)
    assert (gzip.decompress(answer.content) if packed else answer.content) == _SCRIPT
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_what_is_known_is_not_sent_again(shared_stub: StubServer, folder: Path) -> None:
    first = get(shared_stub, "/", "HEAD")
    assert (first.status, first.content) == (200, b"")
    assert first.headers["Content-Length"] == str(len(_INDEX))
    tag = first.headers["ETag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        again = get(shared_stub, "/", If_None_Match=known)
        assert (again.status, again.content) == (304, b"")
        assert again.headers["Content-Security-Policy"] == first.headers["Content-Security-Policy"]
    (folder / "new.html").write_bytes(b"<p>new")
    (folder / "new.html").rename(folder / "index.html")
    changed = get(shared_stub, "/", If_None_Match=tag)
    assert (changed.status, changed.content) == (200, b"<p>new")


@pytest.mark.parametrize(
    "path",
    [
        "/assets/",
        "/assets/../index.html",
        "/assets/../LICENSES",
        "/assets/..",
        "/assets//etc/passwd",
        "/assets/%2e%2e/index.html",
        "/assets/..%2findex.html",
        "/assets/main-1A2B3C.js.gz",
        "/assets/main-1A2B3C.js%00.css",
        "/assets/secret",
        "/assets/folder",
        "/assets/folder/x",
        "/assets/main-1A2B3C.js/",
    ],
)
def test_nothing_else_is_sent(shared_stub: StubServer, folder: Path, path: str) -> None:
    (folder / "assets" / "folder").mkdir()
    (folder / "assets" / "folder" / "x").write_text("a secret")
    (folder / "secret").write_text("a secret")
    answer = get(shared_stub, path)
    assert answer.status == 404
    assert b"secret" not in answer.content.removeprefix(path.encode())


def test_the_page_is_read_only(shared_stub: StubServer, folder: Path) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert get(shared_stub, "/assets/a-1.css", method).status == 405
    assert get(shared_stub, "/index.html").status == 401  # like all that is not public


def test_without_a_page_a_hint_is_shown(
    shared_stub: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_page", page.Page(tmp_path))
    answer = get(shared_stub, "/")
    assert answer.status == 404
    assert b"make page" in answer.content
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert os.fsencode(tmp_path) not in answer.content
