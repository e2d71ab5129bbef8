"""``kvm-compose schema``: prints the JSON Schema of the YAML, for editors."""

from __future__ import annotations

import argparse

from kvmcompose.monitor.console import Console

NAME = "schema"
HELP = "print the JSON Schema of kvm-compose.yaml (or of the config, plan, check and test --json)"
EXAMPLE = """\
examples:
  kvm-compose schema > kvm-compose.schema.json
  kvm-compose schema --of config

Editors with yaml-language-server use it if kvm-compose.yaml contains this line:
  # yaml-language-server: $schema=kvm-compose.schema.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--of",
        choices=("testbed", "config", "plan", "check", "test"),
        default="testbed",
        help="kvm-compose.yaml, the config, or what --json of a command prints (default: testbed)",
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the schema."""
    if arguments.of in ("plan", "check", "test"):
        import msgspec

        from kvmcompose.core.checked import CheckDocument
        from kvmcompose.core.planned import PlanDocument
        from kvmcompose.core.tested import TestDocument

        documents = {"plan": PlanDocument, "check": CheckDocument, "test": TestDocument}
        console.json(msgspec.json.schema(documents[arguments.of]))
        return 0
    from kvmcompose.effects.resources import schemas
    from kvmcompose.pipeline.schemas import complete_schema

    console.json(complete_schema(schemas()) if arguments.of == "testbed" else schemas().config())
    return 0
