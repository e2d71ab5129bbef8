#!/bin/bash
# Runs on the client each time that it has started: fetches a page from the server, whose name the testbed's
# DNS resolves.
set -euo pipefail

read -r url </etc/nocloud/context/url
python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())' "$url"
