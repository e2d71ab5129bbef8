#!/bin/bash
# Runs once in the guest `server`, as root, when it is first set up.
set -euo pipefail

greeting=$(/etc/nocloud/env.sh GREETING)

echo "$greeting from $(hostname)" >/etc/motd
