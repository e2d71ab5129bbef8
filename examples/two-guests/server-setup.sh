#!/bin/bash
# Runs once on the server: serves a greeting as a web page, from every boot on.
set -euo pipefail

greeting=$(/etc/nocloud/env.sh GREETING)
port=$(/etc/nocloud/env.sh PORT)

mkdir -p /srv/www
printf '%s\n' "$greeting" >/srv/www/index.html
cat >/etc/systemd/system/greeting.service <<UNIT
[Service]
ExecStart=/usr/bin/python3 -m http.server --directory /srv/www $port

[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --now greeting.service
