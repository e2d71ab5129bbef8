"""The place of ``kvmcompose.build`` in version 0.1; only what users' ``dodo.py`` files import is left."""
