"""The picture of a testbed as the API sends it: what is in it, and how it is drawn."""

from __future__ import annotations

import msgspec


class PictureInterface(msgspec.Struct, frozen=True, gc=False):
    """An interface of a guest: the node that it is connected to, and its addresses."""

    segment: str
    addresses: tuple[str, ...]


class PictureNode(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node. ``kind`` is ``guest``, ``container``, ``golden image``, ``bridge``, ``switch``, ``router``,
    ``network`` or ``host interface``.

    ``host`` is empty for what is on no host, or on several. ``details`` are lines about it. Of guests:
    ``machine`` is the one that it is a clone of, or its own name; ``labels`` are those of the machine.
    """

    name: str
    kind: str
    host: str
    details: tuple[str, ...] = ()
    machine: str = ""
    labels: dict[str, str] = {}
    interfaces: tuple[PictureInterface, ...] = ()


class PictureEdge(msgspec.Struct, frozen=True, gc=False):
    """A connection between two nodes: of a guest with its addresses, a tunnel, a port of a router."""

    source: str
    target: str
    label: str


class PictureStack(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One card for many guests, which are drawn themselves if it ``is_open``.

    ``name`` identifies it in the picture and in the parameter ``open``; ``title`` is what is written on it.
    """

    name: str
    title: str
    host: str
    guests: tuple[str, ...]
    is_open: bool


class TestbedPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A testbed as a graph, and drawn.

    ``svg`` has no styles. In it, ``data-node`` names the node, stack or segment that an element shows,
    ``data-host`` the host, ``data-source`` and ``data-target`` the ends of a line. Size in CSS pixels.
    """

    __test__ = False  # not a test, whatever its name

    hosts: tuple[str, ...]
    nodes: tuple[PictureNode, ...]
    edges: tuple[PictureEdge, ...]
    stacks: tuple[PictureStack, ...]
    width: float
    height: float
    svg: str
