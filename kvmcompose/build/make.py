"""Make artefacts: each is staged in its folder, recorded as intended, and then renamed to its path."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from kvmcompose.build.base_images import Images, ResolvedImage
from kvmcompose.build.contexts import Contexts, temporary_file
from kvmcompose.build.decision import Decision, Making
from kvmcompose.build.growth import enlarge
from kvmcompose.build.ledger import Intent, Ledger, LedgerEntry, as_built
from kvmcompose.build.offers import as_offered, offer_of, offered_content
from kvmcompose.build.project_files import FolderFiles
from kvmcompose.build.recipes import GIB, Recipe, Recipes, seal_rendered, shared_inputs
from kvmcompose.build.replace import alike, keep_copy, put, seen_at, take_away
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
from kvmcompose.core.image_build import ContextEntry, content_digest
from kvmcompose.core.planned import FileToMake
from kvmcompose.effects import process
from kvmcompose.effects.files import STAGED_PREFIX, digest_bytes, digest_file, digest_link
from kvmcompose.effects.files import seal as seal_file
from kvmcompose.effects.stat_cache import Signature
from kvmcompose.images.qcow2 import read_header
from kvmcompose.images.seeds import seed_contents
from kvmcompose.render import render
from kvmcompose.render.build_context import BUILD_CONTEXT
from kvmcompose.render.inputs import Sources
from kvmcompose.render.seed import CONTEXT, context_modes
from kvmcompose.render.templates import Templates

_SPARSE_BLOCK = 4096


class Staged(msgspec.Struct, frozen=True):
    """A finished artefact in the temporary file of that path, in the folder where it belongs.

    ``seen`` is what was in its place when that was decided, None for nothing.
    """

    intent: Intent
    temporary: str
    aside: bool
    seen: Signature | None = None


class Placed(msgspec.Struct, frozen=True):
    """The result of putting staged artefacts in place.

    Those that are ``disturbed`` are still staged, because their places were written to since the decision.
    ``kept`` are ``.new`` files that are the user's.
    """

    disturbed: tuple[Staged, ...]
    kept: tuple[str, ...]


class Maker:
    """Makes the artefacts of one project. Safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        recipes: Recipes,
        templates: Templates,
        files: FolderFiles,
        images: Images,
        epoch: int,
    ) -> None:
        self._folder = folder
        self._ledger = ledger
        self._recipes = recipes
        self._templates = templates
        self._files = files
        self._images = images
        self._epoch = epoch
        self._contexts = Contexts(files, epoch)
        self._root = str(folder)
        self._numbers = itertools.count()
        self._folders: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._overlays: dict[tuple[str, str, int], _Sparse] = {}
        self._overlay_guard = threading.Lock()

    def build(self, artefact: Artefact) -> bytes:
        """Return the bytes of a text artefact."""
        out = io.BytesIO()
        self._render(artefact, out)
        return out.getvalue()

    def is_at(self, path: Path, artefact: Artefact) -> bool:
        """Return whether a file is what would be built (not for disks). Raises OSError."""
        content = artefact.content
        if isinstance(content, Rendered) and self.needs_file_to_come(content):
            return False
        with temporary_file() as out:
            self._render(artefact, out)
            # the size first: the file may be a sparse one of a terabyte
            if path.stat().st_size != out.seek(0, os.SEEK_END):
                return False
            out.seek(0)
            return digest_file(path) == hashlib.file_digest(out, "sha256").hexdigest()

    def needs_file_to_come(self, content: Rendered) -> bool:
        """Return whether it includes a file that the build has yet to make: a key of the user's."""
        return any(map(self._files.is_to_be_made, content.files.values()))

    def preview(self, artefact: Artefact) -> FileToMake:
        """Return what describes a rendered artefact that is not built yet. Raises KvmComposeError."""
        with temporary_file() as out:
            self._render(artefact, out)
            size = out.seek(0, os.SEEK_END)
            out.seek(0)
            digest = hashlib.file_digest(out, "sha256").hexdigest()
            out.seek(0)
            return FileToMake(digest=digest, size=size, seed=seed_contents(digest, lambda: out))

    def pack_contexts(self, artefacts: Iterable[Artefact]) -> None:
        """Pack the contexts that artefacts need now, so that processes forked later share them."""
        for artefact in artefacts:
            content = artefact.content
            if not isinstance(content, Rendered):
                continue
            with suppress(KvmComposeError):  # reported when the artefact is made
                if CONTEXT in content.files:
                    self._contexts.packed(content.files[CONTEXT], context_modes(content))
                elif BUILD_CONTEXT in content.files:
                    self._contexts.packed_for_image(content.files[BUILD_CONTEXT], content.values.dockerfile)

    def _render(self, artefact: Artefact, out: BinaryIO) -> Recipe:
        """Write to an empty file. Returns the recipe of just these bytes: of the files as read for them."""
        content = artefact.content
        if isinstance(content, Literal):
            out.write(content.data)
            return self._recipes.recipe(artefact)
        if not isinstance(content, Rendered):
            raise TypeError(f"{artefact.path} is not rendered")
        sources, digests, entries = self._sources(content)
        render(content, sources, out)
        shared = shared_inputs(content, self._templates, digests, self._epoch, entries)
        return seal_rendered(content, shared)

    def seed_files(self, content: Rendered) -> dict[str, bytes]:
        """Return the files in a seed, but for the archive, by their paths. Raises KvmComposeError."""
        from kvmcompose.render.seed_image import cloud_files  # noqa: PLC0415 (it imports pycdlib)

        return cloud_files(content, self._sources(content)[0])

    def _sources(self, content: Rendered) -> tuple[Sources, dict[str, str], tuple[ContextEntry, ...]]:
        """Return what a renderer reads, digests of the files, and what is in the context of an image."""
        context, digests = None, {}
        files = {}
        entries: tuple[ContextEntry, ...] = ()
        for name, path in content.files.items():
            if name == CONTEXT:
                context, digests[name] = self._contexts.packed(path, context_modes(content))
            elif name == BUILD_CONTEXT:
                context, entries = self._contexts.packed_for_image(path, content.values.dockerfile)
                digests[name] = content_digest(entries)
            else:
                files[name], digests[name] = self._files.carried(path)
        return Sources(self._templates, files, self._epoch, context), digests, entries

    def stage(self, decision: Making) -> Staged:
        """Make an artefact under a temporary name. Raises KvmComposeError, leaving nothing behind."""
        artefact = decision.artefact
        folder = f"{self._root}/{artefact.path}".rpartition("/")[0]
        temporary = f"{STAGED_PREFIX}{os.getpid()}-{next(self._numbers)}"
        staged = f"{folder}/{temporary}"
        try:
            if folder not in self._folders:
                os.makedirs(folder, exist_ok=True)  # noqa: PTH103 (many thousand times: see benchmarks)
                self._folders.add(folder)
            recipe, content = self._fill(artefact, staged)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(staged)  # noqa: PTH108
            if isinstance(error, OSError):
                message = f"cannot write {artefact.path}: {error.strerror or error}"
                raise KvmComposeError(message) from error
            raise
        intent = Intent(artefact.path, artefact.task, artefact.policy, recipe.digest, content, recipe.inputs)
        return Staged(intent, staged, decision.aside, decision.seen)

    def commit(self, staged: Sequence[Staged]) -> Placed:
        """Put what was staged in its place, after recording all of it as intended.

        Raises KvmComposeError if a file cannot be replaced; those before it are in place then.
        """
        self._ledger.intend(each.intent for each in staged)
        records, disturbed, kept = [], [], []
        try:
            for each in staged:
                intent = each.intent
                path = f"{self._root}/{intent.path}"
                if not _put(each, path):
                    disturbed.append(each)
                    continue
                records.append(as_built(intent, Signature.of(os.lstat(path))))
                if intent.policy is Policy.TEXT and os.path.lexists(f"{path}.new"):
                    kept += self._settle_offer(intent, f"{path}.new")
        except OSError as error:
            raise KvmComposeError(f"cannot write {each.intent.path}: {error.strerror or error}") from error
        finally:
            self._ledger.record(records)
            if disturbed:
                self._ledger.drop_intents(each.intent.path for each in disturbed)
        return Placed(tuple(disturbed), tuple(kept))

    def _settle_offer(self, intent: Intent, new: str) -> list[str]:
        """Remove the ``.new`` file of an artefact that is up to date now; one of the user's is returned."""
        record = self._ledger.records([intent.path]).get(intent.path)
        signature = as_offered(new, {intent.content, offered_content(record)})
        if signature is not None and take_away(new, self._aside(new), signature):
            return []
        return [f"{intent.path}.new"]

    def _aside(self, path: str) -> str:
        """A free name in the folder of a path, for a moment."""
        return f"{path.rpartition('/')[0]}/{STAGED_PREFIX}{os.getpid()}-{next(self._numbers)}"

    def remove(self, decision: Decision) -> bool:
        """Remove a file. Returns False if it was changed since the decision. Raises OSError."""
        path = f"{self._root}/{decision.path}"
        return decision.seen is None or take_away(path, self._aside(path), decision.seen)

    def discard(self, staged: Iterable[Staged]) -> None:
        """Remove staged files that are not wanted after all."""
        for each in staged:
            Path(each.temporary).unlink(missing_ok=True)

    def offer(self, decision: Making, record: LedgerEntry) -> bool:
        """Write the new version of an edited file as ``.new``. Returns False if the user has one there."""
        artefact = decision.artefact
        recipe = self._recipes.recipe(artefact)
        name = f"{artefact.path}.new"
        path = f"{self._root}/{name}"
        content = self.build(artefact)
        digest = digest_bytes(content)
        try:
            seen = None
            if os.path.lexists(path):
                seen = as_offered(path, {digest, offered_content(record)})
                if seen is None:
                    return False
            staged = self._aside(path)
            try:
                with open(staged, "xb") as file:  # noqa: PTH123 (a string, as above)
                    file.write(content)
                    seal_file(file, artefact.mode)
                if not put(staged, path, seen):
                    return False
            finally:
                Path(staged).unlink(missing_ok=True)
        except OSError as error:
            raise KvmComposeError(f"cannot write {name}: {error.strerror}") from error
        inputs = self._ledger.inputs(record.path) or b""
        offered = offer_of(recipe.digest, digest)
        self._ledger.record([msgspec.structs.replace(record, offered=offered, inputs=inputs)])
        return True

    def grow(self, decision: Making, record: LedgerEntry | None) -> str | None:
        """Enlarge a disk in place, and record that. Returns when it will grow if that is not possible now.

        Raises KvmComposeError.
        """
        if decision.size is not None:
            later = enlarge(self._folder / decision.path, decision.size)
            if later is not None:
                return later
        recipe = self._recipes.recipe(decision.artefact)
        # its signature stays what it was when it was built: it has data
        known = record or self.adopt(decision)
        self._ledger.record([msgspec.structs.replace(known, recipe=recipe.digest, inputs=recipe.inputs)])
        return None

    def adopt(self, decision: Making) -> LedgerEntry:
        """Return the ledger entry of an existing file that counts as built."""
        artefact = decision.artefact
        recipe = self._recipes.recipe(artefact)
        path = self._folder / artefact.path
        signature = Signature.of(path.lstat())
        # whether a guest has written to an unknown disk cannot be determined: it counts as one in use
        content = "" if artefact.policy is Policy.MUTABLE else digest_file(path)
        intent = Intent(artefact.path, artefact.task, artefact.policy, recipe.digest, content, recipe.inputs)
        return as_built(intent, signature.or_unsettled())

    def _fill(self, artefact: Artefact, staged: str) -> tuple[Recipe, str]:
        """Write an artefact into its staged file. Returns its recipe and the digest of its content."""
        content = artefact.content
        if isinstance(content, Rendered | Literal):
            with open(staged, "x+b") as file:  # noqa: PTH123 (as above)
                recipe = self._render(artefact, file)
                seal_file(file, artefact.mode)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return recipe, digest
        if isinstance(content, LinkTo):
            goal = self._images.goal_from(content.image, os.path.dirname(artefact.path))  # noqa: PTH120 (text)
            Path(staged).symlink_to(goal or self._here(content.image).goal)
            return self._recipes.recipe(artefact), digest_link(Path(staged))
        if isinstance(content, Overlay):
            overlay = self._overlay(content)
            with open(staged, "xb", buffering=0) as file:  # noqa: PTH123 (as above)
                for start, data in overlay.extents:
                    os.pwrite(file.fileno(), data, start)
                os.ftruncate(file.fileno(), overlay.size)
                seal_file(file, artefact.mode)
            digest = overlay.digest
        else:
            self._ask_for_disk(content, staged)
            with open(staged, "r+b") as file:  # noqa: PTH123 (as above)
                seal_file(file, artefact.mode)
            digest = digest_file(Path(staged))
        # again, because the image may just have been fetched
        self._recipes.forget(artefact.path)
        return self._recipes.recipe(artefact), digest

    def _ask_for_disk(self, content: DeepCopy | Blank, staged: str) -> None:
        if isinstance(content, DeepCopy):
            image = self._here(content.image)
            source = str(self._files.path(str(content.image.path)))
            argv = ["qemu-img", "convert", "-f", image.format, "-O", "qcow2", source, staged]
        else:
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", staged, f"{content.gigabytes}G"]
        process.run(argv, timeout=None)

    def _here(self, image: BaseImage) -> ResolvedImage:
        resolved = self._images.resolve(image)
        if resolved is None:
            raise KvmComposeError(
                f"the image {image.name!r} is not in the store",
                hint=f"kvm-compose cloud-images pull {image.name}",
            )
        return resolved

    def _overlay(self, content: Overlay) -> _Sparse:
        """Return an overlay's bytes: qemu-img makes the first of each kind, the others are copies."""
        if content.image is None:
            backing, kind = str(content.on).removeprefix("artefacts/"), "qcow2"
            if backing not in self._sizes:
                self._sizes[backing] = self._size_of_golden(content)
            size = self._sizes[backing]
        else:
            resolved = self._here(content.image)
            backing, kind, size = resolved.link, resolved.format, resolved.size
        size += content.expand_gigabytes * GIB
        key = (backing, kind, size)
        with self._overlay_guard:
            if key not in self._overlays:
                self._overlays[key] = self._ask_for_overlay(*key)
            return self._overlays[key]

    def _size_of_golden(self, content: Overlay) -> int:
        """Return the size of a clone: by the recipe, as a golden image that was set up does not grow."""
        noted = self._recipes.size(content)
        return read_header(self._folder / str(content.on)).virtual_size if noted is None else noted

    def _ask_for_overlay(self, backing: str, kind: str, size: int) -> _Sparse:
        folder = self._folder / "artefacts"
        with tempfile.TemporaryDirectory(prefix=STAGED_PREFIX, dir=folder) as scratch:
            new = Path(scratch) / "overlay"
            # -u: the backing name is relative to the final place of the overlay, not to where it is made
            options = ["-q", "-u", "-f", "qcow2", "-b", backing, "-F", kind]
            process.run(["qemu-img", "create", *options, str(new), str(size)])
            return _sparse(new.read_bytes())


class _Sparse(msgspec.Struct, frozen=True):
    """A file's content without its holes."""

    extents: tuple[tuple[int, bytes], ...]
    size: int
    digest: str


def _sparse(data: bytes) -> _Sparse:
    zeros = bytes(_SPARSE_BLOCK)
    blocks = ((start, data[start : start + _SPARSE_BLOCK]) for start in range(0, len(data), _SPARSE_BLOCK))
    extents = tuple((start, block) for start, block in blocks if block != zeros[: len(block)])
    return _Sparse(extents, len(data), digest_bytes(data))


def _put(each: Staged, path: str) -> bool:
    """Put an artefact in its place, unless something else is there than what was decided on."""
    seen = each.seen
    if each.aside and seen is not None:
        if not alike(seen_at(path), seen):
            return False
        keep_copy(path)
    return put(each.temporary, path, seen)
