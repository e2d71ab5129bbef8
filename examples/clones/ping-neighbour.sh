#!/bin/bash
# Runs on worker-0 each time that it has started.
set -euo pipefail

ping -c 3 worker-1
