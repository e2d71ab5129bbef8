"""What differs in two recipes, in the words of the YAML."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvmcompose.build.recipe_words import reasons_between

WEB = {"mac": "52:54:00:00:00:01", "ip": "10.0.0.1", "name": "lab-web", "alias": "web"}
DB = {"mac": "52:54:00:00:00:02", "ip": "10.0.0.2", "name": "lab-db", "alias": "db"}
SECOND = {"mac": "52:54:00:00:00:03", "ip": "10.0.0.3", "name": None, "alias": None}
RANGE = {"gateway": "10.0.0.1", "prefix_length": 24, "first": "10.0.0.2", "last": "10.0.0.254"}
NIC = {"mac": "52:54:00:00:00:01", "source": "lab-br0", "target": "lab-web-0", "mtu": 1442, "checksums": True}


def between(before: Any, after: Any) -> list[str]:
    return list(reasons_between(msgspec.json.encode(before), msgspec.json.encode(after)))


def values(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return between({"values": {"project": "lab", **before}}, {"values": {"project": "lab", **after}})


def network(*reservations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**RANGE, "reservations": list(reservations), **more}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"memory_mb": 128}, {"memory_mb": 256}, ["memory_mb: 128 -> 256"]),
        ({"max_cpus": None}, {"max_cpus": 4}, ["max_cpus: (none) -> 4"]),
        ({"host": "one"}, {"host": "two"}, ["host: one -> two"]),
        (
            {"guest": "db", "hostname": "lab-db"},
            {"guest": "bob", "hostname": "lab-bob", "identity": "db", "domain": "lab-db"},
            ["name: db -> bob"],
        ),
        # a guest before the others
        (network(DB), network(WEB, DB), ["guest web added"]),
        (network(WEB, DB), network(DB), ["guest web removed"]),
        (network(WEB), network(WEB, SECOND), ["address 10.0.0.3 added"]),
        (network(WEB), network({**WEB, "mac": "a"}), ["mac of guest web: 52:54:00:00:00:01 -> a"]),
        (network(WEB), network({**WEB, "alias": "bob"}), ["name: web -> bob"]),
        (
            network(WEB),
            network({**WEB, "ip": "10.9.0.1"}, gateway="10.9.0.1"),
            ["subnet: 10.0.0.0/24 -> 10.9.0.0/24"],
        ),
        ({"nics": [NIC]}, {"nics": [{**NIC, "source": "lab-br1"}]}, ["bridge of interface 0: br0 -> br1"]),
        ({"nics": [NIC]}, {"nics": [NIC, {**NIC, "mac": "b"}]}, ["interface 1 added"]),
        ({"nics": [{**NIC, "mac": "b"}, NIC]}, {"nics": [NIC]}, ["interface 0 removed"]),
        ({"nics": [NIC]}, {"nics": [{**NIC, "checksums": False}]}, ["interface 0 has changed"]),
        (
            {"interfaces": [{"mac": "a", "ip": "10.0.0.1", "gateway": "10.0.0.254"}]},
            {"interfaces": [{"mac": "a", "ip": "10.9.0.1", "gateway": None}]},
            ["ip of interface 0: 10.0.0.1 -> 10.9.0.1"],
        ),
        (
            {"environment": {"OLD": "1", "BOTH": "2"}},
            {"environment": {"NEW": "1", "BOTH": "3"}},
            ["environment NEW added", "environment BOTH has changed", "environment OLD removed"],
        ),
    ],
)
def test_values_have_the_words_of_the_yaml(
    before: dict[str, Any], after: dict[str, Any], said: list[str]
) -> None:
    assert values(before, after) == said


def test_files_images_and_templates_are_named() -> None:
    def files(**contents: str) -> dict[str, Any]:
        return {
            "files": {
                f"setup/00-{each}": {"path": f"{each}", "content": text} for each, text in contents.items()
            }
        }

    assert between(files(a="1", b="1"), files(b="2", c="1")) == [
        "setup script b has changed",
        "setup script c added",
        "setup script a removed",
    ]
    context = [{"files": {"context": {"path": "ctx", "content": text}}} for text in "12"]
    assert between(*context) == ["context ctx has changed"]
    disk = {"image": {"name": "debian_12", "content": "a", "called": "images/a"}, "expand_gigabytes": 0}
    other = {"image": {"name": "ubuntu", "content": "b", "called": "images/b"}, "expand_gigabytes": 2}
    assert between({"overlay": disk}, {"overlay": other}) == [
        "image: debian_12 -> ubuntu",
        "expand_gigabytes: 0 -> 2",
    ]
    same_name = {**disk, "image": {**disk["image"], "content": "b"}}  # type: ignore[dict-item]
    assert between({"overlay": disk}, {"overlay": same_name}) == ["image debian_12 has changed"]
    assert between({"templates": {"domain.xml.j2": "a"}}, {"templates": {"domain.xml.j2": "b"}}) == [
        "template domain.xml.j2 has changed"
    ]
    assert between({"renderer": {"code": "a"}}, {"renderer": {"code": "b"}}) == ["kvm-compose itself changed"]


@pytest.mark.parametrize("before", [[], {"values": 3}, {"values": {"nics": [3]}}, {"files": {"x": 1}}])
def test_a_ledger_that_is_not_ours_is_no_error(before: Any) -> None:
    between(before, {"values": {"nics": [NIC]}, "files": {"x": {"path": "x", "content": "y"}}})
