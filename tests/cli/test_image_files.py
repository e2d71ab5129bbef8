"""Images of containers in files of the project: inputs of the build, named by their content."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench
from golden.image_archive import write_archive

YAML = """\
machines:
  - {name: web, interfaces: [{bridge: br0}], docker: {image: "docker-archive:web.tar"}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}}}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return new_bench(tmp_path, "project", {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG})


def image(bench: Bench) -> str:
    found: str = json.loads((bench.folder / "artefacts" / "web-container.json").read_text())["Image"]
    return found


def problem(bench: Bench) -> tuple[str, str]:
    """Return the code of the one problem with the image, and its message."""
    (found,) = bench.run("validate", "--json").json["problems"]
    assert (found["severity"], found["location"]["line"]) == ("error", 2)
    return found["code"], found["message"]


def test_a_request_names_the_image_by_its_content(bench: Bench) -> None:
    first = write_archive(bench.folder / "web.tar")
    bench.generate()
    assert image(bench) == first
    assert bench.generate() == {}
    state = json.loads((bench.folder / "state.json").read_text())
    assert state["testbed_guests"]["web"]["docker"] == {"image": "docker-archive:web.tar", "image_id": first}
    second = write_archive(bench.folder / "web.tar", "another")
    planned = bench.run("plan", "--detailed-exitcode")
    assert planned.status == 2
    assert "artefacts/web-container.json" in planned.out
    bench.generate()
    assert image(bench) == second != first
    assert bench.run("validate").status == 0


def test_images_in_files_are_not_pinned(bench: Bench) -> None:
    write_archive(bench.folder / "web.tar")
    ran = bench.run("pull")
    assert ran.status == 0, ran.err
    assert not (bench.folder / "images.lock").exists()


def test_what_is_no_image_of_the_project_is_refused(bench: Bench, tmp_path: Path) -> None:
    file = bench.folder / "web.tar"
    assert problem(bench) == ("missing-file", "'web.tar' does not exist")
    file.mkdir()
    assert problem(bench) == ("bad-file", "'web.tar' is a folder")
    file.rmdir()
    os.mkfifo(file)
    assert problem(bench) == ("bad-file", "'web.tar' is neither a file nor a folder")
    file.unlink()
    file.write_text("hello")
    code, message = problem(bench)
    assert code == "bad-image"
    assert message.startswith("docker-archive:web.tar is not an archive with one image: ")
    file.unlink()
    write_archive(tmp_path / "elsewhere" / "web.tar")
    file.symlink_to(tmp_path / "elsewhere" / "web.tar")
    assert problem(bench)[0] == "outside-project"
    assert bench.run("validate", "--allow-path", str(tmp_path / "elsewhere")).status == 0


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("oci:web.tar", "bad-file", "'web.tar' is a file"),
        ("oci:layout", "bad-image", "oci:layout is not a layout with one image: there is no 'index.json'"),
        ("docker-archive:~/web.tar", "bad-value", "the server that reads the image may have another home"),
        ("docker-archive:web.tar:other:1", "bad-image", "it has no 'other:1', but 'debian:12'"),
        ("oci:", "bad-value", "this names neither an image of a registry nor one in a file"),
    ],
)
def test_problems_are_shown_at_the_image(bench: Bench, source: str, code: str, message: str) -> None:
    write_archive(bench.folder / "web.tar")
    (bench.folder / "layout").mkdir()
    bench.edit("docker-archive:web.tar", source)
    found = problem(bench)
    assert found[0] == code
    assert message in found[1]


def test_a_file_outside_the_project_needs_trust(bench: Bench, tmp_path: Path) -> None:
    write_archive(tmp_path / "elsewhere" / "web.tar")
    path = str(tmp_path / "elsewhere" / "web.tar")
    bench.edit("docker-archive:web.tar", f"docker-archive:{path}")
    ran = bench.run("generate", "--allow-path", str(tmp_path / "elsewhere"))
    assert ran.status == 0, ran.err
    asked = bench.run("trust", "--json", "--allow-path", str(tmp_path / "elsewhere")).out
    assert path in asked
