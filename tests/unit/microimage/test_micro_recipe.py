"""The builder of the micro image, as far as it runs no programs."""

from __future__ import annotations

import lzma
import stat
import struct
from pathlib import Path

import pytest

import microimage
from kvmcompose.core.errors import KvmComposeError, RefusedError
from microimage import disk, kernel, packages
from microimage.filetree import complete, cpio, file, folder, link


def test_a_tree_has_its_folders_and_the_last_entry_counts() -> None:
    tree = complete(
        [
            file("usr/bin/tool", b"old"),
            link("usr/a", "b"),
            file("usr/bin/tool", b"#!new"),
        ]
    )
    assert [entry.path for entry in tree] == ["usr", "usr/a", "usr/bin", "usr/bin/tool"]
    assert [stat.S_IFMT(entry.mode) for entry in tree] == [
        stat.S_IFDIR, stat.S_IFLNK, stat.S_IFDIR, stat.S_IFREG,
    ]  # fmt: skip
    assert tree[-1].data == b"#!new"


@pytest.mark.parametrize(
    ("data", "permissions", "found"),
    [(b"#!/bin/sh\n", None, 0o755), (b"\x7fELF", None, 0o755), (b"text", None, 0o644), (b"#!", 0o600, 0o600)],
)
def test_scripts_and_programs_may_be_run(data: bytes, permissions: int | None, found: int) -> None:
    assert stat.S_IMODE(file("x", data, permissions).mode) == found


def test_an_archive_is_the_same_whatever_the_order() -> None:
    tree = [file("init", b"abc"), folder("dev")]
    archive = cpio(tree, mtime=5)
    assert archive == cpio(reversed(tree), mtime=5)
    assert len(archive) % 4 == 0
    assert archive.startswith(b"070701")
    assert b"TRAILER!!!" in archive


def a_module(*needed: str, signed: bool = False) -> bytes:
    """A kernel module, as far as anyone here looks at it."""
    data = b"\x7fELF\0xdepends=no\0depends=" + ",".join(needed).encode() + b"\0license=GPL\0"
    if signed:
        data += b"s" * 300 + bytes(8) + struct.pack(">I", 300) + b"~Module signature appended~\n"
    return data


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    folder = tmp_path / "lib/modules/6.1/kernel"
    folder.mkdir(parents=True)
    (folder / "net.ko").write_bytes(a_module("ring", "fail-over", signed=True))
    (folder / "fail-over.ko").write_bytes(a_module())
    (folder / "ring.ko.xz").write_bytes(lzma.compress(a_module("built_in")))
    found = kernel.loading_order(["built_in", "net", "ring"], kernel.module_reader(tmp_path))
    assert list(found) == ["ring", "fail_over", "net"]
    assert found["net"] == a_module("ring", "fail-over")


def test_a_module_packed_in_an_unknown_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.ko.zst").write_bytes(b"")
    with pytest.raises(KvmComposeError, match=r"net\.ko\.zst"):
        kernel.loading_order(["net"], kernel.module_reader(tmp_path))


def test_dependencies_are_read_from_what_apt_prints() -> None:
    text = """\
bash
  PreDepends: libc6
  Depends: base-files
 |Depends: <awk>
    mawk
  Conflicts: bash-completion
zlib1g
"""
    assert packages.parse_dependencies(text) == {"bash": ("libc6", "base-files"), "zlib1g": ()}


LAYOUT = disk.Layout(boot_size=24 * disk.MIB, root_size=64 * disk.MIB)


@pytest.mark.parametrize("folder", ["/store/lib", "/a folder, of (mine)/lib"])
def test_a_library_is_found_whatever_its_folder_is_called(folder: str) -> None:
    line = f"\tlibtinfo.so.6 => {folder}/libtinfo.so.6 (0x00007f2e4a1c2000)"
    match = microimage._LIBRARY_LINE.match(line)
    assert match is not None
    assert match.groups() == ("libtinfo.so.6", f"{folder}/libtinfo.so.6")


def test_the_boot_record_has_both_partitions_and_the_second_takes_the_rest() -> None:
    record = disk.master_boot_record(b"code", LAYOUT)
    assert len(record) == 512
    assert record[:4] == b"code"
    assert record[-2:] == b"\x55\xaa"
    first, second, *rest = (struct.unpack_from("<B3xB3xII", record, 446 + 16 * number) for number in range(4))
    assert first == (0x80, 0x0E, 2048, 24 * 2048)
    assert second == (0, 0, 25 * 2048, 2**32 - 1 - 25 * 2048)  # of type 0, which UEFI skips
    assert rest == [(0, 0, 0, 0)] * 2
    assert LAYOUT.size == 89 * disk.MIB


def test_everything_is_owned_by_root() -> None:
    script = disk.ownership([file("etc/x", b"")], mtime=7).splitlines()
    assert {"sif / uid 0", "sif /lost+found gid 0", "sif /etc/x uid 0", "sif /etc/x ctime @7"} <= set(script)


def test_a_tree_is_written_as_it_is(tmp_path: Path) -> None:
    tree = complete([file("a/b", b"#!x", 0o4755), link("a/c", "b"), folder("d", 0o700)])
    disk.write_tree(tree, tmp_path)
    assert (tmp_path / "a/c").readlink() == Path("b")
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o4755
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all programs, which is all of PATH."""
    for name in (*disk.PROGRAMS, "apt-cache", "apt-get", "dpkg-deb"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(microimage, "_MORE_FOLDERS", str(tmp_path))
    monkeypatch.setattr(microimage.platform, "machine", lambda: "x86_64")
    code = tmp_path / "mbr.bin"
    code.write_bytes(b"code")
    monkeypatch.setattr(disk, "_CODE_FILES", (code,))
    (tmp_path / "loader.efi").write_bytes(b"loader")
    monkeypatch.setattr(disk, "_EFI_FILES", {"LOADER": ("syslinux-efi", str(tmp_path / "loader.efi"))})
    return tmp_path


def test_programs_are_found(programs: Path) -> None:
    assert microimage.find_programs()["mcopy"] == str(programs / "mcopy")


def test_all_missing_programs_are_named_with_their_packages(programs: Path) -> None:
    (programs / "syslinux").unlink()
    (programs / "mkfs.vfat").unlink()
    with pytest.raises(RefusedError, match=r"mkfs\.vfat, syslinux") as caught:
        microimage.find_programs()
    assert caught.value.hint == "sudo apt-get install --no-install-recommends dosfstools syslinux"


def test_missing_boot_code_is_named_with_its_package(programs: Path) -> None:
    (programs / "mbr.bin").unlink()
    with pytest.raises(RefusedError) as caught:
        microimage.find_programs()
    assert caught.value.hint == "sudo apt-get install --no-install-recommends syslinux-common"


def test_a_missing_loader_for_uefi_is_named_with_its_package(programs: Path) -> None:
    assert disk.efi_files() == {"LOADER": b"loader"}
    (programs / "loader.efi").unlink()
    with pytest.raises(RefusedError, match=r"loader\.efi") as caught:
        microimage.find_programs()
    assert caught.value.hint == "sudo apt-get install --no-install-recommends syslinux-efi"


def test_without_apt_it_has_to_be_built_elsewhere(programs: Path) -> None:
    (programs / "apt-get").unlink()
    with pytest.raises(RefusedError, match="apt-get") as caught:
        microimage.find_programs()
    assert "cloud-images add micro" in str(caught.value.hint)


def test_other_processors_are_refused(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microimage.platform, "machine", lambda: "aarch64")
    with pytest.raises(RefusedError, match=r"x86_64.*aarch64"):
        microimage.find_programs()


def test_the_recipe_s_digest_is_stable() -> None:
    assert microimage.recipe_digest() == microimage.recipe_digest()
    assert len(microimage.recipe_digest()) == 64
