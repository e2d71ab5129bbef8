"""The ``kvm-compose`` command: one module per subcommand, found by its file name.

A module defines ``NAME``, ``HELP``, ``EXAMPLE``, optionally ``ALIASES``, and the functions
``configure(parser)`` and ``run(arguments, console) -> exit status``. What ``run`` needs of the packages
below is imported there: ``--help`` imports every module here, and must not wait for theirs.
"""
