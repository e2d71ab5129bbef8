"""Shares of libvirt guests that lead to files of the host: named, and refused without the user's word."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kvmcompose import privileges
from kvmcompose.build.trust import asked_by
from kvmcompose.core.deployable import DomainGuest, Mount
from kvmcompose.core.privilege import PrivilegeKind
from kvmcompose.core.state import State, decode_state
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.bench import GOLDEN, Bench, golden_bench

EXPECTED = GOLDEN / "shares" / "expected"


@pytest.fixture(scope="module")
def state() -> State:
    return decode_state((EXPECTED / "state.json").read_bytes())


def of(state: State, xml: str, *mounts: Mount) -> list[tuple[PrivilegeKind, str]]:
    """What the XML of a guest with these shares asks for."""
    guest = state.testbed_guests["old"]
    run = guest_kind(guest.kind).deployable(guest, state.shared)
    assert isinstance(run, DomainGuest)
    run = msgspec.structs.replace(run, mounts=mounts or run.mounts)
    plan = dialect(state.network["dialect"]).network_plan(state)
    found = privileges.of_domain(privileges.Xml(xml), guest, run, state, plan)
    return [(each.kind, each.what) for each in found]


def xml(source: str, more: str = "") -> str:
    text = (EXPECTED / "artefacts" / "old-domain.xml").read_text()
    share = f'<filesystem type="mount"><source dir="{source}"/><target dir="x"/>{more}</filesystem>'
    return text.replace("</devices>", f"{share}</devices>")


@pytest.mark.parametrize("inside", ["data/out", "data/out/", "data/in", "data/out/../../..", "", "keys"])
def test_only_the_folders_of_its_own_shares_are_harmless(state: State, inside: str) -> None:
    folder = state.testbed_host_shared_config.project_folder
    found = of(state, xml(f"{folder}/{inside}"))
    assert [kind for kind, _ in found] == ([] if inside == "data/out" else [PrivilegeKind.FILE])


@pytest.mark.parametrize("source", [".", "./", "artefacts", "artefacts/x", "a/../../b", "/etc", ".."])
def test_shares_of_what_the_host_opens_need_the_users_word(state: State, source: str) -> None:
    folder = state.testbed_host_shared_config.project_folder
    path = source if source.startswith("/") else f"{folder}/{source}".rstrip("/.") or "/"
    assert PrivilegeKind.FILE in [kind for kind, _ in of(state, xml(path), Mount(source, "/x"))]


@pytest.mark.parametrize(
    "more",
    [
        '<binary path="/opt/evil"/>',
        '<binary><sandbox mode="chroot"/></binary>',
        '<idmap><uid start="0" target="0" count="10"/></idmap>',
    ],
)
def test_how_virtiofsd_is_started_is_named(state: State, more: str) -> None:
    folder = state.testbed_host_shared_config.project_folder
    found = of(state, xml(f"{folder}/data/out", more))
    assert len(found) == 1
    assert "idmap" in more or found[0][0] is PrivilegeKind.PROGRAM


def test_files_of_the_host_as_memory_are_named(state: State) -> None:
    text = (EXPECTED / "artefacts" / "old-domain.xml").read_text()
    assert of(state, text.replace('<source type="memfd"/>', '<source type="file"/>'))


def _link_out(bench: Bench) -> None:
    (bench.folder / "data/out").rename(bench.folder / "data/moved")
    (bench.folder / "data/out").symlink_to("/etc")


def _link_above(bench: Bench) -> None:
    (bench.folder / "data").rename(bench.folder.parent / "elsewhere")
    (bench.folder / "data").symlink_to("../elsewhere")


@pytest.mark.parametrize("change", [_link_out, _link_above])
def test_a_share_that_leads_out_of_the_project_is_listed(
    change: Callable[[Bench], None], tmp_path: Path
) -> None:
    bench = golden_bench(tmp_path, "shares")
    bench.generate()
    before = set(asked_by(bench.folder).privileges)
    change(bench)
    added = set(asked_by(bench.folder).privileges) - before
    assert {each.kind for each in added} == {PrivilegeKind.FILE}
    assert "artefacts/both-domain.xml" in {each.where for each in added}


def test_a_share_in_one_that_a_guest_writes_to_is_listed(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "shares")
    bench.edit("source: data/huge", "source: data")
    bench.generate()
    listed = {(each.where, each.what) for each in asked_by(bench.folder).privileges}
    assert ("artefacts/plain-domain.xml", "'data/in', if a guest puts a link into 'data'") in listed
