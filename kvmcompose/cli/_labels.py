"""``--label``: selects guests by their labels wherever names of guests are taken."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import Target, unknown_name
from kvmcompose.core.labels import Selector, selected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmcompose.core.state import State


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add ``--label``, which may be repeated."""
    parser.add_argument(
        "--label",
        type=_selector,
        metavar="KEY=VALUE",
        action="append",
        dest="labels",
        default=[],
        help="only guests with this label (KEY alone: with any value); if repeated, with all of them",
    )


def _selector(text: str) -> Selector:
    try:
        return Selector.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE") from None


def labelled(target: Target, selectors: Sequence[Selector]) -> list[str]:
    """Return the guests with these labels that are up, without golden images. Raises InputError for none."""
    from kvmcompose.core.state import decode_state

    return _labelled(decode_state(target.server.state(target.name)), selectors, golden=False)


def labelled_in(state: State, selectors: Sequence[Selector]) -> list[str]:
    """Return the guests with these labels of a project. Raises InputError for none."""
    return _labelled(state, selectors, golden=True)


def _labelled(state: State, selectors: Sequence[Selector], *, golden: bool) -> list[str]:
    guests = {
        name: guest.labels
        for name, guest in state.testbed_guests.items()
        if golden or not guest.is_golden_image
    }
    found = selected(guests, selectors)
    if found:
        return found
    wanted = " and ".join(map(str, selectors))
    known = dict.fromkeys(f"{key}={value}" for labels in guests.values() for key, value in labels.items())
    raise unknown_name(
        f"no guest in {state.project_name} has the label {wanted}",
        f"labels: {', '.join(list(known)[:20])}"
        if known
        else "a machine in the YAML has labels: {KEY: VALUE}",
    )
