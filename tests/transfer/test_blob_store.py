"""What a host is sent, piece by piece: it arrives whole or not at all, whatever breaks on the way.

The host is this machine here, with folders of the test's own in the place of those in /var/lib; what is to be
broken is broken in between.
"""

# ruff: noqa: ASYNC240 - a test has its loop to itself
from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from driver_errors import error_of
from kvmcompose.hosts import blob_commands, remote_blobs
from kvmcompose.hosts.blob_store import Blob
from kvmcompose.hosts.command import CommandRunner, Completed
from kvmcompose.hosts.errors import HostLostError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.remote_blobs import RemoteBlobStore

pytestmark = pytest.mark.real

PIECE = 1 << 16
HOME = "desk:/home/ann/lab"
#: Where data is in a file, and how long the file is: (offset, length)…, size.
SHAPES: dict[str, tuple[tuple[tuple[int, int], ...], int]] = {
    "empty": ((), 0),
    "one byte": (((0, 1),), 1),
    "all hole": ((), 5 * PIECE + 77),
    "one piece": (((0, PIECE),), PIECE),
    "pieces": (((0, 4 * PIECE + 4096),), 4 * PIECE + 4096),
    "an odd end": (((0, 2 * PIECE + 12345),), 2 * PIECE + 12345),
    "a trailing hole": (((0, PIECE + 4096),), 9 * PIECE + 1),
    "a leading hole": (((7 * PIECE + 8192, PIECE),), 8 * PIECE + 8192),
    "islands": (((4096, 4096), (3 * PIECE - 4096, 8192), (6 * PIECE, 2 * PIECE)), 20 * PIECE),
}


class Broken:
    """A machine whose connection breaks in some calls: before, within or after what is to be done there."""

    def __init__(self, how: str = "", at: Callable[[int], bool] = lambda _: False) -> None:
        self.machine: CommandRunner = LocalRunner("two")
        self.name = self.machine.name
        self.calls = 0
        self._how, self._at = how, at

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        self.calls += 1
        breaks = self._at(self.calls)
        if breaks and self._how == "before":
            raise HostLostError("before")
        if breaks and self._how == "half" and stdin:
            stdin = stdin[: len(stdin) // 2 + 1]
        check = check and not breaks  # nobody hears how it ended
        done = await self.machine.run(argv, stdin=stdin, seconds=seconds, privileged=privileged, check=check)
        if breaks:
            raise HostLostError(self._how)
        return done

    async def reach(self) -> None:
        raise AssertionError("nobody asks")

    def stream(self, *_: object, **__: object) -> AsyncGenerator[bytes]:
        raise AssertionError("nothing is streamed here")


class Place:
    """Folders of a host, sources beside them, and how much was told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hosted, self.contents = root / "hosted", root / "store"
        self.contents.mkdir()
        self.told: list[int] = []

    def blobs(self, machine: Broken | None = None) -> RemoteBlobStore:
        return RemoteBlobStore(machine or Broken(), self.hosted, self.contents)

    def source(self, shape: str, name: str = "source") -> tuple[Path, str]:
        """A file of that shape, and its digest."""
        path = self.root / name
        islands, size = SHAPES[shape]
        chance = random.Random(shape)  # noqa: S311
        with path.open("wb") as file:
            for offset, length in islands:
                file.seek(offset)
                file.write(chance.randbytes(length))
            file.truncate(size)
        return path, digest_of(path)

    def file(self, text: str, name: str = "source", mode: int = 0o644) -> tuple[Path, str]:
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        return path, digest_of(path)

    def stored(self) -> list[str]:
        return sorted(path.name for path in self.contents.iterdir())

    def files(self, project: str = "lab") -> list[str]:
        """What is in the project, but for what the depot notes there."""
        folder = self.hosted / project
        found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir())
        return [str(path) for path in found if path.parts[0] != ".kvm-compose"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(remote_blobs, "PIECE", PIECE)
    monkeypatch.setattr(blob_commands, "_PAUSE", 0)
    return Place(tmp_path)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data_of(path: Path) -> int:
    """How much of a file is no hole."""
    with path.open("rb") as file:
        return sum(length for _, length in remote_blobs.pieces(file.fileno(), 0))


# -- one content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_content_arrives_as_it_is_and_holes_are_not_sent(place: Place, shape: str) -> None:
    source, digest = place.source(shape)
    asyncio.run(place.blobs().store(digest, source, place.told.append))
    there = place.contents / digest
    assert place.stored() == [digest]
    assert there.read_bytes() == source.read_bytes()
    assert there.stat().st_blocks <= source.stat().st_blocks
    assert there.stat().st_mode & 0o777 == 0o444
    assert sum(place.told) == data_of(source)
    assert max(place.told, default=0) <= PIECE


def test_what_is_there_is_not_sent_again(place: Place) -> None:
    source, digest = place.source("pieces")

    async def run() -> None:
        store = place.blobs()
        assert (await store.inspect("lab", HOME)).stored == frozenset()
        await store.store(digest, source, place.told.append)
        assert (await store.inspect("lab", HOME)).stored == {digest}
        await store.store(digest, source, place.told.append)
        await place.blobs().store(digest, source, place.told.append)

    asyncio.run(run())
    assert sum(place.told) == source.stat().st_size


def test_two_at_once_send_it_once(place: Place) -> None:
    source, digest = place.source("pieces")

    async def run() -> None:
        store = place.blobs()
        await asyncio.gather(*(store.store(digest, source, place.told.append) for _ in range(3)))

    asyncio.run(run())
    assert sum(place.told) == source.stat().st_size
    assert place.stored() == [digest]


def test_two_main_hosts_at_once_send_it_whole(place: Place) -> None:
    """They do not know of each other; the one that is later finds it there."""
    source, digest = place.source("pieces")
    mine, other = place.blobs(), place.blobs()

    async def run() -> None:
        tasks: list[asyncio.Task[None]] = []

        def told(_: int) -> None:
            if not tasks:
                tasks.append(asyncio.create_task(other.store(digest, source, place.told.append)))

        await mine.store(digest, source, told)
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert place.stored() == [digest]
    assert (place.contents / digest).read_bytes() == source.read_bytes()


def test_who_comes_when_it_has_been_stored_meanwhile_sends_no_more(place: Place) -> None:
    source, digest = place.source("pieces")
    goal = place.contents / digest

    def told(count: int) -> None:
        place.told.append(count)
        if not goal.exists():  # as another main host would
            goal.write_bytes(source.read_bytes())
            (place.contents / f"{digest}.part").unlink()

    asyncio.run(place.blobs().store(digest, source, told))
    assert place.stored() == [digest]
    assert goal.read_bytes() == source.read_bytes()
    assert sum(place.told) == source.stat().st_size


@pytest.mark.parametrize("how", ["before", "half", "after"])
@pytest.mark.parametrize("shape", ["empty", "pieces", "an odd end", "a trailing hole", "islands"])
def test_a_break_at_any_call_is_got_over(place: Place, shape: str, how: str) -> None:
    source, digest = place.source(shape)
    whole = Broken()
    asyncio.run(place.blobs(whole).store(digest, source, lambda _: None))
    for at in range(1, whole.calls + 1):
        (place.contents / digest).unlink()
        place.told.clear()
        machine = Broken(how, lambda call, at=at: call == at)  # type: ignore[misc]
        asyncio.run(place.blobs(machine).store(digest, source, place.told.append))
        assert machine.calls > at
        assert place.stored() == [digest], at
        assert (place.contents / digest).read_bytes() == source.read_bytes()
        assert sum(place.told) <= data_of(source) + PIECE


@pytest.mark.parametrize("how", ["before", "half", "after"])
def test_what_was_given_up_goes_on_from_there(
    place: Place, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server was killed: nobody remembers anything, but what has arrived is there."""
    monkeypatch.setattr(blob_commands, "PATIENCE", 0)
    source, digest = place.source("an odd end")
    whole = Broken()
    asyncio.run(place.blobs(whole).store(digest, source, lambda _: None))
    for at in range(1, whole.calls + 1):
        (place.contents / digest).unlink()
        place.told.clear()
        broken = place.blobs(Broken(how, lambda call, at=at: call >= at))  # type: ignore[misc]
        error = asyncio.run(error_of(broken.store(digest, source, place.told.append)))
        assert isinstance(error, HostLostError)
        if at < whole.calls or how == "before":
            assert digest not in place.stored(), at
        asyncio.run(place.blobs().store(digest, source, place.told.append))
        assert place.stored() == [digest], at
        assert (place.contents / digest).read_bytes() == source.read_bytes()
        assert sum(place.told) <= source.stat().st_size + PIECE


def test_a_break_now_and_then_is_got_over_as_often_as_it_comes(place: Place) -> None:
    source, digest = place.source("pieces")
    machine = Broken("half", lambda call: call % 3 != 0)
    asyncio.run(place.blobs(machine).store(digest, source, place.told.append))
    assert place.stored() == [digest]
    assert sum(place.told) <= source.stat().st_size + PIECE


def test_patience_begins_when_the_host_is_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece may have taken its time before."""
    clock = [1000.0]
    monkeypatch.setattr(blob_commands.time, "monotonic", lambda: clock[0])
    source, digest = place.source("one piece")

    def slow(call: int) -> bool:
        clock[0] += blob_commands.PATIENCE + 1
        return call == 3

    asyncio.run(place.blobs(Broken("half", slow)).store(digest, source, place.told.append))
    assert place.stored() == [digest]


def test_who_stays_away_is_waited_for_no_longer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(blob_commands.time, "monotonic", lambda: clock[0])
    source, digest = place.source("one piece")

    def away(call: int) -> bool:
        clock[0] += 1
        return call > 2

    machine = Broken("before", away)
    assert isinstance(
        asyncio.run(error_of(place.blobs(machine).store(digest, source, place.told.append))), HostLostError
    )
    assert blob_commands.PATIENCE <= machine.calls <= blob_commands.PATIENCE + 10


@pytest.mark.parametrize("shape", ["pieces", "islands"])
@pytest.mark.parametrize("damage", ["a byte", "too long", "zeroes"])
def test_a_damaged_part_is_sent_again_from_the_start(place: Place, shape: str, damage: str) -> None:
    source, digest = place.source(shape)
    part = place.contents / f"{digest}.part"
    content = bytearray(source.read_bytes())
    if damage == "a byte":
        content[5000] ^= 1
        part.write_bytes(content[: 3 * PIECE])
    elif damage == "too long":
        part.write_bytes(content + b"more")
        part.write_bytes(b"x" + part.read_bytes()[1:])
    else:
        part.write_bytes(bytes(3 * PIECE))
    asyncio.run(place.blobs().store(digest, source, place.told.append))
    assert place.stored() == [digest]
    assert (place.contents / digest).read_bytes() == source.read_bytes()


def test_what_is_longer_than_it_should_be_is_cut(place: Place) -> None:
    source, digest = place.source("pieces")
    (place.contents / f"{digest}.part").write_bytes(source.read_bytes() + b"more")
    asyncio.run(place.blobs().store(digest, source, place.told.append))
    assert (place.contents / digest).read_bytes() == source.read_bytes()
    assert sum(place.told) <= PIECE


def test_another_content_than_said_is_refused_and_leaves_nothing(place: Place) -> None:
    source, _ = place.source("pieces")
    error = asyncio.run(error_of(place.blobs().store("0" * 64, source, place.told.append)))
    assert error.message == f"cannot send {source} to two: its digest differs"
    assert "does" in str(error.hint)
    assert place.stored() == []
    assert sum(place.told) == 2 * source.stat().st_size


def test_nothing_has_its_name_before_it_was_checked(place: Place) -> None:
    source, digest = place.source("pieces")
    seen: list[list[str]] = []
    asyncio.run(place.blobs().store(digest, source, lambda _: seen.append(place.stored())))
    assert seen == [[f"{digest}.part"]] * 5


def test_when_there_is_no_room_it_says_so_without_the_data(place: Place) -> None:
    source, digest = place.source("pieces")
    (place.contents / f"{digest}.part").symlink_to("/dev/full")
    error = asyncio.run(error_of(place.blobs().store(digest, source, place.told.append)))
    assert "No space left on device" in error.message
    assert len(str(error.hint)) < 1000


def test_a_source_that_is_gone_is_no_lost_host(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(place.blobs().store("0" * 64, place.root / "gone", place.told.append))
    assert place.stored() == []


def test_cancelled_it_can_go_on(place: Place) -> None:
    source, digest = place.source("pieces")

    async def run() -> None:
        def told(count: int) -> None:
            place.told.append(count)
            if len(place.told) == 3:
                task.cancel()

        task = asyncio.create_task(place.blobs().store(digest, source, told))
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)

    asyncio.run(run())
    assert place.stored() == [f"{digest}.part"]
    asyncio.run(place.blobs().store(digest, source, place.told.append))
    assert place.stored() == [digest]
    assert sum(place.told) <= source.stat().st_size + PIECE


# -- a project -----------------------------------------------------------------------------------------


async def opened(place: Place, project: str = "lab", machine: Broken | None = None) -> RemoteBlobStore:
    blobs = place.blobs(machine)
    await blobs.inspect(project, HOME)
    await blobs.open(project, HOME)
    return blobs


def test_files_are_put_with_their_modes_and_noted(place: Place) -> None:
    seed, first = place.file("secret", "seed", 0o600)
    again, second = place.file("other", "again", 0o640)
    path = 'artefacts/web/it\'s a "seed"\n -v.iso'

    async def run() -> None:
        here = await opened(place)
        assert (await here.inspect("lab", HOME)).delivered == {}
        await here.put("lab", {path: Blob(first, seed)}, place.told.append)
        there = place.hosted / "lab" / path
        assert (there.read_text(), there.stat().st_mode & 0o777) == ("secret", 0o600)
        assert (await here.inspect("lab", HOME)).delivered == {path: first}
        await here.put("lab", {path: Blob(second, again)}, place.told.append)
        assert (there.read_text(), there.stat().st_mode & 0o777) == ("other", 0o640)
        assert (await here.inspect("lab", HOME)).delivered == {path: second}
        there.unlink()
        assert (await here.inspect("lab", HOME)).delivered == {}

    asyncio.run(run())
    assert place.files() == []
    assert sum(place.told) == len("secret" + "other")


def test_nobody_else_reads_what_is_on_its_way(place: Place) -> None:
    source, digest = place.source("pieces")
    source.chmod(0o600)
    modes: set[int] = set()

    async def run() -> None:
        here = await opened(place)

        def told(_: int) -> None:
            modes.update(path.stat().st_mode & 0o777 for path in (place.hosted / "lab/artefacts").iterdir())

        await here.put("lab", {"artefacts/disk": Blob(digest, source)}, told)

    asyncio.run(run())
    assert modes == {0o600}


def test_a_name_in_two_lines_is_not_taken_for_two_files(place: Place) -> None:
    source, digest = place.file("x")

    async def run() -> None:
        here = await opened(place)
        await here.put("lab", {"artefacts/a\nartefacts/b": Blob(digest, source)}, place.told.append)
        assert (await here.inspect("lab", HOME)).delivered == {"artefacts/a\nartefacts/b": digest}

    asyncio.run(run())


def test_files_put_at_once_are_all_noted(place: Place) -> None:
    sources = {f"artefacts/{name}/disk": place.file(name, name) for name in "abcdef"}

    async def run() -> None:
        here = await opened(place)
        await asyncio.gather(
            *(
                here.put("lab", {path: Blob(digest, source)}, place.told.append)
                for path, (source, digest) in sources.items()
            )
        )
        assert (await here.inspect("lab", HOME)).delivered == {
            path: digest for path, (_, digest) in sources.items()
        }

    asyncio.run(run())


@pytest.mark.parametrize("how", ["before", "half", "after"])
def test_a_file_is_never_noted_as_what_it_is_not(
    place: Place, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever ``put`` is cut off, what is delivered then is true, or known not to be known."""
    monkeypatch.setattr(blob_commands, "PATIENCE", 0)
    old, first = place.file("old", "old")
    new, second = place.file("new", "new")
    path, other = "artefacts/web/disk", "artefacts/db/disk"
    whole = Broken()

    async def count() -> None:
        here = await opened(place)
        await here.put("lab", {other: Blob(first, old)}, place.told.append)
        await here.put("lab", {path: Blob(first, old)}, place.told.append)
        await place.blobs(whole).put("lab", {path: Blob(second, new)}, place.told.append)

    asyncio.run(count())

    async def run(at: int) -> None:
        here = place.blobs()
        await here.put("lab", {path: Blob(first, old)}, place.told.append)
        broken = place.blobs(Broken(how, lambda call: call >= at))
        await error_of(broken.put("lab", {path: Blob(second, new)}, place.told.append))
        noted = (await here.inspect("lab", HOME)).delivered
        assert noted[path] in ("", digest_of(place.hosted / "lab" / path)), at
        assert noted[other] == first, at
        await here.put("lab", {path: Blob(second, new)}, place.told.append)
        assert (await here.inspect("lab", HOME)).delivered == {path: second, other: first}

    for at in range(1, whole.calls + 1):
        asyncio.run(run(at))


@pytest.mark.parametrize("how", ["before", "half", "after"])
def test_put_and_link_get_over_a_break_at_any_call(place: Place, how: str) -> None:
    image, digest = place.source("one piece", "image")
    seed, seeded = place.file("seed", "seed")
    links = {"artefacts/images/debian.qcow2": digest}

    async def run(machine: Broken) -> None:
        here = place.blobs(machine)
        await here.link("lab", links)
        await here.put("lab", {"artefacts/web/seed.iso": Blob(seeded, seed)}, place.told.append)
        assert (await place.blobs().inspect("lab", HOME)).delivered == {
            **links,
            "artefacts/web/seed.iso": seeded,
        }

    async def begin() -> None:
        await (await opened(place)).store(digest, image, place.told.append)

    asyncio.run(begin())
    whole = Broken()
    asyncio.run(run(whole))
    for at in range(1, whole.calls + 1):
        asyncio.run(place.blobs().clear("lab"))
        asyncio.run(begin())
        asyncio.run(run(Broken(how, lambda call, at=at: call == at)))  # type: ignore[misc]


def test_links_count_when_they_lead_somewhere(place: Place) -> None:
    image, digest = place.source("one piece", "image")
    gone = "1" * 64
    links = {"artefacts/images/debian.qcow2": digest, "artefacts/images/gone.qcow2": gone}

    async def run() -> None:
        here = await opened(place)
        await here.store(digest, image, place.told.append)
        await here.link("lab", links)
        assert (await here.inspect("lab", HOME)).delivered == {"artefacts/images/debian.qcow2": digest}
        await here.link("lab", links)  # as often as one likes
        await here.link("lab", {})
        assert (place.hosted / "lab/artefacts/images/gone.qcow2").is_symlink()
        assert (place.hosted / "lab/artefacts/images/debian.qcow2").read_bytes() == image.read_bytes()

    asyncio.run(run())


def test_a_link_takes_the_place_of_a_file_and_the_other_way_round(place: Place) -> None:
    image, digest = place.source("one piece", "image")
    own, noted = place.file("own", "own")
    path = "artefacts/web/disk"

    async def run() -> None:
        here = await opened(place)
        await here.store(digest, image, place.told.append)
        await here.put("lab", {path: Blob(noted, own)}, place.told.append)
        await here.link("lab", {path: digest})
        assert (await here.inspect("lab", HOME)).delivered == {path: digest}
        await here.put("lab", {path: Blob(noted, own)}, place.told.append)
        assert (await here.inspect("lab", HOME)).delivered == {path: noted}

    asyncio.run(run())
    assert (
        place.contents / digest
    ).read_bytes() == image.read_bytes()  # nothing was written through the link


def test_what_was_made_goes_with_its_last_link_and_images_stay(place: Place) -> None:
    image, kept = place.source("one piece", "image")
    goldens = [place.file(f"golden {number}", f"golden-{number}") for number in range(3)]
    first, second, third = (digest for _, digest in goldens)
    at = "artefacts/worker/worker.img"

    async def run() -> None:
        here = await opened(place)
        await here.open("other", HOME)
        await here.store(kept, image, place.told.append)
        for source, digest in goldens:
            await here.store(digest, source, place.told.append)
        await here.link("lab", {"artefacts/images/debian.qcow2": kept, at: first})
        await here.link("other", {at: second})
        await here.link("lab", {"artefacts/images/debian.qcow2": kept, at: second})
        assert place.stored() == sorted({kept, second, third})  # the first is not needed any more
        await here.link("lab", {at: third})
        assert place.stored() == sorted({kept, second, third})  # the other project needs the second
        await here.clear("lab")
        assert place.stored() == sorted({kept, second})
        assert not (place.hosted / "lab").exists()
        await here.clear("other")
        assert place.stored() == [kept]
        await here.clear("other")
        assert (await here.inspect("other", HOME)).delivered == {}

    asyncio.run(run())


@pytest.mark.parametrize("how", ["before", "half", "after"])
@pytest.mark.parametrize("what", ["link", "clear"])
def test_what_was_made_goes_in_the_end_wherever_it_is_cut_off(
    place: Place, what: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_commands, "PATIENCE", 0)
    image, kept = place.source("one piece", "image")
    old, first = place.file("old", "old")
    new, second = place.file("new", "new")
    paths = ("artefacts/images/debian.qcow2", "artefacts/worker.img")
    before, after = (
        dict(zip(paths, (kept, first), strict=True)),
        dict(zip(paths, (kept, second), strict=True)),
    )

    async def begin() -> None:
        here = await opened(place)
        for source, digest in ((image, kept), (old, first), (new, second)):
            await here.store(digest, source, place.told.append)
        await here.link("lab", before)

    async def do(here: RemoteBlobStore) -> None:
        await (here.link("lab", after) if what == "link" else here.clear("lab"))

    async def run(at: int) -> None:
        await begin()
        broken = place.blobs(Broken(how, lambda call: call >= at))
        assert isinstance(await error_of(do(broken)), HostLostError)
        if what == "link":
            await place.blobs().link("lab", after)
            assert place.stored() == sorted((kept, second)), at
            assert (await place.blobs().inspect("lab", HOME)).delivered == after
            await place.blobs().clear("lab")
            assert place.stored() == [kept], at
        else:
            await place.blobs().clear("lab")
            assert place.stored() == sorted((kept, second)), at  # nobody linked to the second
            (place.contents / second).unlink()
        assert list(place.hosted.iterdir()) == []

    asyncio.run(begin())
    whole = Broken()
    asyncio.run(do(place.blobs(whole)))
    asyncio.run(place.blobs().clear("lab"))
    for at in range(1, whole.calls + 1):
        asyncio.run(run(at))


def test_what_guests_leave_in_a_project_is_neither_owned_nor_taken_for_an_artefact(place: Place) -> None:
    source, digest = place.file("an image")
    outside = place.root / "outside"
    outside.mkdir()
    os.chown(outside, 4242, 4242)

    async def run() -> None:
        here = await opened(place)
        await here.store(digest, source, place.told.append)
        data = place.hosted / "lab" / "data"
        (data / "theirs").mkdir(parents=True)
        os.chown(data / "theirs", 4242, 4242)
        (data / "stored").symlink_to(place.contents / digest)
        (data / "away").symlink_to(outside)
        await here.open("lab", HOME)
        assert (data / "theirs").stat().st_uid == outside.stat().st_uid == 4242
        await here.clear("lab")

    asyncio.run(run())
    assert outside.is_dir()
    assert place.stored() == [digest]
    assert not (place.hosted / "lab").exists()


def test_clear_takes_what_is_on_its_way(place: Place) -> None:
    source, digest = place.source("pieces")

    async def run() -> None:
        here = await opened(place)
        await here.put("lab", {"artefacts/web/disk": Blob(digest, source)}, place.told.append)
        (place.hosted / "lab/artefacts/web/0.part").write_bytes(b"x")
        await here.clear("lab")
        assert list(place.hosted.iterdir()) == []
        await here.clear("never-there")

    asyncio.run(run())


def test_another_main_host_has_to_call_it_otherwise(place: Place) -> None:
    async def run() -> None:
        here = await opened(place)
        await here.inspect("lab", HOME)
        await here.inspect("other", "elsewhere:/lab")
        error = await error_of(here.inspect("lab", "elsewhere:/lab"))
        assert error.message == f"two already has another project lab, that of {HOME}"
        assert "--project-name" in str(error.hint)
        await here.clear("lab")
        await here.inspect("lab", "elsewhere:/lab")

    asyncio.run(run())


def test_check_changes_nothing_and_names_what_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await place.blobs().inspect("lab", HOME)
        assert not place.hosted.exists()
        monkeypatch.setattr(blob_commands, "_PROGRAMS", ("true", "no-such", "nor-this"))
        error = await error_of(place.blobs().inspect("lab", HOME))
        assert error.message == "programs are not installed on two: no-such, nor-this"

    asyncio.run(run())


def test_room_is_that_of_the_file_system_that_will_have_it(place: Place) -> None:
    async def run() -> None:
        missing = RemoteBlobStore(LocalRunner("two"), place.hosted, place.root / "to/be/made")
        found = os.statvfs("/var/lib" if Path("/var/lib").exists() else "/")
        for each, expected in ((place.blobs(), os.statvfs(place.root)), (missing, found)):
            room = (await each.inspect("lab", HOME)).room
            assert abs(room - expected.f_bavail * expected.f_frsize) < 1 << 30

    asyncio.run(run())


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "-v", "a\n", "a b", ".store", "A", "a'b"])
def test_projects_have_names_and_no_paths(place: Place, name: str) -> None:
    source, digest = place.file("x")

    async def run() -> None:
        here = place.blobs()
        for call in (
            here.inspect(name, HOME),
            here.open(name, HOME),
            here.link(name, {}),
            here.put(name, {"artefacts/a": Blob(digest, source)}, place.told.append),
            here.clear(name),
        ):
            assert "invalid project name" in (await error_of(call)).message

    asyncio.run(run())
    assert not place.hosted.exists()


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "..", "", ".", "a\0b"])
def test_paths_stay_in_the_project(place: Place, path: str) -> None:
    source, digest = place.file("x")

    async def run() -> None:
        here = await opened(place)
        for call in (
            here.put("lab", {path: Blob(digest, source)}, place.told.append),
            here.link("lab", {path: digest}),
        ):
            assert "is not a path inside the project" in (await error_of(call)).message

    asyncio.run(run())
    assert place.files() == []


@pytest.mark.parametrize("path", ["-rf", "--", "artefacts/-x/--help", "$(id)", "a b/'c'", "é", "*", "a\nb"])
def test_names_are_taken_as_they_are(place: Place, path: str) -> None:
    source, digest = place.file("x")

    async def run() -> None:
        here = await opened(place)
        await here.store(digest, source, place.told.append)
        await here.put("lab", {path: Blob(digest, source)}, place.told.append)
        assert place.files() == [path]
        linked = f"artefacts/{path}"
        await here.link("lab", {linked: digest})
        assert (place.hosted / "lab" / linked).readlink() == place.contents / digest
        await here.clear("lab")

    asyncio.run(run())
    assert place.stored() == []


@pytest.mark.parametrize("digest", ["..", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n", "-" * 64, ""])
def test_contents_are_called_by_their_digest(place: Place, digest: str) -> None:
    source, _ = place.file("x")

    async def run() -> None:
        here = await opened(place)
        assert "invalid SHA-256" in (await error_of(here.store(digest, source, place.told.append))).message
        assert "invalid SHA-256" in (await error_of(here.link("lab", {"artefacts/a": digest}))).message

    asyncio.run(run())
    assert place.stored() == []


def test_what_has_arrived_in_part_is_known_with_the_room_it_takes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks whether there is room for the rest must not count it twice."""
    monkeypatch.setattr(blob_commands, "PATIENCE", 0)
    source, digest = place.source("pieces")
    arrived: list[int] = []
    broken = place.blobs(Broken("before", lambda _call: sum(arrived) >= 2 * PIECE))

    async def run() -> None:
        await opened(place)
        await error_of(broken.store(digest, source, arrived.append))
        held = await place.blobs().inspect("lab", HOME)
        assert held.parts.keys() == {digest}
        assert held.parts[digest] >= 2 * PIECE
        assert digest not in held.stored
        await place.blobs().store(digest, source, place.told.append)
        held = await place.blobs().inspect("lab", HOME)
        assert (held.parts, digest in held.stored) == ({}, True)

    asyncio.run(run())


def test_a_project_that_was_moved_on_its_main_host_is_known_again(place: Place, tmp_path: Path) -> None:
    async def run() -> None:
        here = place.blobs()
        await here.open("lab", f"desk 0123abcd:{tmp_path}")
        await here.inspect("lab", f"renamed 0123abcd:{tmp_path}")
        await error_of(here.inspect("lab", "desk 0123abcd:/elsewhere"))  # both folders may be there
        await error_of(here.inspect("lab", f"desk 4567cdef:{tmp_path}"))
        await here.open("lab", "desk 0123abcd:/no/more/there")
        await here.inspect("lab", f"desk 0123abcd:{tmp_path}")

    asyncio.run(run())
