#!/bin/bash
# Runs once in the guest `server`, as root, when it is first set up.
set -euo pipefail

. /etc/nocloud/environment

echo "$GREETING from $(hostname)" >/etc/motd
