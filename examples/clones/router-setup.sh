#!/bin/bash
# Runs once on worker-2: packets may pass from one bridge to the other.
set -euo pipefail

echo 'net.ipv4.ip_forward = 1' >/etc/sysctl.d/90-router.conf
sysctl --system
