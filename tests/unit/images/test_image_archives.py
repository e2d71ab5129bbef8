"""Images of containers in files: archives of Docker's, OCI layouts, and what is sent of them to an engine."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.image_source import ImageFile, image_file
from kvmcompose.images import image_archives
from kvmcompose.images.image_archives import opened_image

LAYER = b"a layer"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def config_of(*layers: bytes, **more: Any) -> bytes:
    diffs = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]
    return json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}, **more}).encode()


CONFIG = config_of(LAYER)
ID = f"sha256:{hashlib.sha256(CONFIG).hexdigest()}"
OTHER = config_of(LAYER, author="another")


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def tar_of(
    files: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = tarfile.SYMTYPE
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
    return buffer.getvalue()


def image(config: str = "c.json", layers: tuple[str, ...] = ("l/layer.tar",), *tags: str) -> dict[str, Any]:
    return {"Config": config, "RepoTags": [*tags] or None, "Layers": [*layers]}


def docker(*images: dict[str, Any], more: dict[str, bytes] | None = None) -> dict[str, bytes]:
    listed = json.dumps(images or (image(),)).encode()
    return {"c.json": CONFIG, "l/layer.tar": LAYER, **(more or {}), "manifest.json": listed}


def layout(*tags: str | None, config: bytes = CONFIG, index: Any = None, **manifest: Any) -> dict[str, bytes]:
    blobs: dict[str, bytes] = {}

    def put(content: bytes) -> str:
        blobs[f"blobs/sha256/{digest(content).partition(':')[2]}"] = content
        return digest(content)

    content = {"config": {"digest": put(config)}, "layers": [{"digest": put(LAYER)}], **manifest}
    manifest_digest = put(json.dumps(content).encode())
    listed = [
        {"digest": manifest_digest, **({"annotations": {image_archives._REF_NAME: tag}} if tag else {})}
        for tag in tags or (None,)
    ]
    found = index(manifest_digest, put) if index is not None else {"manifests": listed}
    return {"oci-layout": b"{}", "./index.json": json.dumps(found).encode(), **blobs}


def sent(path: Path, source: str = "docker-archive:x.tar") -> tuple[str, dict[str, bytes]]:
    """Return the ID of an image, and the files of the archive that an engine gets."""
    given = image_file(source)
    assert given is not None

    async def whole(found: image_archives.ArchivedImage) -> bytes:
        return b"".join([piece async for piece in found.pieces()])

    with opened_image(given, path) as found:
        content = asyncio.run(whole(found))
        assert len(content) == found.size
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert all(entry.isreg() for entry in tar)
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    assert content.endswith(bytes(1024))
    return found.image_id, files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.tar"


SENT = {
    f"{ID.partition(':')[2]}.json": CONFIG,
    "manifest.json": json.dumps(
        [{"Config": f"{ID.partition(':')[2]}.json", "RepoTags": None, "Layers": ["0/layer.tar"]}],
        separators=(",", ":"),
    ).encode(),
    "0/layer.tar": LAYER,
}


@pytest.mark.parametrize("compressed", [False, True])
def test_an_engine_gets_one_image_without_its_tag(path: Path, *, compressed: bool) -> None:
    """An archive must not give names to images of a host: they may be names of others."""
    files = docker(image("c.json", ("l/layer.tar",), "debian:12"), more={"repositories": b'{"debian": {}}'})
    content = tar_of(files)
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert sent(path) == (ID, SENT)


@pytest.mark.parametrize("source", ["oci-archive:x.tar", "oci:x"])
def test_a_layout_becomes_the_same_archive(path: Path, source: str) -> None:
    if source == "oci:x":
        for name, content in layout().items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    else:
        path.write_bytes(tar_of(layout()))
    assert sent(path, source) == (ID, SENT)


def test_one_of_several_images_is_named(path: Path) -> None:
    two = (image("c.json", ("l/layer.tar",), "a:1"), image("d.json", ("l/layer.tar",), "b:1"))
    path.write_bytes(tar_of(docker(*two, more={"d.json": OTHER})))
    assert sent(path, "docker-archive:x.tar:a:1")[0] == ID
    assert sent(path, "docker-archive:x.tar:b:1")[0] == digest(OTHER)
    with pytest.raises(
        KvmComposeError, match=r"has 2, 'a:1', 'b:1': name one, as in docker-archive:x.tar:NAME"
    ):
        sent(path)
    with pytest.raises(KvmComposeError, match="has no 'c:1', but 'a:1', 'b:1'"):
        sent(path, "docker-archive:x.tar:c:1")
    path.write_bytes(tar_of(layout("v1", "v2")))
    assert sent(path, "oci-archive:x.tar:v2")[0] == ID
    with pytest.raises(KvmComposeError, match="has 2, 'v1', 'v2': name one"):
        sent(path, "oci-archive:x.tar")


def test_of_several_platforms_it_is_that_of_guests(path: Path) -> None:
    def index(manifest: str, put: Any) -> Any:
        platforms = (("arm64", "sha256:" + "1" * 64), ("amd64", manifest), ("unknown", "sha256:" + "2" * 64))
        inner = {
            "manifests": [
                {"digest": each, "platform": {"os": "linux", "architecture": name}}
                for name, each in platforms
            ]
        }
        return {"manifests": [{"digest": put(json.dumps(inner).encode())}]}

    path.write_bytes(tar_of(layout(index=index)))
    assert sent(path, "oci-archive:x.tar")[0] == ID


def test_a_layer_that_occurs_twice_is_sent_once(path: Path) -> None:
    config = config_of(LAYER, LAYER, LAYER)
    files = {**docker(image("c.json", ("l/layer.tar", "m/layer.tar", "l/layer.tar"))), "c.json": config}
    path.write_bytes(tar_of(files, {"m/layer.tar": "../l/layer.tar"}))
    found, archive = sent(path)
    assert found == digest(config)
    (manifest,) = json.loads(archive["manifest.json"])
    assert manifest["Layers"] == ["0/layer.tar", "1/layer.tar", "0/layer.tar"]
    assert archive["1/layer.tar"] == LAYER
    assert len(archive) == 4


def header(kind: bytes, size: int, content: bytes = b"") -> bytes:
    """Return the header of an entry, and its content in whole blocks."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_memory_is_not_read(path: Path, kind: bytes) -> None:
    path.write_bytes(header(kind, 6 << 30))
    with pytest.raises(KvmComposeError, match="a header is larger than 4 MiB"):
        sent(path)


def test_headers_that_would_fill_memory_together_are_not_read(path: Path) -> None:
    name = b"p" * (3 << 20)
    record = b"%d path=%s\n" % (len(name) + 14, name)
    large = header(tarfile.XHDTYPE, len(record), record) + header(tarfile.REGTYPE, 0)
    path.write_bytes(gzip.compress(large * 20))
    with pytest.raises(KvmComposeError, match="its headers are larger than 32 MiB"):
        sent(path)


def test_a_compressed_archive_does_not_expand_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_archives, "_MOST_EXPANDED", 1 << 20)
    path.write_bytes(gzip.compress(tar_of({"big": bytes(4 << 20), **docker()})))
    with pytest.raises(KvmComposeError, match="larger than 0 GiB when it is decompressed"):
        sent(path)


def test_other_compressions_are_named(path: Path) -> None:
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    with pytest.raises(KvmComposeError, match="is compressed by zstd") as caught:
        sent(path)
    assert caught.value.hint == "decompress it: zstd -d FILE"


_NAMED = b"19 path=longer.json\n"
_NO_ARCHIVE = {
    "chain": header(tarfile.XHDTYPE, len(_NAMED), _NAMED) * 2000,
    "link": tar_of({"c.json": CONFIG}, {"manifest.json": "/etc/hostname"}),
    "hard-link": tar_of({"c.json": CONFIG}, {"manifest.json": "c.json"}, tarfile.LNKTYPE),
    "fifo": tar_of({}, {"manifest.json": ""}, tarfile.FIFOTYPE),
    "nested": tar_of({"manifest.json": b"[" * 100_000}),
    "unhashable": tar_of({"manifest.json": b'[{"Config": ["a"], "Layers": []}]'}),
    "text": b"no archive",
    "empty": tar_of({}),
    "none": tar_of({"manifest.json": b"[]"}),
    "object": tar_of({"manifest.json": b"{}"}),
    "two": tar_of(docker(image(), image())),
    "huge": tar_of({**docker(), "c.json": bytes((4 << 20) + 1)}),
    "no-layers": tar_of(docker(image("c.json", ()))),
    "no-such-layer": tar_of(docker(image("c.json", ("m/layer.tar",)))),
    "upwards": tar_of(docker(image("c.json", ("../../etc/passwd",)))),
    "absolute": tar_of(docker(image("/etc/passwd"))),
    "layer-outside": tar_of(docker(image("c.json", ("m",))), {"m": "/etc/passwd"}),
    "layer-is-fifo": tar_of(docker(image("c.json", ("m",))), {"m": ""}, tarfile.FIFOTYPE),
    "no-digests": tar_of({**docker(), "c.json": b'{"rootfs": {"diff_ids": [1]}}'}),
    "cut-off": tar_of(docker())[:1500],
}  # fmt: skip


@pytest.mark.parametrize("content", _NO_ARCHIVE.values(), ids=_NO_ARCHIVE)
def test_what_is_no_archive_of_one_image_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(KvmComposeError, match=r"x\.tar is not an archive with one image") as caught:
        sent(path)
    assert "docker save" in (caught.value.hint or "")
    path.write_bytes(gzip.compress(content)[:-4])
    with pytest.raises(KvmComposeError, match="is not an archive with one image"):
        sent(path)


def test_names_in_an_archive_fill_no_message(path: Path) -> None:
    names = ["x" * (1 << 20), "y" * (1 << 20)]
    path.write_bytes(tar_of(docker({**image(), "RepoTags": names[:1]}, {**image(), "RepoTags": names[1:]})))
    for source in ("docker-archive:x.tar", "docker-archive:x.tar:name:1"):
        with pytest.raises(KvmComposeError, match=r"xxx.*, 'yyy") as caught:
            sent(path, source)
        assert len(caught.value.message) < 1000
    path.write_bytes(tar_of(docker(image("z" * (1 << 20)))))
    with pytest.raises(KvmComposeError, match="there is no 'zzz") as caught:
        sent(path)
    assert len(caught.value.message) < 1000


_NO_LAYOUT = {
    "upwards": {"index.json": b'{"manifests": [{"digest": "sha256:../../x"}]}'},
    "md5": layout(layers=[{"digest": "md5:1"}]),
    "layers": layout(layers=7),
    "no-blob": layout(layers=[{"digest": digest(b"nothing")}]),
    "lies": {name: OTHER if each == CONFIG else each for name, each in layout().items()},
    "other-platform": layout(
        index=lambda each, _: {
            "manifests": [{"digest": each, "platform": {"os": "linux", "architecture": "s390x"}}]
        }
    ),
    "itself": layout(index=lambda *_: {"manifests": "x"}),
}


@pytest.mark.parametrize("files", _NO_LAYOUT.values(), ids=_NO_LAYOUT)
def test_what_is_no_layout_of_one_image_is_refused(path: Path, files: dict[str, bytes]) -> None:
    path.write_bytes(tar_of(files))
    with pytest.raises(KvmComposeError, match=r"x\.tar is not an archive with one image"):
        sent(path, "oci-archive:x.tar")


def test_in_a_folder_no_link_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    for name, content in layout().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    source = ImageFile("oci", "layout")
    blobs = folder / "blobs" / "sha256"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KvmComposeError, match="cannot read oci:layout"), opened_image(source, folder):
        pass
    blobs.unlink()
    (tmp_path / "elsewhere").rename(blobs)
    with opened_image(source, folder) as found:
        assert found.image_id == ID
    (folder / "index.json").unlink()
    os.mkfifo(folder / "index.json")
    with pytest.raises(KvmComposeError, match="it is a named pipe"), opened_image(source, folder):
        pass


def test_a_pipe_or_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(KvmComposeError, match=r"cannot read docker-archive:x\.tar: No such file"):
        sent(path)
    os.mkfifo(path)
    with pytest.raises(KvmComposeError, match="it is a named pipe"):
        sent(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("docker-archive:a/b.tar", ImageFile("docker-archive", "a/b.tar")),
        ("docker-archive:b.tar:lab/x:1", ImageFile("docker-archive", "b.tar", "lab/x:1")),
        ("oci:folder:v1", ImageFile("oci", "folder", "v1")),
        ("oci-archive:/x y.tar", ImageFile("oci-archive", "/x y.tar")),
        ("oci:", None),
        ("oci::v1", None),
        ("docker:x", None),
        ("nginx:1.25", None),
    ],
)
def test_files_are_named_as_other_programs_do(text: str, found: ImageFile | None) -> None:
    assert image_file(text) == found
    assert found is None or str(found) == text
