"""Makes artefacts: each is staged beside its place, announced in the ledger, and then put there."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from kvmcompose.core.artefact import (
    Artefact,
    BaseImage,
    Blank,
    DeepCopy,
    LinkTo,
    Literal,
    Overlay,
    Policy,
    Rendered,
)
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects import process
from kvmcompose.effects.files import STAGED_PREFIX, digest_bytes, digest_file, replacing
from kvmcompose.effects.files import seal as seal_file
from kvmcompose.effects.ledger import Intent, Ledger, Record
from kvmcompose.effects.project_files import FolderFiles
from kvmcompose.effects.qcow2 import read_header
from kvmcompose.effects.stat_cache import Signature
from kvmcompose.render import Sources, render
from kvmcompose.render.templates import Templates
from kvmcompose.tasks.decide import Making
from kvmcompose.tasks.images import Images, ResolvedImage
from kvmcompose.tasks.inputs import Inputs, Recipe, rendered_document, seal

_GIB = 2**30
_SPARSE_BLOCK = 4096


class Staged(msgspec.Struct, frozen=True):
    """A finished artefact under its temporary name, in the folder where it belongs."""

    intent: Intent
    temporary: str
    aside: bool


class Maker:
    """Makes the artefacts of one project. Safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        inputs: Inputs,
        templates: Templates,
        files: FolderFiles,
        images: Images,
        epoch: int,
    ) -> None:
        self._folder = folder
        self._ledger = ledger
        self._inputs = inputs
        self._templates = templates
        self._files = files
        self._images = images
        self._epoch = epoch
        self._overlays: dict[tuple[str, str, int], bytes] = {}
        self._overlay_guard = threading.Lock()

    def build(self, artefact: Artefact) -> bytes:
        """The bytes of an artefact that is made in memory."""
        return self._rendered(artefact)[0]

    def _rendered(self, artefact: Artefact) -> tuple[bytes, Recipe]:
        """The bytes, and the recipe of just these bytes: of the files as they were read for them."""
        content = artefact.content
        if isinstance(content, Literal):
            return content.data, self._inputs.recipe(artefact)
        if not isinstance(content, Rendered):
            raise TypeError(f"{artefact.path} is not made in memory")
        carried = {name: self._files.carried(path) for name, path in content.files.items()}
        sources = Sources(self._templates, {name: files for name, (files, _) in carried.items()}, self._epoch)
        digests = {name: digest for name, (_, digest) in carried.items()}
        data = render(content, sources)
        return data, seal(rendered_document(content, self._templates, digests, self._epoch))

    def stage(self, decision: Making) -> Staged:
        """Make what was decided on, under a temporary name. Raises KvmComposeError, leaving nothing."""
        artefact = decision.artefact
        path = self._folder / artefact.path
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=STAGED_PREFIX, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            recipe, content = self._fill(artefact, temporary)
        except BaseException as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                message = f"cannot write {artefact.path}: {error.strerror or error}"
                raise KvmComposeError(message) from error
            raise
        return Staged(
            intent=Intent(
                path=artefact.path,
                task=artefact.task,
                policy=artefact.policy.value,
                recipe=recipe.digest,
                content=content,
                inputs=recipe.inputs,
            ),
            temporary=temporary.name,
            aside=decision.aside,
        )

    def commit(self, staged: Sequence[Staged]) -> None:
        """Put what was staged in its place, all of it announced in the ledger first.

        Raises KvmComposeError when a file cannot be replaced; those before it are in place then.
        """
        self._ledger.intend(each.intent for each in staged)
        records = []
        try:
            for each in staged:
                path = self._folder / each.intent.path
                if each.aside:
                    keep_aside(path)
                (path.parent / each.temporary).replace(path)
                if each.intent.policy == Policy.TEXT.value:
                    path.with_name(f"{path.name}.new").unlink(missing_ok=True)
                records.append(_recorded(each.intent, Signature.of(path.lstat())))
        except OSError as error:
            raise KvmComposeError(f"cannot write {each.intent.path}: {error.strerror or error}") from error
        finally:
            self._ledger.record(records)

    def discard(self, staged: Iterable[Staged]) -> None:
        """Remove what was staged and is not wanted after all."""
        for each in staged:
            ((self._folder / each.intent.path).parent / each.temporary).unlink(missing_ok=True)

    def offer(self, decision: Making, record: Record) -> None:
        """Lay the new version of an edited file beside it, as ``.new``."""
        artefact = decision.artefact
        recipe = self._inputs.recipe(artefact)
        path = self._folder / f"{artefact.path}.new"
        with replacing(path, mode=artefact.mode) as file:
            file.write(self.build(artefact))
        inputs = self._ledger.inputs(record.path) or b""
        self._ledger.record([msgspec.structs.replace(record, offered=recipe.digest, inputs=inputs)])

    def adopt(self, decision: Making) -> Record:
        """The record of a file that is taken in as it is."""
        artefact = decision.artefact
        recipe = self._inputs.recipe(artefact)
        path = self._folder / artefact.path
        signature = Signature.of(path.lstat())
        return Record(
            path=artefact.path,
            task=artefact.task,
            policy=artefact.policy.value,
            recipe=recipe.digest,
            # whether a guest has written to a disk nobody knows: it counts as one in use
            content="" if isinstance(artefact.content, Overlay) else digest_file(path),
            signature=signature.or_unsettled(),
            inputs=recipe.inputs,
        )

    def _fill(self, artefact: Artefact, temporary: Path) -> tuple[Recipe, str]:
        """Write an artefact into its staged file: its recipe, and the digest of its content."""
        content = artefact.content
        if isinstance(content, Rendered | Literal):
            data, recipe = self._rendered(artefact)
            _write(temporary, data, artefact.mode)
            return recipe, digest_bytes(data)
        if isinstance(content, LinkTo):
            # the link lies one folder higher than those in images/
            goal = self._here(content.image).goal.removeprefix("../")
            temporary.unlink()
            temporary.symlink_to(goal)
            return self._inputs.recipe(artefact), digest_bytes(goal.encode())
        return self._disk(content, artefact, temporary)

    def _disk(
        self, content: Overlay | DeepCopy | Blank, artefact: Artefact, temporary: Path
    ) -> tuple[Recipe, str]:
        if isinstance(content, Overlay):
            data = self._overlay(content)
            _write(temporary, data, artefact.mode)
            digest = digest_bytes(data)
        else:
            if isinstance(content, DeepCopy):
                image = self._here(content.image)
                source = str(self._files.path(str(content.image.path)))
                argv = ["qemu-img", "convert", "-f", image.format, "-O", "qcow2", source, str(temporary)]
            else:
                argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(temporary), f"{content.gigabytes}G"]
            process.run(argv, timeout=None)
            with temporary.open("r+b") as file:
                seal_file(file, artefact.mode)
            digest = digest_file(temporary)
        # taken anew: the image may only just have been fetched
        self._inputs.forget(artefact.path)
        return self._inputs.recipe(artefact), digest

    def _here(self, image: BaseImage) -> ResolvedImage:
        resolved = self._images.resolve(image)
        if resolved is None:
            raise KvmComposeError(
                f"the image {image.name!r} is not in the store",
                hint=f"kvm-compose cloud-images pull {image.name}",
            )
        return resolved

    def _overlay(self, content: Overlay) -> bytes:
        """The bytes of an overlay: qemu-img makes the first of each kind, its bytes serve for the others."""
        if content.image is None:
            backing, kind = str(content.on).removeprefix("artefacts/"), "qcow2"
            size = read_header(self._folder / str(content.on)).virtual_size
        else:
            resolved = self._here(content.image)
            if not self._images.is_linked(resolved):
                self._images.link(content.image, resolved)
            backing, kind, size = resolved.link, resolved.format, resolved.size
        size += content.expand_gigabytes * _GIB
        key = (backing, kind, size)
        with self._overlay_guard:
            if key not in self._overlays:
                self._overlays[key] = self._ask_qemu_img(*key)
            return self._overlays[key]

    def _ask_qemu_img(self, backing: str, kind: str, size: int) -> bytes:
        folder = self._folder / "artefacts"
        with tempfile.TemporaryDirectory(prefix=STAGED_PREFIX, dir=folder) as scratch:
            new = Path(scratch) / "overlay"
            # -u: the backing name is relative to where the overlay will lie, not to where it is made
            argv = [
                "qemu-img",
                "create",
                "-q",
                "-u",
                "-f",
                "qcow2",
                "-b",
                backing,
                "-F",
                kind,
                str(new),
                str(size),
            ]
            process.run(argv)
            return new.read_bytes()


def _recorded(intent: Intent, signature: Signature) -> Record:
    return Record(
        path=intent.path,
        task=intent.task,
        policy=intent.policy,
        recipe=intent.recipe,
        content=intent.content,
        signature=signature,
        inputs=intent.inputs,
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write bytes into a staged file, blocks of zeros as holes when there may be many."""
    with path.open("r+b") as file:
        if len(data) < 16 * _SPARSE_BLOCK:
            file.write(data)
        else:
            zeros = bytes(_SPARSE_BLOCK)
            view = memoryview(data)
            for start in range(0, len(data), _SPARSE_BLOCK):
                block = view[start : start + _SPARSE_BLOCK]
                if block == zeros[: len(block)]:
                    file.seek(len(block), os.SEEK_CUR)
                else:
                    file.write(block)
            file.truncate(len(data))
        seal_file(file, mode)


def keep_aside(path: Path) -> None:
    """Keep a file as ``.orig``, or ``.orig.1`` and so on: nothing that is there is lost."""
    number = 0
    while True:
        kept = path.with_name(f"{path.name}.orig{f'.{number}' if number else ''}")
        try:
            os.link(path, kept)
        except FileExistsError:
            number += 1
        else:
            return
