"""The testbeds of the guide for users of other tools are valid, and their lines about reachability hold."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from test_tutorial import BIN, REPOSITORY

#: Where the identifier of ISO 9660 is (ECMA-119, 8.1.2).
ISO_START = 0x8001
GUIDE = REPOSITORY / "docs" / "how-to" / "from-other-tools.md"
TESTBEDS = {
    section.split()[0].rstrip(":"): section.partition("```yaml\n")[2].partition("```")[0]
    for section in re.split(r"^## ", GUIDE.read_text(), flags=re.MULTILINE)[1:]
}


_TEXTS = {
    ".sh": "#!/bin/sh\n",
    ".cfg": "#cloud-config\nruncmd: [date]\n",
    ".xml": '<unattend xmlns="urn:schemas-microsoft-com:unattend"/>\n',
}


def test_each_tool_has_a_testbed() -> None:
    assert set(TESTBEDS) == {
        "kcli", "Vagrant", "Terraform", "virt-install", "Ludus", "containerlab", "Proxmox", "Lima"
    }  # fmt: skip


@pytest.mark.parametrize("tool", TESTBEDS)
def test_a_testbed_of_the_guide_is_valid(tool: str, tmp_path: Path) -> None:
    (tmp_path / "kvm-compose.yaml").write_text(TESTBEDS[tool])
    for name in re.findall(r"\b[\w.-]+\.(?:qcow2|iso|sh|cfg|xml)\b", TESTBEDS[tool]):
        file = tmp_path / name
        if name.endswith(".qcow2"):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", file, "1M"], check=True)  # noqa: S607
        elif name.endswith(".iso"):
            file.write_bytes(bytes(ISO_START) + b"CD001".ljust(ISO_START, b"\0"))
        else:
            file.write_text(_TEXTS[file.suffix])
    (tmp_path / "src").mkdir()
    done = subprocess.run(
        [BIN / "kvm-compose", "check" if "expect:" in TESTBEDS[tool] else "validate"],
        cwd=tmp_path,
        env=os.environ | {"KVM_COMPOSE_STATE_DIR": str(tmp_path / "s")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
