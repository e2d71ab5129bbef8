"""Opens a web browser."""

from __future__ import annotations

import os
import webbrowser


def open_browser(address: str) -> bool:
    """Show an address in the user's browser. Returns whether a browser was started.

    None is without a display, over SSH, and for root, whose browser would not be the user's; BROWSER in the
    environment names one in any case. Text browsers cannot show the page.
    """
    env = os.environ.get
    if not env("BROWSER") and (
        not (env("DISPLAY") or env("WAYLAND_DISPLAY")) or is_ssh() or os.geteuid() == 0
    ):
        return False
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


def is_ssh() -> bool:
    """Return whether this program was started over SSH."""
    return bool(os.environ.get("SSH_CONNECTION"))
