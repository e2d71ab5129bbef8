"""Recipes: all inputs of an artefact as one document. Its digest is compared, and ``why`` shows it.

The inputs of an artefact are one JSON document: values of the state, digests of templates, files,
images and of the code that renders. Its SHA-256 is the artefact's *recipe*; the document itself goes
into the ledger, so what changed since is found by comparing two documents leaf by leaf.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.build.base_images import Images
from kvmcompose.build.project_files import FolderFiles
from kvmcompose.core.artefact import (
    Artefact,
    BaseImage,
    Blank,
    Content,
    DeepCopy,
    LinkTo,
    Literal,
    Overlay,
    Rendered,
)
from kvmcompose.core.environment import digests as digests_of_values
from kvmcompose.core.explained import RecipeChange
from kvmcompose.core.image_build import ContextEntry, content_digest
from kvmcompose.effects.resources import code_digest
from kvmcompose.render import RENDERERS
from kvmcompose.render.build_context import BUILD_CONTEXT
from kvmcompose.render.seed import CONTEXT, context_modes
from kvmcompose.render.templates import Templates

#: Raised when the making of disks changes. Their code is not part of their recipe, as a new version of
#: kvmcompose must not ask for new disks when the old ones would be the same.
_DISK_VERSION = 1

GIB = 2**30
#: Up to this size an earlier one is recognised by its recipe.
_LIKELY_GIGABYTES = 4096

#: Of the context of an image, so many files are named in its recipe, and so in the reasons to build it again.
_NAMED_FILES = 500

_Unrendered = Literal | Overlay | DeepCopy | Blank

_encode = msgspec.json.Encoder(order="deterministic").encode


class Recipe(msgspec.Struct, frozen=True):
    """What an artefact is made of: the document and its SHA-256."""

    digest: str
    inputs: bytes


class Recipes:
    """Makes the recipes of one compiled project; remembers what many artefacts share."""

    def __init__(
        self,
        artefacts: Mapping[str, Artefact],
        templates: Templates,
        files: FolderFiles,
        images: Images,
        epoch: int,
    ) -> None:
        self._artefacts = artefacts
        self._templates = templates
        self._files = files
        self._images = images
        self._epoch = epoch
        self._recipes: dict[str, Recipe] = {}
        #: By all that they are made of: the inputs of rendered artefacts as far as their values.
        self._shared: dict[tuple[Any, ...], bytes] = {}
        self._overlays: dict[Overlay, Recipe] = {}
        self._seen_changes = 0

    def recipe(self, artefact: Artefact) -> Recipe:
        """The recipe of an artefact as things are now. Raises KvmComposeError for an unreadable input."""
        found = self._recipes.get(artefact.path)
        if found is None:
            content = artefact.content
            if isinstance(content, Rendered):
                found = self._rendered_recipe(content)
            elif isinstance(content, LinkTo):
                goal = self._images.goal_from(content.image, os.path.dirname(artefact.path))  # noqa: PTH120
                found = seal({"link": {**_written(content.image), "to": goal}})
            else:
                found = self._disk_recipe(content) or seal(self._document(content))
            self._recipes[artefact.path] = found
        return found

    def _rendered_recipe(self, content: Rendered) -> Recipe:
        """That of a rendered artefact: all but the values is the same for most guests."""
        digests = {name: self._digest(name, path, content) for name, path in content.files.items()}
        key = (content.renderer, content.templates, *content.files.items(), *digests.values())
        shared = self._shared.get(key)
        if shared is None:
            entries = self._entries(content)
            shared = shared_inputs(content, self._templates, digests, self._epoch, entries)
            self._shared[key] = shared
        return seal_rendered(content, shared)

    def _disk_recipe(self, content: Content) -> Recipe | None:
        """That of an overlay: most guests have the same, so it is taken once."""
        if not isinstance(content, Overlay):
            return None
        if content not in self._overlays:
            self._overlays[content] = seal(self._document(content))
        return self._overlays[content]

    def forget(self, path: str) -> None:
        """Forget this artefact's recipe: an image may have been fetched meanwhile."""
        self._recipes.pop(path, None)
        if self._images.changes != self._seen_changes:
            self._seen_changes = self._images.changes
            self._overlays.clear()

    def backing(self, content: Overlay) -> str | None:
        """Return the name of an overlay's backing file, relative to ``artefacts/``."""
        if content.on is not None:
            return content.on.removeprefix("artefacts/")
        resolved = self._images.resolve(content.image) if content.image is not None else None
        return resolved.link if resolved is not None else None

    def size(self, content: Content) -> int | None:
        """Return the size of a disk in bytes, as its guest sees it; None if its image is missing."""
        match content:
            case Overlay(image=None):
                return self.size(self._artefacts[str(content.on)].content)
            case Overlay(image=BaseImage() as image) | DeepCopy(image=image):
                resolved = self._images.resolve(image)
                more = content.expand_gigabytes if isinstance(content, Overlay) else 0
                return resolved.size + more * GIB if resolved is not None else None
            case Blank():
                return content.gigabytes * GIB
            case _:
                return None

    def golden_paths(self) -> frozenset[str]:
        """Return the paths of the disks that clones are overlays on."""
        contents = (artefact.content for artefact in self._artefacts.values())
        return frozenset(each.on for each in contents if isinstance(each, Overlay) and each.on is not None)

    def gigabytes(self, content: Content) -> int | None:
        """Return the GiB in a disk's recipe, which determine its size; None if there are none."""
        match content:
            case Overlay(image=None):
                return self.gigabytes(self._artefacts[str(content.on)].content)
            case Overlay():
                return content.expand_gigabytes
            case Blank():
                return content.gigabytes
            case _:
                return None

    def gigabytes_of(self, content: Content, digest: str) -> int | None:
        """Return the GiB with which a disk would have the recipe ``digest``; None if it differs in more."""
        now = self.gigabytes(content)
        if now is None:
            return None
        likely = (now, *range(max(now, _LIKELY_GIGABYTES) + 1))
        return next((each for each in likely if self._resized(content, each).digest == digest), None)

    def _resized(self, content: Content, gigabytes: int) -> Recipe:
        """Return the recipe that a disk would have with another size."""
        match content:
            case Overlay(image=None):
                golden = self._resized(self._artefacts[str(content.on)].content, gigabytes)
                return seal(_clone_document(content, golden))
            case Overlay():
                return seal(self._document(msgspec.structs.replace(content, expand_gigabytes=gigabytes)))
            case Blank():
                return seal(self._document(Blank(gigabytes)))
            case _:
                raise TypeError("a disk without a size of its own")

    def _document(self, content: _Unrendered) -> dict[str, Any]:
        match content:
            case Literal():
                return {"content": hashlib.sha256(content.data).hexdigest()}
            case Overlay(image=BaseImage() as image):
                base = self._image(image)
                return {
                    "overlay": {**base, "expand_gigabytes": content.expand_gigabytes},
                    "version": _DISK_VERSION,
                }
            case Overlay():
                return _clone_document(content, self.recipe(self._artefacts[str(content.on)]))
            case DeepCopy():
                return {"copy": self._image(content.image), "version": _DISK_VERSION}
            case Blank():
                return {"blank": {"gigabytes": content.gigabytes}, "version": _DISK_VERSION}

    def _digest(self, name: str, path: str, content: Rendered) -> str:
        if name == CONTEXT:
            return self._files.context_digest(path, context_modes(content))
        if name == BUILD_CONTEXT:
            return self._files.build_digest(path, content.values.dockerfile)
        return self._files.digest(path)

    def _entries(self, content: Rendered) -> Sequence[ContextEntry]:
        if BUILD_CONTEXT not in content.files:
            return ()
        return self._files.build_entries(content.files[BUILD_CONTEXT], content.values.dockerfile)

    def _image(self, image: BaseImage) -> dict[str, Any]:
        resolved = self._images.resolve(image)
        return {
            "image": {
                **_written(image),
                "format": resolved.format if resolved is not None else image.format,
                "content": resolved.digest if resolved is not None else None,
                "called": resolved.link if resolved is not None else None,
            }
        }


def _clone_document(content: Overlay, golden: Recipe) -> dict[str, Any]:
    return {"overlay": {"on": {"path": content.on, "recipe": golden.digest}}, "version": _DISK_VERSION}


def _written(image: BaseImage) -> dict[str, str]:
    return {"name": image.name} if image.name is not None else {"path": str(image.path)}


def shared_inputs(
    content: Rendered,
    templates: Templates,
    digests: Mapping[str, str],
    epoch: int,
    entries: Sequence[ContextEntry] = (),
) -> bytes:
    """Return the encoded inputs of a rendered artefact as far as its values.

    ``digests`` are those of the files that go into it, ``entries`` what is in the context of an image: where
    these are few, they are named one by one.
    """
    document: dict[str, Any] = {
        "templates": {name: templates.digest(name) for name in content.templates},
        "renderer": {"name": content.renderer, "code": code_digest(RENDERERS[content.renderer].modules)},
    }
    if content.files:
        document["files"] = {
            name: {"path": path, "content": digests[name]}
            for name, path in content.files.items()
            if not 0 < len(entries) <= _NAMED_FILES
        }
        document["files"] |= _named(content, entries)
    if RENDERERS[content.renderer].writes_time:
        document["source_date_epoch"] = epoch
    # keys are sorted, and "values" is the last: so the encoding of the whole document begins like this
    return _encode(document)[:-1] + b',"values":'


def _named(content: Rendered, entries: Sequence[ContextEntry]) -> Mapping[str, Mapping[str, str]]:
    """Return what is in the context of an image, as files by names of their own; none of too many."""
    if not 0 < len(entries) <= _NAMED_FILES:
        return {}
    folder = content.files[BUILD_CONTEXT]
    return {
        f"{BUILD_CONTEXT}/{each.path}": {
            "path": posixpath.normpath(posixpath.join(folder, each.path)),
            "content": content_digest([each]),
        }
        for each in entries
    }


def seal_rendered(content: Rendered, shared: bytes) -> Recipe:
    """Return the recipe of a rendered artefact, given its ``shared_inputs``."""
    values = content.values
    if environment := getattr(values, "environment", None):
        # the ledger and what is shown of it are no place for secrets
        values = msgspec.structs.replace(values, environment=digests_of_values(environment))
    if cloud_init := getattr(values, "cloud_init", None):
        hidden = msgspec.structs.replace(cloud_init, values=digests_of_values(cloud_init.values))
        values = msgspec.structs.replace(values, cloud_init=hidden)
    data = shared + _encode(values) + b"}"
    return Recipe(hashlib.sha256(data).hexdigest(), data)


def seal(document: dict[str, Any]) -> Recipe:
    """A document and its digest."""
    data = _encode(document)
    return Recipe(hashlib.sha256(data).hexdigest(), data)


def leaves(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with its path."""
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(document, list) and document:
        for index, value in enumerate(document):
            yield from leaves(value, f"{prefix}[{index}]")
    else:
        yield prefix, document


def changes(before: bytes, after: bytes) -> list[RecipeChange]:
    """The leaves in which two documents of inputs differ, in the order of the new one."""
    old = dict(leaves(msgspec.json.decode(before)))
    new = dict(leaves(msgspec.json.decode(after)))
    names = [*new, *(name for name in old if name not in new)]
    missing = object()
    return [
        RecipeChange(name, old.get(name), new.get(name))
        for name in names
        if old.get(name, missing) != new.get(name, missing)
    ]
