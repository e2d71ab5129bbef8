"""``seed`` prints what a guest will read, without what nobody should see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.bench import GOLDEN, Bench, golden_bench
from kvmcompose.cli._seed_text import without_secrets


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return golden_bench(tmp_path, "cloud-init")


def said(bench: Bench, *words: str) -> str:
    ran = bench.run("seed", *words)
    assert ran.status == 0, ran.said
    return ran.out


def test_all_files_are_printed_as_a_build_would_make_them(bench: Bench) -> None:
    found = json.loads(said(bench, "farm-0", "--json", "--show-secrets"))
    assert not (bench.folder / "artefacts").exists(), "it built something"
    folder = GOLDEN / "cloud-init/expected/artefacts/farm-0-cloud-init.iso"
    assert found.keys() == {"meta-data", "user-data", "network-config"}
    for name, text in found.items():
        assert text == (folder / name).read_text(), name


def test_secrets_are_left_out_unless_asked_for(bench: Bench) -> None:
    text = said(bench, "short", "--file", "user-data")
    assert '"hashed_passwd": "(left out)"' in text
    assert "saltsalt" not in text
    assert "b64" in text
    assert "PGgxPnTDpHN0PC9oMT4K" not in text, "a file that not all may read"
    assert "Hello: {{ name }}" in text, "one that all may read"
    shown = said(bench, "short", "--file", "user-data", "--show-secrets")
    assert "$6$saltsalt$" in shown
    assert "PGgxPnTDpHN0PC9oMT4K" in shown


def test_parts_that_are_encoded_are_legible(bench: Bench) -> None:
    assert "v1.local_hostname }} größe" in said(bench, "data", "--file", "user-data")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("nobody",), "there is no guest"),
        (("data", "--file", "context.tar"), "it has meta-data, user-data, network-config, vendor-data"),
    ],
)
def test_what_is_not_there_is_said(bench: Bench, words: tuple[str, ...], why: str) -> None:
    ran = bench.run("seed", *words)
    assert ran.status in (2, 3)
    assert why in ran.err


@pytest.mark.parametrize(
    "text",
    [
        "password: SECRET\n",
        "users:\n  - passwd: SECRET\n",
        '{"admin-password": "SECRET", "a": 1}',
        "chpasswd: {list: 'ada:$6$abcdefgh$SECRETSECRET'}",
        '  - {"path": "/x", "permissions": "0600", "content": "SECRET"}',
    ],
)
def test_passwords_in_data_of_the_users_own_are_left_out(text: str) -> None:
    assert "SECRET" not in without_secrets(text)
    assert "(left out)" in without_secrets(text)
