"""Folders of the project that libvirt guests see: their tags, and what is wrong at which line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import MemoryFiles, compile_text
from kvmcompose.core.errors import InputError
from kvmcompose.guests._shares import Share, mount_commands

YAML = """\
machines:
  - name: a
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {name: debian_12}}
      shares:
        - {source: data, target: /srv/data}
        - SHARE
network: {bridges: [{name: br0}]}
"""


def compiled(share: str) -> tuple[Share, ...]:
    files = MemoryFiles({"key.pub", "key", "file"}, {"data", "out"}, outside={"/etc", "out", "../up"})
    state = compile_text(YAML.replace("SHARE", share), files=files).state
    shares: tuple[Share, ...] = state.testbed_guests["a"].definition.shares
    return shares


@pytest.mark.parametrize(
    ("target", "tag"),
    [
        ("/srv/data", "srv-data"),
        ("/srv//data/", "srv-data"),
        ("/a/b/c", "a-b-c"),
    ],
)
def test_a_tag_is_the_path(target: str, tag: str) -> None:
    assert Share("x", target).tag == tag


def test_tags_of_other_targets_differ_and_are_short_and_plain() -> None:
    targets = [
        "/srv/data", "/srv-data", "/srv data", "/ü", "/ö", "/a,b", f"/{'x' * 40}", f"/{'x' * 41}", "/-x", '/"'
    ]  # fmt: skip
    tags = [Share("x", target).tag for target in targets]
    assert len(set(tags)) == len(targets)
    for tag in tags:
        assert 0 < len(tag.encode()) <= 31
        assert tag.isascii()
        assert not {",", '"', " ", "="} & set(tag)
        assert tag[0] != "-"


def test_virtiofs_is_the_default_but_for_what_is_only_read() -> None:
    found = compiled("{source: data, target: /b, readonly: true}")
    assert [each.is_virtiofs for each in found] == [True, False]
    (driven,) = compiled("{source: data, target: /b, readonly: true, driver: virtiofs}")[1:]
    assert driven.is_virtiofs
    commands = mount_commands((*found, driven))
    assert [words[2].split("&& ")[1] for words in commands] == [
        'mount -t virtiofs "$1" "$2"',
        'mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro "$1" "$2"',
        'mount -t virtiofs -o ro "$1" "$2"',
    ]
    assert [words[-2:] for words in commands] == [("srv-data", "/srv/data"), ("b", "/b"), ("b", "/b")]


def test_a_share_in_another_is_mounted_after_it() -> None:
    def order(*targets: str) -> list[str]:
        return [words[-1] for words in mount_commands(tuple(Share("x", each) for each in targets))]

    assert order("/srv/a/b", "/opt", "//srv/") == ["/opt", "//srv/", "/srv/a/b"]
    assert order("/srv/a/b/c", "/srv/a/b", "/srv") == ["/srv", "/srv/a/b", "/srv/a/b/c"]
    assert order("/srv", "/srv/a", "/opt", "/srv-b") == ["/srv", "/srv/a", "/opt", "/srv-b"]


@pytest.mark.parametrize(
    ("share", "code", "key"),
    [
        ("{source: file, target: /b}", "bad-file", "source"),
        ("{source: nothing, target: /b}", "missing-file", "source"),
        ("{source: /etc, target: /b}", "outside-project", "source"),
        ("{source: ../up, target: /b}", "outside-project", "source"),
        ("{source: out, target: /b}", "outside-project", "source"),
        ("{source: data, target: /srv/data/}", "bad-value", "target"),
        ("{source: data, target: /}", "bad-value", "target"),
        ("{source: data, target: //proc/}", "bad-value", "target"),
        ("{source: data, target: /etc}", "bad-value", "target"),
        ("{source: data, target: b}", "bad-value", "target"),
        ("{source: data, target: /a/../b}", "bad-value", "target"),
        ("{source: data, target: '/a,b'}", "bad-value", "target"),
        ("{source: data, target: /b, driver: nfs}", "bad-value", "driver"),
        ("{source: data, target: /b, read_only: true}", "unknown-key", "read_only"),
    ],
)
def test_a_wrong_share_is_named_at_its_line(share: str, code: str, key: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled(share)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == (code, f"machines[0].libvirt.shares[1].{key}")
    assert problem.location.line == 10


def test_there_are_not_too_many() -> None:
    with pytest.raises(InputError) as caught:
        compiled("\n        - ".join(f"{{source: data, target: /b{number}}}" for number in range(16)))
    assert [problem.code for problem in caught.value.problems] == ["too-many"]
