"""Seeds: bytes of the same recipe are the same bytes, and everything asked for is in them."""

from __future__ import annotations

import concurrent.futures
import io
import tarfile
import time
from collections.abc import Iterable

import pycdlib
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from golden.memory import TEMPLATES
from kvmcompose.core.artefact import Rendered
from kvmcompose.render import render
from kvmcompose.render.archive import ContextMember, PackedContext, pack_context
from kvmcompose.render.inputs import Sources
from kvmcompose.render.seed import KEY_FILE, SeedInterface, SeedValues
from kvmcompose.render.seed import TEMPLATES as SEED_TEMPLATES
from kvmcompose.render.templates import Templates

KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here\n"
EPOCH = 315532800


def values(**environment: str) -> SeedValues:
    nic = SeedInterface("eth0", "52:54:00:00:00:01", "10.0.0.2", 24, 1442, "10.0.0.1")
    return SeedValues(
        project="lab",
        guest="g",
        hostname="lab-g",
        username="nocloud",
        interfaces=(nic,),
        environment=environment,
    )


def file(path: str, data: bytes, *, executable: bool = False) -> ContextMember:
    return ContextMember(path, lambda: io.BytesIO(data), executable=executable)


def packed(members: Iterable[ContextMember], epoch: int) -> PackedContext:
    out = io.BytesIO()
    sha256, _ = pack_context(members, epoch, out)
    return PackedContext(lambda: io.BytesIO(out.getvalue()), len(out.getvalue()), sha256)


def seed(
    values: SeedValues, epoch: int = EPOCH, key: bytes = KEY, context: Iterable[ContextMember] | None = None
) -> bytes:
    content = Rendered("seed", values, templates=SEED_TEMPLATES, files={KEY_FILE: "x"})
    packed_context = packed(context, epoch) if context is not None else None
    out = io.BytesIO()
    render(content, Sources(Templates(TEMPLATES), {KEY_FILE: key}, epoch, packed_context), out)
    return out.getvalue()


def opened(data: bytes) -> dict[str, bytes]:
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(data))
    found = {}
    for name in ("meta-data", "user-data", "network-config", "context.tar"):
        content = io.BytesIO()
        image.get_file_from_iso_fp(content, joliet_path=f"/{name}")
        found[name] = content.getvalue()
    image.close()
    return found


def test_the_same_recipe_makes_the_same_bytes_at_any_time() -> None:
    first = seed(values(A="1"))
    time.sleep(1.1)
    assert seed(values(A="1")) == first


def test_a_new_name_is_no_new_instance() -> None:
    before = opened(seed(values(A="1")))
    renamed = structs.replace(values(A="1"), guest="h", hostname="lab-h", identity="g", domain="lab-g")
    after = opened(seed(renamed))
    assert yaml.safe_load(after["meta-data"]) == {
        "instance-id": yaml.safe_load(before["meta-data"])["instance-id"],
        "local-hostname": "lab-h",
    }
    assert yaml.safe_load(after["user-data"])["hostname"] == "lab-h"
    assert after["context.tar"] == before["context.tar"]
    edited = opened(seed(structs.replace(renamed, environment={"A": "2"})))
    assert edited["meta-data"] != after["meta-data"]


def test_threads_do_not_disturb_each_other_s_clock() -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: seed(values(A=str(number % 4)), EPOCH + number % 4), range(40)))
    assert len(set(found)) == 4
    assert time.time() > EPOCH + 10**9


def test_the_epoch_shows_in_the_image_and_not_in_the_instance_id() -> None:
    one, two = seed(values()), seed(values(), EPOCH + 3600)
    assert one != two
    assert opened(one)["user-data"] == opened(two)["user-data"]


@pytest.mark.parametrize("changed", ["environment", "key", "file", "mode", "user"])
def test_changed_data_is_another_instance(changed: str) -> None:
    def instance(data: bytes) -> str:
        return str(yaml.safe_load(opened(data)["meta-data"])["instance-id"])

    script = file("a.sh", b"1")
    before = instance(seed(values(), context=(script,)))
    match changed:
        case "environment":
            after = seed(values(A="1"), context=(script,))
        case "key":
            after = seed(values(), key=KEY + b"no-pty " + KEY, context=(script,))
        case "file":
            after = seed(values(), context=(file("a.sh", b"2"),))
        case "mode":
            after = seed(values(), context=(file("a.sh", b"1", executable=True),))
        case _:
            other = values()
            after = seed(
                SeedValues(
                    project="lab",
                    guest="g",
                    hostname="lab-g",
                    username="x",
                    interfaces=other.interfaces,
                    environment={},
                ),
                context=(script,),
            )
    assert instance(after) != before
    assert instance(seed(values(), context=(script,))) == before


def test_the_label_is_what_cloud_init_looks_for() -> None:
    data = seed(values())
    # ECMA-119, section 8.4.7: the volume identifier of the primary descriptor
    assert data[0x8028:0x8048].decode().strip() == "CIDATA"
    assert data[0x8001:0x8006] == b"CD001"


NAMES = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1, max_size=120
).filter(lambda name: name not in (".", ".."))


@settings(max_examples=30)
@given(st.dictionaries(NAMES, st.tuples(st.binary(max_size=2000), st.booleans()), max_size=6))
def test_a_context_comes_out_of_the_archive_as_it_went_in(files: dict[str, tuple[bytes, bool]]) -> None:
    carried = tuple(file(name, data, executable=run) for name, (data, run) in files.items())
    archive = opened(seed(values(), context=carried))["context.tar"]
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith("context/"):
                content = tar.extractfile(member)
                assert content is not None
                found[member.name.removeprefix("context/")] = (content.read(), bool(member.mode & 0o100))
    assert found == files


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 5_000_000])
def test_a_large_file_comes_out_whole(size: int) -> None:
    archive = opened(seed(values(), context=(file("x", b"\1" * size),)))["context.tar"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getmember("context/x").size == size


def test_the_archive_is_in_the_same_order_whatever_the_order_of_its_files() -> None:
    one = file("a", b"1"), file("b", b"2")
    assert seed(values(), context=one) == seed(values(), context=one[::-1])
