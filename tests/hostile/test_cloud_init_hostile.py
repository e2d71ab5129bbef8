"""A lab's ``cloud_init`` reaches no file of the user's, and its secrets are in the seed only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from golden.bench import Bench, golden_bench

SECRETS = (b"saltsalt", b"Correct-Horse")


@pytest.mark.parametrize("case", ["cloud-init", "windows"])
def test_secrets_are_in_seeds_only(tmp_path: Path, case: str) -> None:
    bench = golden_bench(tmp_path, case)
    bench.generate()
    for words in (["why", "seed-iso:short"] if case == "cloud-init" else ["list"], ["config"], ["plan"]):
        ran = bench.run(*words)
        assert not any(secret.decode() in ran.said for secret in SECRETS), words
    found = {
        path.relative_to(tmp_path).name
        for path in tmp_path.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in SECRETS)
    }
    assert found == ({"ada.hash", "short-cloud-init.iso"} if case == "cloud-init" else
                     {"password", "desktop-cloud-init.iso"})  # fmt: skip
    for iso in (bench.folder / "artefacts").glob("*.iso"):
        assert iso.is_symlink() or iso.stat().st_mode & 0o077 == 0, iso


def refused(bench: Bench, old: str, new: str) -> str:
    file = bench.folder / "kvm-compose.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    ran = bench.run("validate")
    assert ran.status == 2, ran.said
    return ran.said


@pytest.mark.parametrize(
    ("case", "path"),
    [
        ("cloud-init", "init/user-data.yaml"),
        ("cloud-init", "init/vendor.sh"),
        ("cloud-init", "init/page.html"),
        ("cloud-init", "init/ca.pem"),
        ("cloud-init", "secrets/ada.hash"),
        ("windows", "secrets/password"),
        ("windows", "answers/autounattend.xml"),
        ("windows", "answers/autoinstall.yaml"),
    ],
)
def test_no_file_outside_the_project_gets_into_a_guest(tmp_path: Path, case: str, path: str) -> None:
    bench = golden_bench(tmp_path, case)
    (tmp_path / "mine").write_text("PRIVATE\n")
    assert "outside-project" in refused(bench, path, "../mine")
    bench = golden_bench(tmp_path, case, "linked")
    (bench.folder / path).unlink()
    (bench.folder / path).symlink_to(tmp_path / "mine")
    ran = bench.run("validate")
    assert ran.status == 2
    assert "outside-project" in ran.said
    assert "PRIVATE" not in ran.said


def test_a_pipe_and_a_large_file_are_refused(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "cloud-init")
    user_data = bench.folder / "init/user-data.yaml"
    user_data.unlink()
    os.mkfifo(user_data)
    page = bench.folder / "init/page.html"
    page.write_bytes(b"x" * (2**20 + 1))
    ran = bench.run("validate")
    assert ran.status == 2
    assert "init/user-data.yaml' is neither a file nor a folder" in ran.said
    assert "init/page.html' is larger than 1 MiB" in ran.said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#cloud-config\n" + "a: &a [x, x]\n" + "b: [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n", None),
        ("#cloud-config\n" + "[" * 100_000, "nested deeper than 100 levels"),
        ("#cloud-config\nusers: {}\n", "'users' is no list"),
        ("#cloud-config\nx: &x [date]\nruncmd: *x\n", None),
        ("#cloud-config\nx: &x {}\nusers: *x\n", "'users' is no list"),
        ("hello\n", "of no format that cloud-init knows"),
        ('#cloud-config\na: "\0"\n', "control characters are not allowed [yaml-syntax]"),
        ("\xef\xbb\xbf#cloud-config\n", "byte-order mark"),
        ("#cloud-config\n- a\n", "no mapping at its top"),
        ("\x1f\x8b\x08nonsense", "gzip"),
    ],
)
def test_hostile_user_data_is_refused_in_time(tmp_path: Path, text: str, why: str | None) -> None:
    bench = golden_bench(tmp_path, "cloud-init")
    (bench.folder / "init/user-data.yaml").write_bytes(text.encode("latin-1"))
    ran = bench.run("validate")
    assert ran.status == (2 if why else 0), ran.said
    assert why is None or why in ran.said
