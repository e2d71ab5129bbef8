"""``python -m kvmcompose``: the same as the ``kvm-compose`` script."""

import os
import sys

# Python puts the current folder first: a json.py of a lab would be imported in the place of Python's own.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
    del sys.path[0]

from kvmcompose.cli._entry import main

sys.exit(main())
