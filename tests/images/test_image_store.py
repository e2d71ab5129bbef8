from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvmcompose.core.errors import InputError, KvmComposeError, RefusedError
from kvmcompose.images.catalogue import CatalogueImage
from kvmcompose.images.store import ImageStore, default_store

if TYPE_CHECKING:
    from fileserver import Web


def a_disk(seed: int = 0, size: int = 400_000) -> bytes:
    """A small qcow2 image, as far as anyone here looks at it."""
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 2**30, 0, 0, 0, 0, 0, 0, 0)
    return head + bytes(128) + hashlib.sha256(str(seed).encode()).digest() * (size // 32)


DISK = a_disk()
SHA256 = hashlib.sha256(DISK).hexdigest()

Offer = Callable[..., CatalogueImage]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@pytest.fixture
def offer(web: Web) -> Offer:
    """Put an image and its checksum list on the server; what a catalogue says of it."""

    def call(name: str = "thing_1", content: bytes = DISK, **how: Any) -> CatalogueImage:
        digest = hashlib.sha512(how.pop("listed", content)).hexdigest()
        pinned = how.pop("sha256", None)
        web.put(f"{name}/SHA512SUMS", f"{digest}  disk.img\n".encode())
        return CatalogueImage(
            name=name,
            title="A thing",
            url=web.put(f"{name}/disk.img", content, **how),
            format="qcow2",
            checksums_url=f"{web.url}/{name}/SHA512SUMS",
            checksum_algorithm="sha512",
            sha256=pinned,
        )

    return call


def blobs(store: ImageStore) -> list[str]:
    return sorted(path.name for path in store.root.glob("sha256/*/*"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_an_empty_store_is_not_even_made(store: ImageStore) -> None:
    assert store.find("thing_1") is None
    assert store.list() == ()
    assert store.verify() == ()
    assert not store.root.exists()


def test_a_pulled_image_is_found_by_name_and_cannot_be_written(
    store: ImageStore, offer: Offer, web: Web
) -> None:
    image = offer()
    seen: list[tuple[int, int | None]] = []
    pulled = store.pull(image, progress=lambda done, total: seen.append((done, total)))
    assert pulled == store.find("thing_1") == store.list()[0]
    assert pulled.path.read_bytes() == DISK
    assert pulled.path == store.root / "sha256" / SHA256[:2] / SHA256
    assert stat.S_IMODE(pulled.path.stat().st_mode) == 0o444
    assert (pulled.format, pulled.virtual_size, pulled.size) == ("qcow2", 2**30, len(DISK))
    assert not pulled.added_by_user
    assert pulled.checksum == f"sha512:{hashlib.sha512(DISK).hexdigest()}"
    assert pulled.checksum_from == image.checksums_url
    assert seen[-1] == (len(DISK), len(DISK))
    assert files(store.root / "partial") == []


def test_what_is_here_is_not_fetched_again(store: ImageStore, offer: Offer, web: Web) -> None:
    image = offer()
    store.pull(image)
    web.requests.clear()
    store.pull(image)
    assert web.requests == []


def test_a_refresh_fetches_only_what_has_changed(store: ImageStore, offer: Offer, web: Web) -> None:
    first = store.pull(offer())
    web.requests.clear()
    assert store.pull(offer(), refresh=True) == first
    assert [path for path, _ in web.requests] == ["thing_1/SHA512SUMS"]
    second = store.pull(offer(content=a_disk(1)), accept=True)
    assert second.sha256 != first.sha256
    assert first.path.exists()  # disks of guests may be based on it
    assert store.find("thing_1") == second


def test_a_refresh_replaces_a_damaged_image(store: ImageStore, offer: Offer) -> None:
    path = store.pull(offer()).path
    flip_a_byte(path)
    assert store.pull(offer(), refresh=True).path.read_bytes() == DISK
    assert store.verify() == ()


def test_a_digest_in_the_catalogue_counts_alone(store: ImageStore, offer: Offer, web: Web) -> None:
    pulled = store.pull(offer(sha256=SHA256))
    assert pulled.checksum_from == "catalogue"
    assert web.asked("thing_1/SHA512SUMS") == []


def test_the_same_content_under_two_names_is_fetched_and_kept_once(
    store: ImageStore, offer: Offer, web: Web
) -> None:
    store.pull(offer("one", sha256=SHA256))
    store.pull(offer("two", sha256=SHA256))
    assert web.asked("two/disk.img") == []
    assert blobs(store) == [SHA256]
    assert [image.name for image in store.list()] == ["one", "two"]


def test_wrong_bytes_never_get_a_name(store: ImageStore, offer: Offer) -> None:
    with pytest.raises(KvmComposeError, match="not what was published"):
        store.pull(offer(listed=b"other"))
    assert store.find("thing_1") is None
    assert blobs(store) == files(store.root / "partial") == []


def test_an_image_that_points_elsewhere_is_refused_though_its_checksum_is_right(
    store: ImageStore, offer: Offer
) -> None:
    overlay = bytearray(DISK)
    struct.pack_into(">QI", overlay, 8, 72 + 8, 11)
    overlay[80:91] = b"/etc/shadow"
    with pytest.raises(KvmComposeError, match=r"an overlay, on '/etc/shadow'"):
        store.pull(offer(content=bytes(overlay)))
    with pytest.raises(KvmComposeError, match="a raw image, the catalogue says qcow2"):
        store.pull(offer(content=b"raw" * 1000))
    assert store.list() == ()
    assert files(store.root / "partial") == []


def test_the_mirror_is_used_instead(
    store: ImageStore, offer: Offer, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = CatalogueImage(
        name="far",
        title="Far away",
        url="https://images.invalid/a/disk.img",
        format="qcow2",
        checksums_url="https://images.invalid/a/SUMS",
        checksum_algorithm="sha256",
    )
    web.put("m/images.invalid/a/disk.img", DISK)
    web.put("m/images.invalid/a/SUMS", f"SHA256 (disk.img) = {SHA256}\n".encode())
    pulled = store.pull(image, mirror=f"{web.url}/m")
    assert pulled.url == image.url
    monkeypatch.setenv("KVM_COMPOSE_MIRROR", f"{web.url}/m")
    again = ImageStore(store.root.with_name("other")).pull(image)
    assert again.sha256 == pulled.sha256


def test_a_folder_can_be_the_mirror(store: ImageStore, offer: Offer, tmp_path: Path) -> None:
    folder = tmp_path / "mirror" / "images.invalid"
    folder.mkdir(parents=True)
    (folder / "disk.img").write_bytes(DISK)
    (folder / "SUMS").write_text(f"{SHA256} *disk.img\n")
    image = CatalogueImage(
        name="far",
        title="Far away",
        url="https://images.invalid/disk.img",
        format="qcow2",
        checksums_url="https://images.invalid/SUMS",
        checksum_algorithm="sha256",
    )
    assert store.pull(image, mirror=(tmp_path / "mirror").as_uri()).sha256 == SHA256


def pull_in_a_process(root: Path, image: CatalogueImage) -> None:
    ImageStore(root).pull(image)


def test_two_processes_at_once_fetch_an_image_once(store: ImageStore, offer: Offer, web: Web) -> None:
    image = offer(pause=0.05, chunk=64 * 1024)
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=pull_in_a_process, args=(store.root, image)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(web.asked("thing_1/disk.img")) == 1
    assert web.sent["thing_1/disk.img"] == len(DISK)
    assert store.find("thing_1") is not None


def test_different_images_fetched_at_once_are_all_in_the_index(store: ImageStore, offer: Offer) -> None:
    images = [offer(f"thing_{number}", a_disk(number, 40_000)) for number in range(3)]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=pull_in_a_process, args=(store.root, image)) for image in images]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [image.name for image in store.list()] == [image.name for image in images]


def test_a_killed_pull_leaves_no_image_and_the_next_resumes(
    store: ImageStore, offer: Offer, web: Web
) -> None:
    image = offer(content=a_disk(size=4_000_000), pause=0.02)
    program = (
        "import sys, msgspec; from pathlib import Path\n"
        "from kvmcompose.images.catalogue import CatalogueImage\n"
        "from kvmcompose.images.store import ImageStore\n"
        "ImageStore(Path(sys.argv[1])).pull(msgspec.json.decode(sys.argv[2], type=CatalogueImage))\n"
    )
    facts = {name: getattr(image, name) for name in CatalogueImage.__struct_fields__}
    argv = [sys.executable, "-c", program, str(store.root), json.dumps(facts)]
    with subprocess.Popen(argv) as process:
        deadline = time.monotonic() + 30
        while web.sent.get("thing_1/disk.img", 0) < 1_000_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert store.find("thing_1") is None
    assert blobs(store) == []
    sent = web.sent["thing_1/disk.img"]
    time.sleep(0.2)  # the server notices the closed connection
    sent = web.sent["thing_1/disk.img"]
    web.files["thing_1/disk.img"].pause = 0
    assert store.pull(image).path.stat().st_size == image_size(web)
    assert web.sent["thing_1/disk.img"] - sent < image_size(web)
    assert store.verify() == ()


def image_size(web: Web) -> int:
    return len(web.files["thing_1/disk.img"].content)


def flip_a_byte(path: Path) -> None:
    path.chmod(0o644)
    with path.open("rb+") as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)


def test_one_flipped_byte_is_found(store: ImageStore, offer: Offer) -> None:
    pulled = store.pull(offer())
    store.add("mine", pulled.path)
    assert store.verify() == ()
    flip_a_byte(pulled.path)
    problems = store.verify()
    assert [problem.name for problem in problems] == ["mine", "thing_1"]
    assert "was changed" in problems[1].message
    assert problems[0].hint.endswith("add mine FILE")
    assert problems[1].hint.endswith("pull --refresh thing_1")


def test_a_missing_or_truncated_image_is_not_found(
    store: ImageStore, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.pull(offer()).path
    path.chmod(0o644)
    os.truncate(path, 1000)
    assert store.find("thing_1") is None
    assert "1000 bytes instead of" in caplog.text
    path.unlink()
    assert store.find("thing_1") is None
    assert "cannot be read" in store.verify()[0].message
    assert store.pull(offer()).path.read_bytes() == DISK


def test_an_image_of_the_users_own_is_copied_with_its_holes(store: ImageStore, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.write(bytes(510) + b"\x55\xaa")
        file.truncate(50 * 2**20)
    added = store.add("my_image", disk)
    assert (added.format, added.virtual_size, added.added_by_user) == ("raw", 50 * 2**20, True)
    assert (added.url, added.checksum) == (None, None)
    assert added.path.stat().st_blocks * 512 < 2**21
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == added.sha256
    assert store.verify() == ()


def test_a_name_can_be_given_to_another_image(store: ImageStore, tmp_path: Path) -> None:
    for seed in (1, 2):
        (tmp_path / "disk").write_bytes(a_disk(seed))
        added = store.add("mine", tmp_path / "disk")
    assert store.find("mine") == added
    assert len(blobs(store)) == 2
    assert len(store.prune().paths) == 1
    assert blobs(store) == [added.sha256]


def test_the_users_own_image_stands_in_for_one_of_the_catalogue(
    store: ImageStore, offer: Offer, web: Web, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(a_disk(7))
    store.add("thing_1", tmp_path / "disk")
    assert store.pull(offer()).added_by_user
    assert web.requests == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "Debian", ".index", "-x"])
def test_invalid_names_are_refused(store: ImageStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").write_bytes(DISK)
    with pytest.raises(InputError, match="cannot be the name"):
        store.add(name, tmp_path / "disk")


def test_a_file_that_is_not_an_image_is_not_added(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "pipe").mkdir()
    for file, why in (("text", "not a disk image"), ("pipe", "not a file"), ("none", "No such file")):
        with pytest.raises(KvmComposeError, match=why):
            store.add("mine", tmp_path / file)
    assert not store.root.exists()


def test_a_removed_image_frees_its_space(store: ImageStore, offer: Offer) -> None:
    store.pull(offer())
    assert store.remove("thing_1")
    assert not store.remove("thing_1")
    assert store.find("thing_1") is None
    pruned = store.prune()
    assert pruned.freed >= len(DISK)
    assert blobs(store) == []


def test_pruning_removes_unfinished_images_but_not_a_running_download(
    store: ImageStore, offer: Offer
) -> None:
    store.pull(offer())
    for name in ("stale", "running"):
        (store.root / "partial" / name).mkdir(parents=True)
        (store.root / "partial" / name / "image.part").write_bytes(b"x" * 5000)
    with store._writing("running"):
        pruned = store.prune()
    assert pruned.paths == (store.root / "partial" / "stale",)
    assert files(store.root / "partial") == ["running/image.part"]
    assert store.find("thing_1") is not None


def test_pruning_keeps_what_a_project_links_to(store: ImageStore, offer: Offer, tmp_path: Path) -> None:
    old = store.pull(offer())
    link = tmp_path / "project" / "artefacts" / "images" / "thing.qcow2"
    store.link(old, link)
    store.link(old, link)
    hard = store.pull(offer(content=a_disk(1)), accept=True)
    (tmp_path / "hard.qcow2").hardlink_to(hard.path)
    new = store.pull(offer(content=a_disk(2)), accept=True)
    assert link.read_bytes() == DISK
    assert store.prune().paths == ()
    link.unlink()
    (tmp_path / "hard.qcow2").unlink()
    assert len(store.prune().paths) == 2
    assert blobs(store) == [new.sha256]
    assert files(store.root / "uses") == []


def test_pruning_an_empty_store(store: ImageStore) -> None:
    assert store.prune().paths == ()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"version": 1}', b'{"version":1,"images":{"x":3}}']
)
def test_a_damaged_index_is_rebuilt_from_its_backup(
    store: ImageStore, offer: Offer, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    pulled = store.pull(offer())
    index = store.root / "index.json"
    index.write_bytes(damage)
    assert store.find("thing_1") == pulled
    assert "is damaged" in caplog.text
    second = store.pull(offer("thing_2", a_disk(2)))
    assert store.list() == (pulled, second)
    assert json.loads(index.read_bytes())["images"].keys() == {"thing_1", "thing_2"}
    assert (store.root / "index.damaged.json").read_bytes() == damage


def test_without_an_index_stored_images_are_adopted_not_fetched(
    store: ImageStore, offer: Offer, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    image = offer(sha256=SHA256)
    store.pull(image)
    for name in ("index.json", "index.backup.json"):
        (store.root / name).write_bytes(b"rubbish")
    assert store.find("thing_1") is None
    assert "pull or add what is missing" in caplog.text
    web.requests.clear()
    assert store.pull(image).sha256 == SHA256
    assert web.requests == []


def test_an_entry_that_would_leave_the_store_is_ignored(store: ImageStore, offer: Offer) -> None:
    store.pull(offer())
    for name in ("index.json", "index.backup.json"):
        path = store.root / name
        path.write_text(path.read_text().replace(SHA256, "../../../../etc/passwd"))
    assert store.find("thing_1") is None


def test_the_index_of_a_newer_version_is_left_alone(store: ImageStore, offer: Offer) -> None:
    store.root.mkdir()
    newer = b'{"version": 2, "images": {}}'
    (store.root / "index.json").write_bytes(newer)
    with pytest.raises(RefusedError, match="newer kvm-compose"):
        store.pull(offer())
    assert (store.root / "index.json").read_bytes() == newer


def test_a_store_that_cannot_be_written_is_no_traceback(offer: Offer, tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file where a folder should be")
    with pytest.raises(KvmComposeError, match="cannot write to the image store") as caught:
        ImageStore(tmp_path).pull(offer())
    assert "KVM_COMPOSE_STORE" in str(caught.value.hint)
    with pytest.raises(KvmComposeError, match="cannot read the image index"):
        ImageStore(tmp_path / "locks" / "store").find("thing_1")


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KVM_COMPOSE_STORE", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store().root == tmp_path / ".local/share/kvm-compose/images"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_store().root == tmp_path / ".local/share/kvm-compose/images"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_store().root == Path("/data/kvm-compose/images")
    monkeypatch.setenv("KVM_COMPOSE_STORE", "~/images")
    assert default_store().root == tmp_path / "images"


def writes(content: bytes) -> Callable[[Path], None]:
    """Something that builds an image of this content."""
    return lambda target: target.write_bytes(content) and None


def never(target: Path) -> None:
    pytest.fail("it was built again")


def test_an_image_is_built_once_per_recipe(store: ImageStore) -> None:
    built = store.build("micro", "0" * 64, writes(DISK))
    assert built.path.read_bytes() == DISK
    assert (built.sha256, built.recipe, built.added_by_user) == (SHA256, "0" * 64, False)
    assert store.find("micro") == built
    assert store.build("micro", "0" * 64, never) == built


@pytest.mark.parametrize(("recipe", "refresh"), [("1" * 64, False), ("0" * 64, True)])
def test_a_new_recipe_or_a_refresh_builds_it_again(
    store: ImageStore, tmp_path: Path, recipe: str, refresh: bool
) -> None:
    old = store.build("micro", "0" * 64, writes(DISK))
    store.link(old, tmp_path / "link.qcow2")
    new = store.build("micro", recipe, writes(a_disk(1)), refresh=refresh)
    assert store.find("micro") == new
    assert new.path.read_bytes() == a_disk(1)
    # disks based on the old one keep it
    assert store.prune().paths == ()
    assert (tmp_path / "link.qcow2").read_bytes() == DISK


def test_a_failed_build_keeps_the_old_image(store: ImageStore) -> None:
    def fail(target: Path) -> None:
        target.write_bytes(DISK[:1000])
        raise KvmComposeError("no network")

    with pytest.raises(KvmComposeError, match="no network"):
        store.build("micro", "0" * 64, fail)
    assert store.find("micro") is None
    old = store.build("micro", "0" * 64, writes(DISK))
    with pytest.raises(KvmComposeError, match="no network"):
        store.build("micro", "1" * 64, fail)
    assert store.find("micro") == old
    store.prune()
    assert not list((store.root / "partial").iterdir())


def test_a_built_image_that_was_changed_is_to_be_built_again(store: ImageStore) -> None:
    built = store.build("micro", "0" * 64, writes(DISK))
    built.path.chmod(0o644)
    built.path.write_bytes(DISK[:-1] + b"x")
    (problem,) = store.verify()
    assert problem.hint == "kvm-compose cloud-images build --refresh micro"


def test_an_image_the_user_added_for_a_built_one_counts_until_it_is_built(
    store: ImageStore, tmp_path: Path
) -> None:
    (tmp_path / "mine.qcow2").write_bytes(DISK)
    assert store.add("micro", tmp_path / "mine.qcow2").recipe is None
    assert store.build("micro", "0" * 64, writes(a_disk(1))).sha256 != SHA256
