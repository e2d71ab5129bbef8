"""The DHCP and DNS entries of a network, and how a live network gets those of its XML. Pure.

libvirt changes these alive (virNetworkUpdate), one entry a call; all else of a network only when it starts.
The rules are those of virNetworkDefUpdateIPDHCPHost and virNetworkDefUpdateDNSHost (libvirt,
src/conf/network_conf.c).
"""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec

from kvmcompose.core.resource import Reason, ReasonCode
from kvmcompose.providers.libvirt.definitions import parse
from kvmcompose.providers.libvirt.interface.networks import FoundNetwork
from kvmcompose.providers.libvirt.network_definitions import network_digest

#: What the entries of a guest are called in reasons.
_ENTRIES = "addresses and names of "
#: What libvirt adds to a definition by itself.
_ADDED = {"uuid", "mac", "metadata", "nat"}


class Section(Enum):
    """The part of a network that an edit is of."""

    DHCP = "ip-dhcp-host"
    DNS = "dns-host"


class EditCommand(Enum):
    """What an edit does. libvirt finds the entry to delete or modify by what ``xml`` has of it."""

    DELETE = "delete"
    MODIFY = "modify"
    ADD = "add"


class Edit(msgspec.Struct, frozen=True):
    """A change of one entry. ``ip`` is the number of the <ip> element that a DHCP entry belongs to."""

    command: EditCommand
    section: Section
    xml: str
    ip: int = -1


#: An element in canonical form: tag, sorted attributes, text without surrounding space, children.
_Form = tuple[str, tuple[tuple[str, str], ...], str, tuple[Any, ...]]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A DHCP or DNS entry: ``keys`` are its MAC, addresses and names, ``form`` is all of it."""

    form: _Form
    mac: str
    address: str
    names: tuple[str, ...]

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(filter(None, (self.mac, self.address, *self.names)))

    @property
    def xml(self) -> str:
        return ET.tostring(_element(self.form), encoding="unicode", short_empty_elements=False)


class NetworkDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How a network differs from its XML.

    ``entries`` is how DHCP and DNS entries of guests differ. ``subnet`` is the one before and the one after,
    where that differs. ``other``: all else does, too, or libvirt cannot change those entries alive; the
    network has to be made again. ``edited``: its definition in libvirt was. ``outside``: the XML is the one
    that it was made from, so the difference was made by other means.
    """

    entries: tuple[Reason, ...]
    other: bool
    edited: bool
    outside: bool
    subnet: tuple[str, str] | None = None


@lru_cache(maxsize=4)  # each look at a testbed asks, with thousands of entries, and seldom of other texts
def difference(xml: str, found: FoundNetwork, names: tuple[str, ...] = ()) -> NetworkDifference | None:
    """Return how a network on a host differs from its XML, or None. Raises DriverError for broken XML.

    DNS entries of one of ``names`` alone are left out.
    """
    if not found.xml:
        return None
    left_out = frozenset(names)
    wanted, there = _read(xml, left_out), _read(found.xml, left_out)
    before, after = there.entries, wanted.entries
    same_frame = _covers(there.frame, wanted.frame)
    if before == after and same_frame and not found.edited:
        return None
    # libvirt leaves out what it does not know: what was made from the same XML counts as the same
    outside = found.digest == network_digest(xml)
    entries = tuple(_reasons(before, after, outside=outside))
    other = (found.edited or not outside) and not same_frame
    other = other or (bool(entries) and _edits(wanted, there) is None)
    if not (entries or other or found.edited):
        return None
    subnets = _subnet(there.frame), _subnet(wanted.frame)
    return NetworkDifference(
        entries=entries,
        other=other,
        edited=found.edited,
        outside=outside,
        subnet=subnets if other and subnets[0] != subnets[1] else None,
    )


def edits(wanted: str, there: str, names: Collection[str] = ()) -> list[Edit] | None:
    """Return the edits that give a live network the entries of another definition, in their order.

    DNS entries of one of ``names`` alone stay. None when libvirt cannot: it adds no entry that has an address
    or a name of another one.
    """
    return _edits(_read(wanted, names), _read(there, names))


def addresses(xml: str, *, alone: bool = False) -> dict[str, str]:
    """Return the addresses of names in the DNS entries of a definition; ``alone``: of entries with one name.

    Raises DriverError for broken XML.
    """
    found = _dns(parse(xml, "network"))
    return {name: each.address for each in found if not alone or len(each.names) == 1 for name in each.names}


def name_edits(there: str, names: Mapping[str, str | None]) -> list[Edit] | None:
    """Return the edits that give names an address each, in an entry of its own; None: the name goes.

    None when libvirt cannot, as for ``edits``.
    """
    old = _dns(parse(there, "network"))
    added = [
        f"<host ip='{address}'><hostname>{name}</hostname></host>"
        for name, address in names.items()
        if address
    ]
    new = _dns(parse(f"<network><dns>{''.join(added)}</dns></network>", "network"))
    return _section_edits(Section.DNS, -1, [*(each for each in old if not _is_alone(each, names)), *new], old)


class _Definition(msgspec.Struct, frozen=True):
    """The entries of a definition, those of DHCP by <ip> element, and the rest of it."""

    dhcp: tuple[tuple[Entry, ...], ...]
    dns: tuple[Entry, ...]
    frame: ET.Element

    @property
    def entries(self) -> frozenset[Entry]:
        return frozenset((*chain.from_iterable(self.dhcp), *self.dns))


def _read(xml: str, names: Collection[str]) -> _Definition:
    """Parse a definition, and leave out the DNS entries of one of these names alone."""
    root = parse(xml, "network")
    dhcp = tuple(tuple(_dhcp(ip)) for ip in root.iterfind("ip"))
    dns = tuple(entry for entry in _dns(root) if not _is_alone(entry, names))
    return _Definition(dhcp, dns, _frame(root))


def _is_alone(entry: Entry, names: Collection[str]) -> bool:
    return len(entry.names) == 1 and entry.names[0] in names


def _edits(wanted: _Definition, there: _Definition) -> list[Edit] | None:
    if len(wanted.dhcp) != len(there.dhcp):
        return None
    found: list[Edit] = []
    for section, number, new, old in (
        *(
            (Section.DHCP, number, new, old)
            for number, (new, old) in enumerate(zip(wanted.dhcp, there.dhcp, strict=True))
        ),
        (Section.DNS, -1, wanted.dns, there.dns),
    ):
        changes = _section_edits(section, number, new, old)
        if changes is None:
            return None
        found += changes
    return found


def _section_edits(
    section: Section, number: int, wanted: Sequence[Entry], there: Sequence[Entry]
) -> list[Edit] | None:
    new, old = set(wanted), set(there)
    surplus = [entry for entry in there if entry not in new]
    missing = [entry for entry in wanted if entry not in old]
    if not surplus and not missing:
        return []
    taken = Counter(key for entry in there for key in entry.keys)
    found: list[Edit] = []

    by_mac = {entry.mac: entry for entry in surplus if entry.mac}
    for entry in tuple(missing):
        known = by_mac.get(entry.mac)
        # libvirt modifies the first entry that has the MAC, the address or the name
        if known is not None and not any(taken[key] - (key in known.keys) for key in entry.keys):
            found.append(Edit(EditCommand.MODIFY, section, entry.xml, number))
            taken.subtract(known.keys)
            taken.update(entry.keys)
            surplus.remove(known)
            missing.remove(entry)
    for entry in surplus:
        xml = entry.xml if section is Section.DHCP else _selector(entry, taken)
        if xml is None:
            return None
        found.append(Edit(EditCommand.DELETE, section, xml, number))
        taken.subtract(entry.keys)
    for entry in missing:
        if any(taken[key] for key in entry.keys):
            return None
        found.append(Edit(EditCommand.ADD, section, entry.xml, number))
        taken.update(entry.keys)
    return found


def _selector(entry: Entry, taken: Counter[str]) -> str | None:
    """Return what only this DNS entry has: libvirt deletes by address or any of the names, and one only."""
    host = ET.Element("host")
    if entry.address and taken[entry.address] == 1:
        host.set("ip", entry.address)
        return ET.tostring(host, encoding="unicode")
    name = next((name for name in entry.names if taken[name] == 1), None)
    if name is None:
        return None
    ET.SubElement(host, "hostname").text = name
    return ET.tostring(host, encoding="unicode")


def _dhcp(ip: ET.Element) -> list[Entry]:
    found = []
    for host in ip.iterfind("dhcp/host"):
        mac = host.get("mac", "").lower()
        form = _form(host, {**host.attrib, "mac": mac} if mac else host.attrib)
        names = (host.get("name", ""), host.get("id", ""))
        found.append(Entry(form, mac, host.get("ip", ""), tuple(filter(None, names))))
    return found


def _dns(root: ET.Element) -> list[Entry]:
    return [entry for holder in root.iterfind("dns") for entry in _dns_of(holder)]


def _dns_of(holder: ET.Element) -> list[Entry]:
    return [
        Entry(
            _form(host, host.attrib),
            "",
            host.get("ip", ""),
            tuple((name.text or "").strip() for name in host.iterfind("hostname")),
        )
        for host in holder.iterfind("host")
    ]


def _reasons(before: frozenset[Entry], after: frozenset[Entry], *, outside: bool) -> Iterator[Reason]:
    """Yield how the entries of guests differ, each guest once."""
    differing = {entry.address for entry in before ^ after}
    old, new = (
        _titles(entry for entry in entries if entry.address in differing) for entries in (before, after)
    )
    # an entry of DNS that is gone took the short name with it
    old = {
        address: new[address] if _is_same(title, new.get(address)) else title
        for address, title in old.items()
    }
    known, wanted = set(old.values()), set(new.values())
    renamed = {
        new[address]: title
        for address, title in old.items()
        if new.get(address, title) != title and title not in wanted and new[address] not in known
    }
    for title in sorted((known | wanted) - set(renamed.values())):
        if title in renamed:
            names = (each.removeprefix(_ENTRIES) for each in (renamed[title], title))
            yield Reason(ReasonCode.CHANGED, "name", *names)
        elif outside or title in known & wanted:
            yield Reason(ReasonCode.CHANGED, title)
        else:
            yield Reason(ReasonCode.REMOVED if title in known else ReasonCode.ADDED, title)


def _is_same(before: str, after: str | None) -> bool:
    """Return whether two titles are of one guest: one has its short name, the other the one of its domain."""
    if after is None or not (before.startswith(_ENTRIES) and after.startswith(_ENTRIES)):
        return False
    short, long = sorted((each.removeprefix(_ENTRIES) for each in (before, after)), key=len)
    return short == long or long.endswith(f"-{short}")


def _titles(entries: Iterable[Entry]) -> dict[str, str]:
    """Return by address what its entries are called: after a guest by its short name, if they have one."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        names.setdefault(entry.address or entry.mac, []).extend(entry.names)
    return {
        address: f"{_ENTRIES}{min(found, key=len)}" if found else f"address {address}"
        for address, found in names.items()
    }


def _subnet(root: ET.Element) -> str:
    """Return the first subnet of a network, empty where it has none."""
    ip = root.find("ip")
    if ip is None:
        return ""
    length = ip.get("prefix") or ip.get("netmask", "32")
    try:
        return str(ipaddress.ip_network(f"{ip.get('address')}/{length}", strict=False))
    except ValueError:
        return ""


def _form(element: ET.Element, attributes: Mapping[str, str]) -> _Form:
    """A network of thousands of guests has as many entries: ``ET.canonicalize`` takes seconds for them."""
    children = tuple(_form(child, child.attrib) for child in element) if len(element) else ()
    return element.tag, tuple(sorted(attributes.items())), (element.text or "").strip(), children


def _element(form: _Form) -> ET.Element:
    tag, attributes, text, children = form
    element = ET.Element(tag, dict(attributes))
    element.text = text or None
    element.extend(_element(child) for child in children)
    return element


def _frame(root: ET.Element) -> ET.Element:
    """Take out the entries, and the metadata."""
    for path in ("dns", "ip/dhcp"):
        for holder in root.iterfind(path):
            holder[:] = [each for each in holder if each.tag != "host"]
    for parent, tag in ((root, "dns"), *((ip, "dhcp") for ip in root.iterfind("ip"))):
        for holder in parent.findall(tag):
            if not holder.attrib and not len(holder):
                parent.remove(holder)
    metadata = root.find("metadata")
    if metadata is not None:
        root.remove(metadata)
    return root


def _covers(there: ET.Element, wanted: ET.Element) -> bool:
    """Return whether a definition has the frame of another one, and else only what libvirt adds."""
    if not wanted.attrib.items() <= there.attrib.items():
        return False
    if (wanted.text or "").strip() != (there.text or "").strip():
        return False
    left = list(there)
    for child in wanted:
        match = next((each for each in left if each.tag == child.tag and _covers(each, child)), None)
        if match is None:
            return False
        left.remove(match)
    return all(each.tag in _ADDED for each in left)
