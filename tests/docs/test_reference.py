"""The generated pages of the reference are what the schemas, the parsers and the errors say now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_generated_pages_are_up_to_date() -> None:
    argv = [sys.executable, str(REPOSITORY / "scripts" / "reference"), "--check"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, f"run: python scripts/reference\n{result.stdout}{result.stderr}"
