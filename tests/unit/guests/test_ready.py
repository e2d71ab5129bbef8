"""``ready``: its forms mean the same, and scripts that it is in the way of are refused at their lines."""

from __future__ import annotations

import msgspec
import pytest

from kvmcompose.core.ready import HttpReady, Ready
from kvmcompose.guests import _ready
from kvmcompose.guests._ready import ReadyKey


def key(value: object) -> ReadyKey:
    found: ReadyKey = msgspec.convert(value, ReadyKey)
    return found


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("none", Ready()),
        ("agent", Ready(agent=True)),
        ({"agent": True}, Ready(agent=True)),
        ({"tcp": 22}, Ready(tcp=22)),
        ({"console": "login:"}, Ready(console="login:")),
        ({"http": "/"}, Ready(http=HttpReady())),
        ({"http": ":8080/a?b"}, Ready(http=HttpReady(port=8080, path="/a?b"))),
        ({"http": {"port": 8080, "status": 503}}, Ready(http=HttpReady(port=8080, status=503))),
    ],
)
def test_forms(given: object, wanted: Ready) -> None:
    assert _ready.ready(key(given)) == wanted


def test_without_the_key_nothing_is_said() -> None:
    assert _ready.ready(None) is None


@pytest.mark.parametrize(("status", "good"), [(199, False), (200, True), (302, True), (404, False)])
def test_statuses_of_services_that_work(status: int, good: bool) -> None:
    assert HttpReady().accepts(status) is good
    assert HttpReady(status=404).accepts(status) is (status == 404)


@pytest.mark.parametrize("given", ["none", {"tcp": 22}, {"http": "/"}, {"console": "x"}])
def test_scripts_need_to_know_when_the_guest_is_set_up(given: object) -> None:
    path = ("libvirt", "libvirt_type", "cloud_image", "setup_script")
    (problem,) = _ready.check(key(given), iter([path]))
    assert (problem.code, problem.path) == ("needs-ready", path)
    assert not list(_ready.check(key(given), iter([])))


@pytest.mark.parametrize("given", [None, "agent"])
def test_scripts_run_by_ssh_and_by_the_agent(given: object) -> None:
    assert not list(_ready.check(key(given) if given else None, iter([("x",)])))
