"""Write the generated pages of the reference: ``python scripts/reference``, or check them (``--check``)."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"


def pages() -> dict[str, str]:
    """Return every generated page by file name."""
    # the user's settings must not affect the pages
    for name in [name for name in os.environ if name.startswith("KVM_COMPOSE_")]:
        del os.environ[name]
    import commands  # noqa: PLC0415 (they read the environment when they are imported)
    import events_page  # noqa: PLC0415
    import problems  # noqa: PLC0415
    import schema_pages  # noqa: PLC0415

    return {
        "yaml.md": schema_pages.yaml_page(),
        "config.md": schema_pages.config_page(),
        "cli.md": commands.page(),
        "problems.md": problems.page(),
        "events.md": events_page.page(),
        "asyncapi.json": events_page.asyncapi_file(),
    }


def main() -> int:
    """Write or compare the pages; exit with status 1 when a page differs."""
    parser = argparse.ArgumentParser(prog="scripts/reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; show what differs")
    check = parser.parse_args().check
    status = 0
    for name, text in pages().items():
        path = FOLDER / name
        before = path.read_text() if path.exists() else ""
        if not check:
            path.write_text(text)
        elif before != text:
            status = 1
            old, new = before.splitlines(keepends=True), text.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(old, new, f"docs/reference/{name}", "generated"))
    return status


if __name__ == "__main__":
    sys.exit(main())
