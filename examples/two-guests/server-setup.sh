#!/bin/bash
# Runs once on the server: a web page that greets, served again after every boot.
set -euo pipefail

. /etc/nocloud/environment

mkdir -p /srv/www
printf '%s\n' "$GREETING" >/srv/www/index.html
cat >/etc/systemd/system/greeting.service <<UNIT
[Service]
ExecStart=/usr/bin/python3 -m http.server --directory /srv/www $PORT

[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --now greeting.service
