#!/bin/bash
# Runs once on worker-0 and worker-1: starts an iperf3 server at every boot.
set -euo pipefail

cat >/etc/systemd/system/iperf3.service <<'UNIT'
[Service]
ExecStart=/usr/bin/iperf3 --server

[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --now iperf3.service
