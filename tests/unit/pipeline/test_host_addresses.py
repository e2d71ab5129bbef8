"""Addresses of testbed hosts that no other host could reach."""

from __future__ import annotations

import pytest

from kvmcompose.core.model import Host
from kvmcompose.pipeline.config import check_hosts


def problems(*addresses: str) -> list[tuple[str, str]]:
    hosts = tuple(Host(name=f"h{n}", ip=ip, is_main_host=n == 0) for n, ip in enumerate(addresses))
    return [(each.code, each.message) for each in check_hosts(hosts, None, None)]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("2001:db8:::1", "not an IPv6 address"),
        ("host:22", "not an IPv6 address"),
        ("192.0.2", "not an IPv4 address"),
        ("192.0.2.001", "not an IPv4 address"),
        ("3221225985", "not an IPv4 address"),
        ("0xc0000201", "not an IPv4 address"),
        ("0.0.0.0", "not the address of one host"),  # noqa: S104
        ("224.0.0.1", "not the address of one host"),
        ("255.255.255.255", "not the address of one host"),
        ("ff02::1", "not the address of one host"),
        ("fe80::1", "link-local"),
    ],
)
def test_what_is_no_address_of_a_host(address: str, said: str) -> None:
    ((code, message),) = problems("192.0.2.1", address)
    assert code == "bad-value"
    assert message.startswith(f"{address} is ")
    assert said in message


@pytest.mark.parametrize(
    "address", ["169.254.1.1", "2001:DB8::1", "host-2", "2host", "a.0x.example", "10.0.0.1"]
)
def test_what_may_be_one(address: str) -> None:
    assert problems("192.0.2.1", address) == []


def test_a_host_alone_is_reached_by_no_other() -> None:
    assert problems("0.0.0.0") == []  # noqa: S104


@pytest.mark.parametrize(("one", "other"), [("host", "HOST"), ("host", "host."), ("fd00::1", "FD00:0::1")])
def test_one_host_in_two_spellings(one: str, other: str) -> None:
    assert [code for code, _ in problems(one, other)] == ["duplicate-address"]
