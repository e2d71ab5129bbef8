"""What scripts of a guest see, read from its seed: the same for the same, whatever else the seed has."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from random_cases import cases

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import TEMPLATES
from kvmcompose.core.artefact import Rendered
from kvmcompose.core.seed import SeedContents
from kvmcompose.images import seeds
from kvmcompose.images.iso9660 import find_file
from kvmcompose.images.seeds import archive_pieces, seed_contents
from kvmcompose.render import render
from kvmcompose.render.archive import ContextMember, PackedContext, pack_context
from kvmcompose.render.inputs import Sources
from kvmcompose.render.seed import KEY_FILE, SeedInterface, SeedValues
from kvmcompose.render.seed import TEMPLATES as SEED_TEMPLATES
from kvmcompose.render.templates import Templates

KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here\n"
NIC = SeedInterface("eth0", "52:54:00:00:00:01", "10.0.0.2", 24, 1442, "10.0.0.1")
VALUES = SeedValues(
    project="lab",
    guest="g",
    hostname="lab-g",
    username="nocloud",
    interfaces=(NIC,),
    environment={"A": "one", "B": "it's\ntwo"},
)
SCRIPTS = {"setup/00-a.sh": b"#!/bin/sh\n", "setup/01-b.sh": b"b\n", "run/00-c.sh": b"c\n"}
MEMBERS = (
    ContextMember("deep/" + "x" * 120, lambda: io.BytesIO(b"file\n"), executable=True),
    ContextMember("deep"),
    ContextMember("link", link_target="deep"),
)


def seed(
    values: SeedValues = VALUES,
    scripts: dict[str, bytes] = SCRIPTS,
    members: tuple[ContextMember, ...] = MEMBERS,
    epoch: int = 315532800,
) -> bytes:
    out = io.BytesIO()
    sha256, _ = pack_context(members, epoch, out)
    context = PackedContext(lambda: io.BytesIO(out.getvalue()), len(out.getvalue()), sha256)
    sources = Sources(Templates(TEMPLATES), {KEY_FILE: KEY, **scripts}, epoch, context)
    image = io.BytesIO()
    files = {KEY_FILE: "key.pub", **{name: name for name in scripts}}
    render(Rendered("seed", values, templates=SEED_TEMPLATES, files=files), sources, image)
    return image.getvalue()


def read(image: bytes) -> SeedContents:
    found = seed_contents(hashlib.sha256(image).hexdigest(), lambda: io.BytesIO(image))
    assert found is not None
    return found


def test_a_file_of_a_seed_is_found_as_pycdlib_finds_it() -> None:
    image = seed()
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    for name in ("meta-data", "user-data", "network-config", "context.tar"):
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
        start, size = find_file(io.BytesIO(image), name)
        assert image[start : start + size] == out.getvalue()
    with pytest.raises(ValueError, match="no other"):
        find_file(io.BytesIO(image), "other")


def test_everything_that_scripts_see_is_in_it() -> None:
    found = read(seed())
    assert found.scripts.keys() == SCRIPTS.keys()
    assert len(set(found.scripts.values())) == len(SCRIPTS)
    assert found.environment.keys() == {"A", "B"}
    assert "two" not in repr(found)
    assert found.context
    archive = b"".join(archive_pieces(io.BytesIO(seed())))
    assert found.archive == hashlib.sha256(archive).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        assert "setup/01-b.sh" in members.getnames()


OTHER_NIC = structs.replace(NIC, ip="10.0.0.9")


@pytest.mark.parametrize(
    "other",
    [
        lambda: seed(structs.replace(VALUES, interfaces=(OTHER_NIC,))),
        lambda: seed(structs.replace(VALUES, hostname="lab-other", guest="other")),
        lambda: seed(structs.replace(VALUES, username="me")),
        lambda: seed(epoch=0),
    ],
)
def test_what_scripts_do_not_see_is_not(other: Callable[[], bytes]) -> None:
    one, two = read(seed()), read(other())
    assert seed() != other()
    assert structs.replace(one, archive="", user_data="") == structs.replace(two, archive="", user_data="")


def test_user_data_is_without_addresses() -> None:
    found = read(seed()).user_data
    assert found == read(seed(structs.replace(VALUES, interfaces=(OTHER_NIC,)))).user_data
    assert found != read(seed(structs.replace(VALUES, username="me"))).user_data


def renamed(old: str, new: str) -> tuple[ContextMember, ...]:
    return tuple(structs.replace(each, path=each.path.replace(old, new)) for each in MEMBERS)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (lambda: seed(scripts={**SCRIPTS, "setup/01-b.sh": b"B\n"}), "scripts"),
        (lambda: seed(scripts={**SCRIPTS, "run/01-d.sh": b""}), "scripts"),
        (lambda: seed(structs.replace(VALUES, environment={"A": "one"})), "environment"),
        (lambda: seed(structs.replace(VALUES, environment={"A": "two", "B": "it's\ntwo"})), "environment"),
        (lambda: seed(members=MEMBERS[1:]), "context"),
        (lambda: seed(members=()), "context"),
        (lambda: seed(members=renamed("link", "other")), "context"),
        (lambda: seed(members=(structs.replace(MEMBERS[0], mode=0o700), *MEMBERS[1:])), "context"),
        (lambda: seed(members=(*MEMBERS[:2], ContextMember("link", link_target="x"))), "context"),
        (lambda: seed(members=(ContextMember(MEMBERS[0].path, lambda: io.BytesIO(b"FILE\n"), True), *MEMBERS[1:])), "context"),  # noqa: E501
    ],
)  # fmt: skip
def test_one_thing_that_changes_is_one_difference(other: Callable[[], bytes], field: str) -> None:
    one, two = read(seed()), read(other())
    differing = {each for each in SeedContents.__struct_fields__ if getattr(one, each) != getattr(two, each)}
    assert differing == {field, "archive"}


def test_a_large_context_is_read_from_the_image() -> None:
    large = ContextMember("large", lambda: io.BytesIO(b"x" * (3 << 20)))
    one = read(seed(members=(*MEMBERS, large)))
    two = read(seed(members=(*MEMBERS, structs.replace(large, open=lambda: io.BytesIO(b"y" * (3 << 20))))))
    assert one.archive
    assert one.context != two.context
    assert one.scripts == two.scripts


def test_a_seed_is_read_once() -> None:
    image = seed(structs.replace(VALUES, hostname="once"))
    digest = hashlib.sha256(image).hexdigest()
    first = seed_contents(digest, lambda: io.BytesIO(image))
    assert seed_contents(digest, lambda: pytest.fail("it was opened again")) == first


def test_a_seed_that_was_replaced_meanwhile_is_not_known() -> None:
    image = seed(structs.replace(VALUES, hostname="before"))
    digest = hashlib.sha256(image).hexdigest()
    assert seed_contents(digest, lambda: io.BytesIO(seed())) is None
    assert seeds.known_contents(digest) is None


def iso(**files: bytes) -> bytes:
    image = pycdlib.PyCdlib()
    image.new(joliet=3)
    for number, (name, data) in enumerate(files.items()):
        joliet = "/" + name.replace("_", ".")
        image.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", joliet_path=joliet)
    out = io.BytesIO()
    image.write_fp(out)
    return out.getvalue()


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def long_header() -> bytes:
    """A pax header that says that it has a gigabyte."""
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    info.size = 1 << 30
    return info.tobuf() + bytes(1 << 16)


HOSTILE = {
    "nothing": b"",
    "text": b"no image\n" * 10_000,
    "zeros": bytes(1 << 16),
    "another file": iso(user_data=b"#cloud-config\n"),
    "no archive": iso(context_tar=b"no archive at all" * 100),
    "unbalanced": iso(context_tar=tar((tarfile.TarInfo("environment"), b"A='b\n"))),
    "no text": iso(context_tar=tar((tarfile.TarInfo("environment"), b"A=\xff\n"))),
    "long header": iso(context_tar=long_header()),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_of_what_is_no_seed_of_ours_the_whole_counts(what: str) -> None:
    image = HOSTILE[what]
    assert read(image) == SeedContents(context=hashlib.sha256(image).hexdigest())


@cases(300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 17), st.binary(min_size=1, max_size=40)), max_size=6),
    end=st.integers(0, 1 << 19),
)
def test_a_damaged_seed_raises_nothing(changes: list[tuple[int, bytes]], end: int) -> None:
    image = bytearray(SEED[: max(end, 40_000)])
    for at, data in changes:
        image[at % len(image) : at % len(image) + len(data)] = data
    read(bytes(image))


SEED = seed()
