"""The ``kvm-compose`` command: one module per subcommand, found by its file name.

A module offers ``NAME``, ``HELP``, ``EXAMPLE``, optionally ``ALIASES``, and the functions
``configure(parser)`` and ``run(arguments, console) -> exit status``.
"""
