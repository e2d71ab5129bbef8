#!/usr/bin/env python3
"""Write a testbed of many guests to standard output.

    ./write_testbed.py --guests 200 --bridges 8 >kvm-compose.yaml

For a regular testbed use a program: YAML has no loops, and needs none.
"""

import argparse

HEADER = """\
# yaml-language-server: $schema=../kvm-compose.schema.json
# written by write_testbed.py: change that, not this

machines:"""

MACHINE = """\
  - name: guest-{number:0{digits}}
    interfaces:
      - bridge: br{bridge}
    libvirt:
      cpus: 1
      memory_mb: 256
      libvirt_type:
        cloud_image:
          name: debian_12"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a testbed of many guests to standard output.")
    parser.add_argument("--guests", type=int, default=20, metavar="N")
    parser.add_argument("--bridges", type=int, default=4, metavar="M", help="the bridges form a line")
    arguments = parser.parse_args()

    digits = len(str(arguments.guests - 1))
    print(HEADER)
    for number in range(arguments.guests):
        print(MACHINE.format(number=number, digits=digits, bridge=number % arguments.bridges))
    print("\nnetwork:\n  bridges:")
    for bridge in range(arguments.bridges):
        print(f"    - name: br{bridge}")
    if arguments.bridges > 1:
        print("  bridge_connections:")
        for bridge in range(arguments.bridges - 1):
            print(f"    br{bridge}: br{bridge + 1}")
    print("  external_bridge: br0")


if __name__ == "__main__":
    main()
