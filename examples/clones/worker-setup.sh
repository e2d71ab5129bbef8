#!/bin/bash
# Runs once on worker-0 and worker-1: an iperf3 server from every boot on.
set -euo pipefail

cat >/etc/systemd/system/iperf3.service <<'UNIT'
[Service]
ExecStart=/usr/bin/iperf3 --server

[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --now iperf3.service
