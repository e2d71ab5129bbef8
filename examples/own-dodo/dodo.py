"""The tasks of kvm-compose, and one of our own that uses their files."""

import csv
from pathlib import Path
from xml.etree import ElementTree as ET

from kvmcompose.build.dodo import doit_config, project_tasks

DOIT_CONFIG = doit_config() | {"default_tasks": ["generate", "macs"]}

DOMAINS = ["artefacts/left-domain.xml", "artefacts/right-domain.xml"]


def task_testbed():
    """All artefacts."""
    yield from project_tasks()


def task_macs():
    """A table of the guests' hardware addresses, for an inventory."""
    return {
        # targets of kvm-compose's tasks: doit builds them first, and runs this task when they change
        "file_dep": DOMAINS,
        "targets": ["macs.csv"],
        "actions": [write_macs],
        "clean": True,
    }


def write_macs(dependencies, targets):
    with Path(targets[0]).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["domain", "mac"])
        for path in sorted(dependencies):
            domain = ET.parse(path).getroot()
            for mac in domain.iterfind("devices/interface/mac"):
                table.writerow([domain.findtext("name"), mac.get("address")])
