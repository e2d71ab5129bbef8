#!/bin/bash
# Runs once, on the golden image: put slow steps here, as they then run once for all clones.
set -euo pipefail

apt-get update
xargs apt-get install --yes --no-install-recommends </etc/nocloud/context/packages.txt
