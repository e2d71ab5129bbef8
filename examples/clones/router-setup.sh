#!/bin/bash
# Runs once on worker-2: forwards packets between the bridges.
set -euo pipefail

echo 'net.ipv4.ip_forward = 1' >/etc/sysctl.d/90-router.conf
sysctl --system
