from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.images.catalogue import (
    CatalogueImage,
    Checksum,
    is_image_name,
    mirrored,
    near_names,
    parse_catalogue,
    parse_checksums,
    pick_checksum,
)
from kvmcompose.images.store import read_catalogue

if TYPE_CHECKING:
    from kvmcompose.images.catalogue import ChecksumAlgorithm

DIGITS: dict[ChecksumAlgorithm, int] = {"md5": 32, "sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}


def an_image(**changes: Any) -> CatalogueImage:
    facts = {
        "name": "thing_1",
        "title": "Thing",
        "url": "https://images.example/thing/disk.img",
        "format": "qcow2",
        "checksums_url": "https://images.example/thing/SUMS",
        "checksum_algorithm": "sha256",
    }
    return CatalogueImage(**(facts | changes))


def test_every_image_of_the_catalogue_has_its_checksums_beside_it() -> None:
    catalogue = read_catalogue()
    assert len(catalogue.images) >= 10
    names = [image.name for image in catalogue.images]
    assert names == sorted(names)
    assert not set(names) & {image.name for image in catalogue.built}
    for image in catalogue.images:
        assert urlsplit(image.url).scheme == "https"
        assert image.url.rpartition("/")[0] == image.checksums_url.rpartition("/")[0]
        assert image.checksums_url.endswith(f"/{image.checksum_algorithm.upper()}SUMS")


def test_only_images_that_never_change_have_a_digest_in_the_catalogue() -> None:
    pinned = {image.name for image in read_catalogue().images if image.sha256}
    assert pinned == {"cirros_0_5_2", "cirros_0_6_2", "cirros_0_6_3"}
    assert all(image.note for image in read_catalogue().images if image.checksum_algorithm == "md5")


def test_the_catalogue_knows_its_images_by_name() -> None:
    catalogue = read_catalogue()
    assert catalogue.find("debian_12") is not None
    assert catalogue.find("debian") is None
    assert catalogue.find("micro") is None
    assert (micro := catalogue.find_built("micro")) is not None
    assert micro.command == "kvm-compose cloud-images build micro"
    assert {"debian_12", "micro"} <= set(catalogue.names())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff", b'{"images": [{"name": "x"}]}', b'{"images": [], "more": 1}'],
)
def test_what_is_no_catalogue_is_refused(data: bytes) -> None:
    with pytest.raises(KvmComposeError, match="catalogue"):
        parse_catalogue(data)


def test_one_name_stands_for_one_image() -> None:
    image = {name: getattr(an_image(), name) for name in CatalogueImage.__struct_fields__}
    with pytest.raises(KvmComposeError, match="more than one image named thing_1"):
        parse_catalogue(json.dumps({"images": [image, image]}).encode())


@pytest.mark.parametrize("name", ["debian_12", "a", "0.5-x_y", "x" * 128])
def test_names_that_images_may_have(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize("name", ["", "..", ".x", "-x", "_x", "a/b", "A", "a b", "é", "a\n", "x" * 129])
def test_names_that_images_may_not_have(name: str) -> None:
    assert not is_image_name(name)


def test_mistyped_names_have_near_ones() -> None:
    names = read_catalogue().names()
    assert near_names("debain_12", names)[0] == "debian_12"
    assert near_names("Ubuntu 24.04", names)[0] == "ubuntu_24_04"
    assert near_names("zzz", names) == ()


def test_the_mirror_has_each_host_in_its_own_folder() -> None:
    url = "https://cloud.debian.org/images/x.qcow2"
    assert mirrored(url, None) == url
    assert mirrored(url, "") == url
    for mirror in ("http://127.0.0.1:8000/m", "http://127.0.0.1:8000/m/"):
        assert mirrored(url, mirror) == "http://127.0.0.1:8000/m/cloud.debian.org/images/x.qcow2"
    assert mirrored(url, "file:///srv") == "file:///srv/cloud.debian.org/images/x.qcow2"


@pytest.mark.parametrize("algorithm", list(DIGITS))
def test_gnu_and_bsd_lists_are_read_by_the_length_of_their_digests(algorithm: ChecksumAlgorithm) -> None:
    digest = "Ab" * (DIGITS[algorithm] // 2)
    expected = {"disk.img": Checksum(algorithm, digest.lower())}
    assert parse_checksums(f"{digest}  disk.img\n") == expected
    assert parse_checksums(f"{digest} *disk.img\r\n") == expected
    assert parse_checksums(f"{digest}  ./disk.img") == expected
    assert parse_checksums(f"{algorithm.upper()} (disk.img) = {digest}\n") == expected


def test_other_lines_are_passed_over() -> None:
    noise = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk.img: 123 bytes\nabc  disk.img\n"
    noise += f"SHA512 (disk.img) = {'a' * 64}\n{'a' * 64}\n{'g' * 64}  disk.img\n"
    assert parse_checksums(noise) == {}


def test_the_strongest_checksum_counts_wherever_it_stands() -> None:
    weak, strong = f"{'a' * 32}  disk.img\n", f"{'b' * 128}  disk.img\n"
    expected = {"disk.img": Checksum("sha512", "b" * 128)}
    assert parse_checksums(weak + strong) == parse_checksums(strong + weak) == expected


def test_names_with_blanks_are_whole() -> None:
    assert list(parse_checksums(f"{'a' * 64}  my disk (1).img\n")) == ["my disk (1).img"]


def test_an_image_without_a_listed_checksum_is_not_fetched() -> None:
    with pytest.raises(KvmComposeError, match=r"lists no checksum of disk\.img"):
        pick_checksum(an_image(), f"{'a' * 64}  disk.img.sig\n")


def test_a_list_cannot_talk_the_check_down() -> None:
    with pytest.raises(KvmComposeError, match="only a md5 checksum"):
        pick_checksum(an_image(), f"{'a' * 32}  disk.img\n")
    assert pick_checksum(an_image(), f"{'a' * 128}  disk.img\n").algorithm == "sha512"
