from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.images.catalogue import Checksum
from kvmcompose.images.download import Download, Downloaded, fetch_small

if TYPE_CHECKING:
    from pathlib import Path

    from fileserver import Served, Web

    from kvmcompose.images.catalogue import ChecksumAlgorithm

Get = Callable[..., Downloaded]

CONTENT = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(40_000))  # 1.28 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RIGHT = Checksum("sha256", SHA256)
HALF = len(CONTENT) // 2


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def get(tmp_path: Path, pauses: list[float]) -> Get:
    """Download to a file in the test's folder, without waiting between attempts."""

    def call(url: str, **how: Any) -> Downloaded:
        how = {"checksum": RIGHT, "sleep": pauses.append, "timeout": (2, 2)} | how
        return Download(url, tmp_path / "disk", **how).run()

    return call


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_leaves_no_other(web: Web, get: Get, tmp_path: Path) -> None:
    seen = []
    got = get(web.put("disk", CONTENT), progress=lambda done, total: seen.append((done, total)))
    assert got.path.read_bytes() == CONTENT
    assert (got.size, got.sha256) == (len(CONTENT), SHA256)
    assert left_behind(tmp_path) == ["disk"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_broken_connection_is_continued_where_it_broke(web: Web, get: Get, pauses: list[float]) -> None:
    url = web.put("disk", CONTENT, cut=[HALF, 200_000])
    assert get(url).path.read_bytes() == CONTENT
    first, second, third = web.asked("disk")
    assert "Range" not in first
    starts = [int(asked["Range"].removeprefix("bytes=").rstrip("-")) for asked in (second, third)]
    assert 0 < starts[0] <= HALF < starts[1]
    # at most one chunk of what was sent twice per break
    assert web.sent["disk"] <= len(CONTENT) + 2 * 16 * 1024
    assert pauses == [1.0, 1.0]  # each attempt received something, so the pauses do not grow


def test_another_process_resumes_the_part(web: Web, get: Get, tmp_path: Path) -> None:
    url = web.put("disk", CONTENT, cut=[HALF] + [0] * 9)
    with pytest.raises(KvmComposeError, match="cannot fetch") as caught:
        get(url)
    assert caught.value.hint == "the next attempt resumes the download"
    assert left_behind(tmp_path) == ["disk.part"]
    web.files["disk"].cut.clear()
    sent = web.sent["disk"]
    assert get(url).sha256 == SHA256
    assert web.sent["disk"] - sent < len(CONTENT) - HALF + 16 * 1024 + 1
    assert left_behind(tmp_path) == ["disk"]


def test_failures_without_a_new_byte_are_counted_with_growing_pauses(
    web: Web, get: Get, pauses: list[float]
) -> None:
    with pytest.raises(KvmComposeError, match="tried 5 times"):
        get(web.put("disk", CONTENT, cut=[0] * 20))
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert len(web.requests) == 5


def test_a_server_that_ignores_range_sends_all_again(web: Web, get: Get) -> None:
    assert get(web.put("disk", CONTENT, cut=[HALF], ranges=False)).sha256 == SHA256
    assert web.sent["disk"] > len(CONTENT)


def test_a_file_that_changed_between_attempts_starts_over(web: Web, get: Get) -> None:
    def change(served: Served) -> None:
        served.content, served.after = CONTENT, None

    got = get(web.put("disk", bytes(len(CONTENT)), cut=[HALF], after=change))
    assert got.path.read_bytes() == CONTENT


def test_a_file_that_became_shorter_starts_over(web: Web, get: Get) -> None:
    def change(served: Served) -> None:
        served.content, served.after = CONTENT, None

    got = get(web.put("disk", CONTENT * 2, cut=[len(CONTENT) + 300_000], after=change))
    assert got.path.read_bytes() == CONTENT


def test_without_a_checksum_nothing_is_resumed(web: Web, get: Get) -> None:
    def change(served: Served) -> None:
        served.content, served.after = CONTENT, None

    got = get(web.put("disk", bytes(len(CONTENT)), cut=[HALF], after=change), checksum=None)
    assert got.path.read_bytes() == CONTENT
    assert "Range" not in web.asked("disk")[1]


def test_a_part_of_something_else_starts_over(web: Web, get: Get, tmp_path: Path) -> None:
    with pytest.raises(KvmComposeError):
        get(web.put("other", bytes(len(CONTENT)), cut=[HALF] + [0] * 9))
    assert get(web.put("disk", CONTENT)).path.read_bytes() == CONTENT
    assert left_behind(tmp_path) == ["disk"]


def test_a_part_that_is_complete_already_is_not_sent_again(web: Web, get: Get, tmp_path: Path) -> None:
    url = web.put("disk", CONTENT)
    (tmp_path / "disk.part").write_bytes(CONTENT)
    assert get(url).sha256 == SHA256
    assert web.sent.get("disk", 0) == 0


def test_a_complete_part_with_wrong_bytes_starts_over(web: Web, get: Get, tmp_path: Path) -> None:
    url = web.put("disk", CONTENT)
    (tmp_path / "disk.part").write_bytes(bytes(len(CONTENT)))
    assert get(url).path.read_bytes() == CONTENT


def test_another_range_than_asked_for_is_thrown_away(web: Web, get: Get) -> None:
    url = web.put("disk", CONTENT, cut=[HALF], wrong_range=True)
    assert get(url).path.read_bytes() == CONTENT
    assert "Range" not in web.asked("disk")[2]


def test_wrong_bytes_are_refused_and_named(web: Web, get: Get, tmp_path: Path) -> None:
    wrong = b"<html>please log in</html>"
    with pytest.raises(KvmComposeError) as caught:
        get(web.put("disk", wrong))
    assert hashlib.sha256(wrong).hexdigest() in caught.value.message
    assert SHA256 in caught.value.message
    assert left_behind(tmp_path) == []
    assert len(web.requests) == 1  # nothing was continued, so asking again would bring the same


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha384", "sha512"])
def test_every_published_algorithm_is_checked(web: Web, get: Get, algorithm: ChecksumAlgorithm) -> None:
    url = web.put("disk", CONTENT)
    digest = hashlib.new(algorithm, CONTENT, usedforsecurity=False).hexdigest()
    assert get(url, checksum=Checksum(algorithm, digest)).sha256 == SHA256
    with pytest.raises(KvmComposeError, match=algorithm):
        get(url, checksum=Checksum(algorithm, digest.translate(str.maketrans("0123456789", "1234567890"))))


def test_a_content_length_that_is_too_large_ends_well_once_all_is_there(web: Web, get: Get) -> None:
    assert get(web.put("disk", CONTENT, claimed_length=len(CONTENT) + 5)).sha256 == SHA256


def test_a_content_length_that_is_too_small_is_found_out(web: Web, get: Get, tmp_path: Path) -> None:
    with pytest.raises(KvmComposeError, match="not what was published"):
        get(web.put("disk", CONTENT, claimed_length=len(CONTENT) - 5))
    assert left_behind(tmp_path) == []


def test_a_missing_file_fails_at_once(web: Web, get: Get, pauses: list[float], tmp_path: Path) -> None:
    with pytest.raises(KvmComposeError, match="HTTP status 404"):
        get(f"{web.url}/nothing")
    assert pauses == []
    assert left_behind(tmp_path) == []


def test_a_server_error_is_asked_again(web: Web, get: Get, pauses: list[float]) -> None:
    assert get(web.put("disk", CONTENT, statuses=[500, 503, 429])).sha256 == SHA256
    assert pauses == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("asked", "pause"), [("7", 7.0), ("100000", 60.0), ("-3", 1.0), ("soon", 1.0)])
def test_the_pause_a_server_asks_for_is_kept_within_limits(
    web: Web, get: Get, pauses: list[float], asked: str, pause: float
) -> None:
    get(web.put("disk", CONTENT, statuses=[503], retry_after=asked))
    assert pauses == [pause]


def test_a_slow_server_is_waited_for(web: Web, get: Get) -> None:
    assert get(web.put("disk", CONTENT, pause=0.02), timeout=(1, 1)).sha256 == SHA256


def test_a_silent_server_is_given_up(web: Web, get: Get, pauses: list[float]) -> None:
    started = time.monotonic()
    with pytest.raises(KvmComposeError, match="timed out"):
        get(web.put("disk", CONTENT, chunk=HALF, pause=1.0), timeout=(1, 0.2), attempts=1)
    assert time.monotonic() - started < 5


def test_no_server_at_all(get: Get, pauses: list[float]) -> None:
    with pytest.raises(KvmComposeError, match="refused"):
        get("http://127.0.0.1:9/disk", attempts=2)
    assert pauses == [1.0]


@pytest.mark.parametrize("send_length", [True, False])
def test_a_file_beyond_the_limit_is_refused(web: Web, get: Get, tmp_path: Path, send_length: bool) -> None:
    url = web.put("disk", CONTENT, send_length=send_length)
    with pytest.raises(KvmComposeError, match="too large"):
        get(url, max_bytes=HALF)
    assert left_behind(tmp_path) == []


def test_a_file_larger_than_the_disk_is_refused_before_it_is_fetched(web: Web, get: Get) -> None:
    with pytest.raises(RefusedError, match="more bytes"):
        get(web.put("disk", CONTENT, claimed_length=2**62), max_bytes=2**63)


def test_only_web_and_local_urls(get: Get) -> None:
    for url in ("ftp://127.0.0.1/disk", "disk", "data:,x"):
        with pytest.raises(KvmComposeError, match="only http, https and file"):
            get(url)


def test_a_file_url_is_copied(get: Get, tmp_path: Path) -> None:
    source = tmp_path / "a disk"
    source.write_bytes(CONTENT)
    assert get(source.as_uri()).sha256 == SHA256
    with pytest.raises(KvmComposeError, match="No such file"):
        get((tmp_path / "none").as_uri())
    with pytest.raises(KvmComposeError, match="another machine"):
        get("file://elsewhere/disk")


def test_a_folder_that_cannot_be_written_is_no_traceback(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KvmComposeError, match="cannot write"):
        Download(web.put("disk", CONTENT), tmp_path / "file" / "disk").run()


def test_a_text_is_fetched(web: Web) -> None:
    assert fetch_small(web.put("SUMS", b"abc  d\xffe\n")) == b"abc  d\xffe\n"
