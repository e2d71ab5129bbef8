"""What differs in two recipes, in the words of the YAML and of the project's files. Pure.

``recipes.changes`` has every leaf of the documents, for ``why``. Here are the reasons that builds and plans
give: without what follows from something else, and without places in a document of our own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.build.recipes import leaves
from kvmcompose.render.build_context import BUILD_CONTEXT

_Document = Mapping[str, Any]
#: What a seed's file is, by the first part of its name there.
_SCRIPTS = {
    "setup": "setup script",
    "run": "run script",
    "context": "context",
    "cloud-init": "cloud_init file",
}
#: Keys of an interface, by what they are called in reasons; all others follow from these.
_OF_INTERFACES = {"mac": "mac", "ip": "ip", "source": "bridge", "mtu": "mtu", "gateway": "gateway"}
#: Names that derive from that of the guest.
_NAMES = ("guest", "hostname", "identity", "domain")
#: The part of a network that its subnet determines.
_SUBNET = ("gateway", "prefix_length", "first", "last")
_DIGEST_LENGTH = 64


def reasons_between(before: bytes, after: bytes) -> tuple[str, ...]:
    """Return what differs in two documents of inputs, most telling first; empty if that is nothing."""
    old, new = msgspec.json.decode(before), msgspec.json.decode(after)
    try:
        found = [*_reasons(old, new)]
    except (AttributeError, KeyError, TypeError, ValueError):  # recorded by another version, or not by one
        found = [*_leaves(old, new)] if isinstance(old, dict) else []
    return tuple(dict.fromkeys(found))


def _reasons(old: _Document, new: _Document) -> Iterator[str]:
    yield from _of_values(old.get("values", {}), new.get("values", {}))
    yield from _of_files(old.get("files", {}), new.get("files", {}))
    yield from _of_disks(old, new)
    for name in _differing(old.get("templates"), new.get("templates")):
        yield f"template {name} has changed"
    if _differs(old, new, "renderer", "version"):
        yield "kvm-compose itself changed"
    known = ("values", "files", "templates", "renderer", "version", *_DISKS)
    yield from _leaves(_without(old, known), _without(new, known))


def _of_values(old: _Document, new: _Document) -> Iterator[str]:
    moved = "reservations" in new and _differs(old, new, *_SUBNET)
    if moved:
        yield _changed("subnet", _subnet(old), _subnet(new))
    if _differs(old, new, "guest"):
        yield _changed("name", old.get("guest"), new.get("guest"))
    elif _differs(old, new, *_NAMES[1:]):
        yield _changed("hostname", old.get("hostname"), new.get("hostname"))
    yield from _of_reservations(old.get("reservations", ()), new.get("reservations", ()), moved=moved)
    for key in ("interfaces", "nics"):
        yield from _of_interfaces(old.get(key) or (), new.get(key) or (), f"{new.get('project')}-")
    yield from _of_environment(old.get("environment") or {}, new.get("environment") or {})
    yield from _of_cloud_init(old.get("cloud_init") or {}, new.get("cloud_init") or {})
    known = (
        "reservations",
        "interfaces",
        "nics",
        "environment",
        "cloud_init",
        *_NAMES,
        *(_SUBNET if moved else ()),
    )
    yield from _leaves(_without(old, known), _without(new, known))


def _subnet(values: _Document) -> str:
    """Return the subnet of a network, of which the values have its gateway."""
    gateway, length = values.get("gateway"), values.get("prefix_length")
    return str(ipaddress.ip_network(f"{gateway}/{length}", strict=False))


def _of_reservations(old: Sequence[_Document], new: Sequence[_Document], *, moved: bool) -> Iterator[str]:
    """Yield what changes of the addresses that a network gives; not all of them, where its subnet moves."""
    by_mac = {each["mac"]: each for each in old}
    by_alias = {each["alias"]: each for each in old if each["alias"]}
    kept = {each["mac"] for each in new}
    for each in new:
        known = by_mac.get(each["mac"]) or by_alias.get(each["alias"])
        if known is None:
            yield f"{_owner(each)} added"
            continue
        kept.add(known["mac"])
        if known["alias"] != each["alias"]:
            yield _changed("name", known["alias"], each["alias"])
        for key in ("mac", *(() if moved else ("ip",))):
            if known[key] != each[key]:
                yield _changed(f"{key} of {_owner(each)}", known[key], each[key])
    yield from (f"{_owner(each)} removed" for each in old if each["mac"] not in kept)


def _owner(reservation: _Document) -> str:
    return f"guest {reservation['alias']}" if reservation["alias"] else f"address {reservation['ip']}"


def _of_interfaces(old: Sequence[_Document], new: Sequence[_Document], prefix: str) -> Iterator[str]:
    """Yield what changes of interfaces: each is known by its MAC address, or by its place.

    ``prefix`` is what the names of bridges on hosts begin with.
    """
    by_mac = {each["mac"]: each for each in old}
    kept = {each["mac"] for each in new}
    for number, each in enumerate(new):
        known = by_mac.get(each["mac"])
        if known is None and number < len(old) and old[number]["mac"] not in kept:
            known = old[number]
        if known is None:
            yield f"interface {number} added"
            continue
        kept.add(known["mac"])
        changed = [
            _changed(f"{word} of interface {number}", *(_bare(nic.get(key), prefix) for nic in (known, each)))
            for key, word in _OF_INTERFACES.items()
            if known.get(key) != each.get(key) and (key != "gateway" or known.get("ip") == each.get("ip"))
        ]
        yield from changed or ([f"interface {number} has changed"] if known != each else ())
    yield from (f"interface {number} removed" for number, each in enumerate(old) if each["mac"] not in kept)


def _bare(value: Any, prefix: str) -> Any:
    return value.removeprefix(prefix) if isinstance(value, str) else value


def _of_environment(old: _Document, new: _Document) -> Iterator[str]:
    """Yield the names only: values may be secret."""
    yield from (f"environment {each}" for each in _of_secrets(old, new))


def _of_cloud_init(old: _Document, new: _Document) -> Iterator[str]:
    """Yield the keys only, likewise."""
    yield from (f"cloud_init {each}" for each in _of_secrets(old.get("values", {}), new.get("values", {})))
    yield from _leaves(_without(old, ("values",)), _without(new, ("values",)))


def _of_secrets(old: _Document, new: _Document) -> Iterator[str]:
    for name in _differing(old, new):
        what = "has changed" if name in old and name in new else "added" if name in new else "removed"
        yield f"{name} {what}"


def _of_files(old: _Document, new: _Document) -> Iterator[str]:
    for name in _differing(old, new):
        # of the context of an image, files are named where there are few
        noun = "build context" if name == BUILD_CONTEXT else _SCRIPTS.get(name.partition("/")[0], "file")
        was, now = old.get(name), new.get(name)
        if was is None:
            yield f"{noun} {new[name]['path']} added"
        elif now is None:
            yield f"{noun} {was['path']} removed"
        elif was["path"] != now["path"]:
            yield _changed(noun, was["path"], now["path"])
        else:
            yield f"{noun} {now['path']} has changed"


#: What the documents of disks and of links to images begin with.
_DISKS = ("overlay", "copy", "link")


def _of_disks(old: _Document, new: _Document) -> Iterator[str]:
    for kind in _DISKS:
        was, now = old.get(kind) or {}, new.get(kind) or {}
        if was == now:
            continue
        # a link to an image is its image
        images = [each.get("image", each if kind == "link" else None) for each in (was, now)]
        names = [(each.get("name") or each.get("path")) if each else None for each in images]
        golden = [each.get("on", {}) for each in (was, now)]
        if names[0] != names[1]:
            yield _changed("image", *names)
        elif images[0] != images[1]:
            yield f"image {names[1]} has changed"
        if golden[0].get("path") != golden[1].get("path"):
            yield _changed("golden image", golden[0].get("path"), golden[1].get("path"))
        elif golden[0] != golden[1]:
            yield "its golden image has changed"
        if kind != "link":
            yield from _leaves(_without(was, ("image", "on")), _without(now, ("image", "on")))


def _leaves(old: _Document, new: _Document) -> Iterator[str]:
    """Yield the differences of what has the names of the YAML."""
    before, after = dict(leaves(old)) if old else {}, dict(leaves(new)) if new else {}
    for name in _differing(before, after):
        yield _changed(name, before.get(name), after.get(name))


def _differing(old: _Document | None, new: _Document | None) -> list[str]:
    old, new = old or {}, new or {}
    names = dict.fromkeys([*new, *old])
    return [name for name in names if (name in old, old.get(name)) != (name in new, new.get(name))]


def _differs(old: _Document, new: _Document, *keys: str) -> bool:
    return any(old.get(key) != new.get(key) for key in keys)


def _without(document: _Document, keys: Iterable[str]) -> _Document:
    left_out = set(keys)
    return {key: value for key, value in document.items() if key not in left_out}


def _changed(name: str, before: Any, after: Any) -> str:
    """Return ``memory_mb: 512 -> 1024``; digests are shortened."""
    return f"{name}: {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, str):
        is_digest = len(value) == _DIGEST_LENGTH and set(value) <= set("0123456789abcdef")
        return f"{value[:8]}…" if is_digest else value
    return msgspec.json.encode(value).decode()
