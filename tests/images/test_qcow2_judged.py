"""qemu-img makes the images here and says what it reads in them; we must read the same."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from encrypted import create_encrypted

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.images.formats import check_image
from kvmcompose.images.qcow2 import read_header
from kvmcompose.images.store import ImageStore

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real


def qemu_img(folder: Path, *argv: str) -> bytes:
    return subprocess.run(["qemu-img", *argv], cwd=folder, check=True, capture_output=True).stdout  # noqa: S607


@pytest.mark.parametrize(
    "options",
    [
        ["disk", "1G"],
        ["-o", "compat=0.10", "disk", "1G"],
        ["-o", "cluster_size=512", "disk", "3M"],
        ["-o", "cluster_size=2M,lazy_refcounts=on", "disk", "5G"],
        ["-o", "compression_type=zstd", "disk", "1G"],
        ["-b", "base", "-F", "raw", "disk"],
        ["-o", "compat=0.10,cluster_size=512", "-b", "./base", "-F", "raw", "disk", "2G"],
        ["-o", "data_file=data.raw", "disk", "1G"],
    ],
)
def test_a_header_says_to_us_what_it_says_to_qemu(tmp_path: Path, options: list[str]) -> None:
    qemu_img(tmp_path, "create", "-q", "-f", "raw", "base", "1M")
    qemu_img(tmp_path, "create", "-q", "-f", "qcow2", *options)
    info = json.loads(qemu_img(tmp_path, "info", "--output=json", "disk"))
    header = read_header(tmp_path / "disk")
    assert header.format == info["format"]
    assert header.virtual_size == info["virtual-size"]
    assert header.backing_file == info.get("backing-filename")
    assert header.backing_format == info.get("backing-filename-format")
    assert header.data_file == info["format-specific"]["data"].get("data-file")
    if header.backing_file is None and header.data_file is None:
        assert check_image(tmp_path / "disk") == header
    else:
        with pytest.raises(KvmComposeError, match=r"overlay|keeps its data"):
            check_image(tmp_path / "disk")


def test_a_backing_file_that_was_taken_away_is_seen_as_gone(tmp_path: Path) -> None:
    qemu_img(tmp_path, "create", "-q", "-f", "raw", "base", "1M")
    qemu_img(tmp_path, "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "disk")
    qemu_img(tmp_path, "rebase", "-b", "", "disk")
    assert read_header(tmp_path / "disk").backing_file is None


def test_encrypted_images_are_noted(tmp_path: Path) -> None:
    create_encrypted(tmp_path / "disk", "qcow2")
    assert read_header(tmp_path / "disk").encryption == "LUKS"


def test_an_image_that_qemu_img_made_is_added_and_sound(tmp_path: Path) -> None:
    qemu_img(tmp_path, "create", "-q", "-f", "qcow2", "disk", "1G")
    image = ImageStore(tmp_path / "store").add("mine", tmp_path / "disk")
    qemu_img(tmp_path, "check", "-q", str(image.path))
    qemu_img(tmp_path, "create", "-q", "-f", "qcow2", "-b", str(image.path), "-F", image.format, "overlay")
    assert read_header(tmp_path / "overlay").virtual_size == image.virtual_size == 2**30
