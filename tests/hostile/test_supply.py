"""The supply of images: signed lists, attacks on the way to the user, and a lab that is fetched twice."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# The server of files is in a folder beside this one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "images"))

from fileserver import Web, serving

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.images.catalogue import CatalogueImage, Signing
from kvmcompose.images.download import refuse_downgrade
from kvmcompose.images.store import ImageStore

LIST, SIGNATURE, IMAGE = "site/SHA512SUMS", "site/SHA512SUMS.gpg", "site/disk.img"


def a_disk(seed: int) -> bytes:
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 2**30, 0, 0, 0, 0, 0, 0, 0)
    return head + bytes(128) + hashlib.sha256(str(seed).encode()).digest() * 3000


def a_list(disk: bytes, name: str = "disk.img") -> bytes:
    return f"{hashlib.sha512(disk).hexdigest()}  {name}\n".encode()


@dataclass
class Publisher:
    """A publisher with temporary keys: ``main``, an ``expired`` one, and one of another publisher."""

    home: Path

    def gpg(self, *words: str, stdin: bytes = b"", at: str | None = None) -> bytes:
        faked = ["--faked-system-time", f"{at}!"] if at else []
        ran = subprocess.run(
            ["/usr/bin/gpg", "--homedir", str(self.home), "--batch", "--quiet", "--no-tty", *faked,
             "--pinentry-mode", "loopback", "--passphrase", "", *words],
            input=stdin, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def make(self, name: str, expires: str = "never", at: str | None = None) -> None:
        self.gpg("--quick-generate-key", f"{name}@lab.example", "ed25519", "sign", expires, at=at)

    def sign(self, data: bytes, name: str = "main", at: str | None = None) -> bytes:
        return self.gpg("--local-user", f"{name}@lab.example", "--detach-sign", stdin=data, at=at)

    def keyring(self, *names: str) -> Path:
        path = self.home / f"{'-'.join(names)}.keyring"
        path.write_bytes(self.gpg("--export", *(f"{name}@lab.example" for name in names)))
        return path


@pytest.fixture(scope="module")
def publisher() -> Iterator[Publisher]:
    with tempfile.TemporaryDirectory(prefix="kc-gpg-") as home:
        found = Publisher(Path(home))
        found.make("main")
        found.make("other")
        found.make("expired", expires="2020-02-01", at="20200101T000000")
        yield found
        subprocess.run(["/usr/bin/gpgconf", "--homedir", home, "--kill", "all"], check=False)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


def image(web: Web, keyring: Path | None) -> CatalogueImage:
    signing = None
    if keyring is not None:
        signing = Signing(url=f"{web.url}/{SIGNATURE}", keyring=str(keyring), package="lab-keyring")
    return CatalogueImage(
        name="thing_1", title="A thing", url=f"{web.url}/{IMAGE}", format="qcow2",
        checksums_url=f"{web.url}/{LIST}", checksum_algorithm="sha512", signing=signing,
    )  # fmt: skip


def publish(web: Web, disk: bytes, signature: bytes | None = None, listed: bytes | None = None) -> None:
    web.put(IMAGE, disk)
    web.put(LIST, listed if listed is not None else a_list(disk))
    if signature is not None:
        web.put(SIGNATURE, signature)


def test_a_good_signature_is_verified_and_said(store: ImageStore, web: Web, publisher: Publisher) -> None:
    disk = a_disk(1)
    publish(web, disk, publisher.sign(a_list(disk)))
    pulled = store.pull(image(web, publisher.keyring("main")))
    assert str(pulled.signature).startswith("verified: signed by ")
    assert store.list()[0].signature == pulled.signature


def test_one_good_signature_is_enough_beside_that_of_an_unknown_key(
    store: ImageStore, web: Web, publisher: Publisher
) -> None:
    disk = a_disk(1)
    publish(web, disk, publisher.sign(a_list(disk), "other") + publisher.sign(a_list(disk)))
    assert str(store.pull(image(web, publisher.keyring("main"))).signature).startswith("verified")


def nothing_fetched(store: ImageStore, web: Web) -> bool:
    return store.list() == () and web.asked(IMAGE) == []


@pytest.mark.parametrize(
    "attack", ["changed list", "wrong key", "expired key", "no signature in it", "empty"]
)
def test_a_wrong_signature_is_an_error(
    store: ImageStore, web: Web, publisher: Publisher, attack: str
) -> None:
    disk = a_disk(1)
    listed = a_list(disk)
    signature = {
        "changed list": lambda: publisher.sign(a_list(a_disk(2))),
        "wrong key": lambda: publisher.sign(listed, "other"),
        "expired key": lambda: publisher.sign(listed, "expired", at="20200102T000000"),
        "no signature in it": lambda: b"-----BEGIN PGP SIGNATURE-----\n\nnothing\n",
        "empty": lambda: b"",
    }[attack]()
    publish(web, disk, signature)
    with pytest.raises(KvmComposeError, match=r"the signature of .* is wrong") as caught:
        store.pull(image(web, publisher.keyring("main", "expired")))
    assert caught.value.hint
    assert nothing_fetched(store, web)


def test_a_list_that_is_usually_signed_must_not_come_without(
    store: ImageStore, web: Web, publisher: Publisher
) -> None:
    publish(web, a_disk(1))
    with pytest.raises(KvmComposeError, match="by its publisher, but the signature cannot be fetched"):
        store.pull(image(web, publisher.keyring("main")))
    assert nothing_fetched(store, web)


def test_status_lines_in_the_list_impress_nobody(store: ImageStore, web: Web, publisher: Publisher) -> None:
    disk = a_disk(1)
    forged = b"[GNUPG:] GOODSIG 00 x\n[GNUPG:] VALIDSIG 00\n" + a_list(disk)
    publish(web, disk, b"[GNUPG:] GOODSIG 00 x\n[GNUPG:] VALIDSIG 00\n", forged)
    with pytest.raises(KvmComposeError, match="is wrong"):
        store.pull(image(web, publisher.keyring("main")))


def test_what_cannot_be_verified_is_said(
    store: ImageStore, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publisher: Publisher
) -> None:
    publish(web, a_disk(1))
    pulled = store.pull(image(web, tmp_path / "no.gpg"))
    assert (
        pulled.signature
        == f"not verified: the keyring {tmp_path / 'no.gpg'} does not exist (Debian package lab-keyring)"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    pulled = ImageStore(tmp_path / "second").pull(image(web, publisher.keyring("main")))
    assert "gpgv is not installed" in str(pulled.signature)
    pulled = ImageStore(tmp_path / "third").pull(image(web, None))
    assert pulled.signature == "its publisher does not sign its list"


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (a_list(a_disk(1), "other.img"), "lists no checksum"),
        (b"x" * (2**20 + 1), "too large"),
        (f"{'0' * 32}  disk.img\n".encode(), "has only a md5"),
        (a_list(a_disk(2)), "is not what was published"),
    ],
)
def test_a_list_that_does_not_fit(
    store: ImageStore, web: Web, publisher: Publisher, listed: bytes, message: str
) -> None:
    publish(web, a_disk(1), publisher.sign(listed), listed)
    with pytest.raises(KvmComposeError, match=message):
        store.pull(image(web, publisher.keyring("main")))
    assert store.list() == ()


def test_a_list_of_many_algorithms_gives_the_strongest(store: ImageStore, web: Web) -> None:
    disk = a_disk(1)
    listed = f"MD5 (disk.img) = {'0' * 32}\nSHA256 (disk.img) = {hashlib.sha256(disk).hexdigest()}\n".encode()
    publish(web, disk, listed=listed + a_list(disk))
    assert str(store.pull(image(web, None)).checksum).startswith("sha512:")


def test_another_content_needs_the_users_word(store: ImageStore, web: Web, publisher: Publisher) -> None:
    for disk in (a_disk(1), a_disk(2)):
        publish(web, disk, publisher.sign(a_list(disk)))
        if disk == a_disk(1):
            first = store.pull(image(web, publisher.keyring("main")))
    with pytest.raises(RefusedError) as caught:
        store.pull(image(web, publisher.keyring("main")), refresh=True)
    for disk in (a_disk(1), a_disk(2)):
        assert hashlib.sha512(disk).hexdigest() in caught.value.message
    assert "pull --accept thing_1" in str(caught.value.hint)
    assert web.asked(IMAGE) == web.asked(IMAGE)[:1]
    assert store.find("thing_1") == first
    second = store.pull(image(web, publisher.keyring("main")), accept=True)
    assert second.sha256 == hashlib.sha256(a_disk(2)).hexdigest()
    assert store.pull(image(web, publisher.keyring("main")), refresh=True) == second


def test_the_first_content_is_remembered_when_the_image_is_gone(store: ImageStore, web: Web) -> None:
    publish(web, a_disk(1))
    store.pull(image(web, None))
    (store.root / "noted.json").unlink()  # as in a store of version 0.1
    store.remove("thing_1")
    store.prune()
    publish(web, a_disk(2))
    with pytest.raises(RefusedError, match="is not the one that was fetched here before"):
        store.pull(image(web, None))
    publish(web, a_disk(1))
    assert store.pull(image(web, None)).sha256 == hashlib.sha256(a_disk(1)).hexdigest()


def test_a_mirror_cannot_slip_another_content_in(store: ImageStore, web: Web, tmp_path: Path) -> None:
    publish(web, a_disk(1))
    store.pull(image(web, None))
    store.remove("thing_1")
    mirror = tmp_path / "mirror" / web.url.removeprefix("http://") / "site"
    mirror.mkdir(parents=True)
    (mirror / "disk.img").write_bytes(a_disk(2))
    (mirror / "SHA512SUMS").write_bytes(a_list(a_disk(2)))
    with pytest.raises(RefusedError):
        store.pull(image(web, None), mirror=(tmp_path / "mirror").as_uri())


def test_another_way_to_say_the_same_checksum_is_no_other_content(store: ImageStore, web: Web) -> None:
    disk = a_disk(1)
    publish(web, disk)
    store.pull(image(web, None))
    store.remove("thing_1")
    pinned = CatalogueImage(**{
        name: getattr(image(web, None), name) for name in CatalogueImage.__struct_fields__
    } | {"sha256": hashlib.sha256(disk).hexdigest()})  # fmt: skip
    assert store.pull(pinned).checksum_from == "catalogue"


def test_a_damaged_note_accepts_nothing(store: ImageStore, web: Web) -> None:
    publish(web, a_disk(1))
    store.pull(image(web, None))
    (store.root / "noted.json").write_text(json.dumps({"version": 1, "images": 3}))
    with pytest.raises(KvmComposeError, match="cannot read which images were fetched before"):
        store.pull(image(web, None), refresh=True)


def test_a_list_is_not_taken_from_a_plain_address_that_https_leads_to() -> None:
    listed = "https://lab.example/SUMS"
    refuse_downgrade(listed, [listed, "https://other.example/SUMS"])
    with pytest.raises(KvmComposeError, match="redirects to http://other"):
        refuse_downgrade(listed, [listed, "http://other.example/SUMS"])
