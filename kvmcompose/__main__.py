"""``python -m kvmcompose``: the same as the ``kvm-compose`` script."""

import sys

from kvmcompose.cli._entry import main

sys.exit(main())
