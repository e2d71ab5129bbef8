"""What reaches what in a testbed, answered before anything runs.

``judge`` asks an oracle about every line of ``expect`` and every pair of guests. There is one oracle for each
way in which a dialect describes its network: ``connectivity`` for bridges, ``oracle`` for rows of OVN's
northbound database, which it loads into a throw-away OVN (``throwaway``).
"""
